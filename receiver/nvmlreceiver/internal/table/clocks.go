// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	clockFrequency   = newWith1(level, "hw.gpu.clock.frequency", (*builder).RecordHwGpuClockFrequencyDataPoint)
	clockLimit       = newWith1(level, "hw.gpu.clock.frequency.limit", (*builder).RecordHwGpuClockFrequencyLimitDataPoint)
	performanceState = newPlain(level, "hw.gpu.performance_state", (*builder).RecordHwGpuPerformanceStateDataPoint)
)

// maxClockMHz is beyond what any clock runs at: more is not a valid reading.
const maxClockMHz = 100_000

func clockRows() []Row {
	var rows []Row
	for _, domain := range [...]struct {
		name  string
		clock nvml.ClockDomain
		label metadata.AttributeHwGpuClock
	}{
		{"graphics", nvml.ClockGraphics, metadata.AttributeHwGpuClockGraphics},
		{"sm", nvml.ClockSM, metadata.AttributeHwGpuClockSm},
		{"memory", nvml.ClockMemory, metadata.AttributeHwGpuClockMemory},
		{"video", nvml.ClockVideo, metadata.AttributeHwGpuClockVideo},
	} {
		row := func(
			name, needs string, m with1[float64, metadata.AttributeHwGpuClock],
			ask func(nvml.Device, nvml.ClockDomain) (uint32, error),
		) Row {
			return Row{
				Name: name, Needs: needs, metrics: []*Metric{m.Metric},
				read: func(d nvml.Device, out *Output) error {
					mhz, err := ask(d, domain.clock)
					out.putIf(err == nil && mhz <= maxClockMHz, m.Of(float64(mhz)*1e6, domain.label))
					return err
				},
			}
		}
		rows = append(rows,
			row("clock."+domain.name, "nvmlDeviceGetClockInfo", clockFrequency, nvml.Device.Clock),
			row("clock."+domain.name+".limit", "nvmlDeviceGetMaxClockInfo", clockLimit, nvml.Device.MaxClock))
	}
	return append(rows, Row{
		Name: "performance_state", Needs: "nvmlDeviceGetPerformanceState", metrics: []*Metric{performanceState.Metric},
		read: func(d nvml.Device, out *Output) error {
			p, err := d.PerformanceState()
			out.putIf(err == nil && p <= 15, performanceState.Of(int64(p))) // 32 is NVML's "unknown"
			return err
		},
	})
}
