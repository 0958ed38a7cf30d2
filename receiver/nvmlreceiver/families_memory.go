// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// memoryInfo asks for the memory with the reserve apart, or as older drivers tell it.
func memoryInfo(d nvml.Device) (m nvml.Memory, reserveApart bool, err error) {
	m, err = d.MemoryInfo()
	if kind := nvml.KindOf(err); kind == nvml.Missing || kind == nvml.NotSupported {
		m, err = d.MemoryInfoV1()
		return m, false, err
	}
	return m, true, err
}

func memoryFamilies() []family {
	return []family{{
		name: "memory", needs: "nvmlDeviceGetMemoryInfo_v2|nvmlDeviceGetMemoryInfo", divided: true,
		metrics: []metric{
			{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryLimit.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryLimitDataPoint(ts, s.integer, c.id, c.name)
				},
			},
			{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryUsage.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryUsageDataPoint(ts, s.integer, c.id, c.name)
				},
			},
			{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryUtilization.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryUtilizationDataPoint(ts, s.float, c.id, c.name)
				},
			},
			{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryReserved.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryReservedDataPoint(ts, s.integer, c.id, c.name)
				},
			},
		},
		read: func(d nvml.Device, out *sheet) error {
			m, reserveApart, err := memoryInfo(d)
			if err != nil || m.Total > 1<<50 || m.Used > m.Total || m.Reserved >= m.Total {
				return err
			}
			out.int(0, 0, int64(m.Total))
			out.int(1, 0, int64(m.Used))
			out.float(2, 0, float64(m.Used)/float64(m.Total-m.Reserved))
			if reserveApart {
				out.int(3, 0, int64(m.Reserved))
			}
			return nil
		},
	}, {
		name: "bar1", needs: "nvmlDeviceGetBAR1MemoryInfo",
		metrics: []metric{
			{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuBar1Limit.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuBar1LimitDataPoint(ts, s.integer, c.id, c.name)
				},
			},
			{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuBar1Usage.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuBar1UsageDataPoint(ts, s.integer, c.id, c.name)
				},
			},
		},
		read: func(d nvml.Device, out *sheet) error {
			m, err := d.BAR1MemoryInfo()
			if err == nil && m.Total < 1<<50 && m.Used <= m.Total {
				out.int(0, 0, int64(m.Total))
				out.int(1, 0, int64(m.Used))
			}
			return err
		},
	}}
}
