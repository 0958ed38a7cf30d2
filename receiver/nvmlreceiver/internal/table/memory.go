// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import "github.com/otelcol-gpu/otelcol-gpu/internal/nvml"

var (
	memoryLimit       = newPlain(level, "hw.gpu.memory.limit", (*builder).RecordHwGpuMemoryLimitDataPoint)
	memoryUsed        = newPlain(level, "hw.gpu.memory.usage", (*builder).RecordHwGpuMemoryUsageDataPoint)
	memoryUtilization = newPlain(level, "hw.gpu.memory.utilization", (*builder).RecordHwGpuMemoryUtilizationDataPoint)
	memoryFree        = newPlain(level, "hw.gpu.memory.free", (*builder).RecordHwGpuMemoryFreeDataPoint)
	memoryReserved    = newPlain(level, "hw.gpu.memory.reserved", (*builder).RecordHwGpuMemoryReservedDataPoint)
	bar1Limit         = newPlain(level, "hw.gpu.bar1.limit", (*builder).RecordHwGpuBar1LimitDataPoint)
	bar1Used          = newPlain(level, "hw.gpu.bar1.usage", (*builder).RecordHwGpuBar1UsageDataPoint)
)

// maxMemoryBytes is beyond the memory of any GPU: more is not a valid reading.
const maxMemoryBytes = 1 << 50

func memoryRows() []Row {
	return []Row{
		{
			Name: "memory", MIG: true, pace: memoryPace,
			metrics: []*Metric{memoryLimit.Metric, memoryUsed.Metric, memoryUtilization.Metric, memoryReserved.Metric, memoryFree.Metric},
			read: func(d nvml.Device, out *Output) error {
				m, withReserve, at, err := d.SharedMemory()
				out.At = at
				if err != nil || m.Total > maxMemoryBytes || m.Used > m.Total || m.Reserved >= m.Total {
					return err
				}
				out.Peaks.observeMemory(m.Used)
				out.Peaks.memoryAt = out.Now
				out.put(memoryLimit.Of(int64(m.Total)))
				out.put(memoryUsed.Of(int64(m.Used)))
				out.put(memoryUtilization.Of(float64(m.Used) / float64(m.Total-m.Reserved)))
				out.putIf(m.Free <= m.Total, memoryFree.Of(int64(m.Free)))
				out.putIf(withReserve, memoryReserved.Of(int64(m.Reserved)))
				return nil
			},
		},
		{
			Name: "bar1", Every: linkInterval, metrics: []*Metric{bar1Limit.Metric, bar1Used.Metric},
			read: func(d nvml.Device, out *Output) error {
				m, err := d.BAR1MemoryInfo()
				valid := err == nil && m.Total < maxMemoryBytes && m.Used <= m.Total
				out.putIf(valid, bar1Limit.Of(int64(m.Total)))
				out.putIf(valid, bar1Used.Of(int64(m.Used)))
				return err
			},
		},
	}
}
