// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// fastest is beyond what any clock runs at, in MHz; more is no reading.
const fastest = 100_000

func clockFamilies() []family {
	var rows []family
	for _, domain := range []struct {
		name      string
		clock     nvml.ClockDomain
		attribute metadata.AttributeHwGpuClock
	}{
		{"graphics", nvml.ClockGraphics, metadata.AttributeHwGpuClockGraphics},
		{"sm", nvml.ClockSM, metadata.AttributeHwGpuClockSm},
		{"memory", nvml.ClockMemory, metadata.AttributeHwGpuClockMemory},
		{"video", nvml.ClockVideo, metadata.AttributeHwGpuClockVideo},
	} {
		rows = append(rows,
			clockRow("clock."+domain.name, "nvmlDeviceGetClockInfo", domain.clock, domain.attribute, clock, nvml.Device.Clock),
			clockRow("clock."+domain.name+".limit", "nvmlDeviceGetMaxClockInfo", domain.clock, domain.attribute, clockLimit, nvml.Device.MaxClock))
	}
	return append(rows, family{
		name: "performance_state", needs: "nvmlDeviceGetPerformanceState",
		metrics: []metric{{
			func(c *metadata.MetricsConfig) bool { return c.HwGpuPerformanceState.Enabled },
			func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
				mb.RecordHwGpuPerformanceStateDataPoint(ts, s.integer, c.id, c.name)
			},
		}},
		read: func(d nvml.Device, out *sheet) error {
			p, err := d.PerformanceState()
			if err == nil && p <= 15 { // 32 is NVML's "unknown"
				out.int(0, 0, int64(p))
			}
			return err
		},
	})
}

var clock = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuClockFrequency.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuClockFrequencyDataPoint(ts, s.float, metadata.AttributeHwGpuClock(s.attribute), c.id, c.name)
	},
}

var clockLimit = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuClockFrequencyLimit.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuClockFrequencyLimitDataPoint(ts, s.float, metadata.AttributeHwGpuClock(s.attribute), c.id, c.name)
	},
}

func clockRow(name, needs string, domain nvml.ClockDomain, attribute metadata.AttributeHwGpuClock, m metric, ask func(nvml.Device, nvml.ClockDomain) (uint32, error)) family {
	return family{
		name: name, needs: needs, metrics: []metric{m},
		read: func(d nvml.Device, out *sheet) error {
			mhz, err := ask(d, domain)
			if err == nil && mhz <= fastest {
				out.float(0, int(attribute), float64(mhz)*1e6)
			}
			return err
		},
	}
}
