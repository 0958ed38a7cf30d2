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

var clocks = [...]struct {
	domain nvml.ClockDomain
	label  metadata.AttributeHwGpuClock
}{
	{nvml.ClockGraphics, metadata.AttributeHwGpuClockGraphics},
	{nvml.ClockSM, metadata.AttributeHwGpuClockSm},
	{nvml.ClockMemory, metadata.AttributeHwGpuClockMemory},
	{nvml.ClockVideo, metadata.AttributeHwGpuClockVideo},
}

func clockRows() (rows []Row) {
	for _, c := range clocks {
		name := "clock." + c.label.String()
		rows = append(rows,
			single(name, func(d nvml.Device) (uint32, error) { return d.Clock(c.domain) }, 0, maxClockMHz,
				func(mhz uint32) Sample { return clockFrequency.Of(float64(mhz)*1e6, c.label) }),
			single(name+".limit", func(d nvml.Device) (uint32, error) { return d.MaxClock(c.domain) }, 0, maxClockMHz,
				func(mhz uint32) Sample { return clockLimit.Of(float64(mhz)*1e6, c.label) }).asLimit())
	}
	// 32 is NVML's "unknown".
	return append(rows, single("performance_state", nvml.Device.PerformanceState, 0, 15,
		func(p uint32) Sample { return performanceState.Of(int64(p)) }))
}
