// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// peakFamilies hand over what the sampler saw since the last scrape.
func peakFamilies() []family {
	return []family{
		{
			name: "peaks.memory", needs: "nvmlDeviceGetMemoryInfo_v2|nvmlDeviceGetMemoryInfo", sampled: true, divided: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryUsageMax.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryUsageMaxDataPoint(ts, s.integer, c.id, c.name)
				},
			}},
			read: func(_ nvml.Device, out *sheet) error {
				if out.window.memorySeen {
					out.int(0, 0, int64(out.window.memoryMax))
				}
				return nil
			},
		},
		{
			name: "peaks.utilization", needs: "nvmlDeviceGetSamples|nvmlDeviceGetUtilizationRates", sampled: true,
			metrics: []metric{
				{
					func(c *metadata.MetricsConfig) bool { return c.HwGpuUtilizationMax.Enabled },
					func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
						mb.RecordHwGpuUtilizationMaxDataPoint(ts, s.float, metadata.AttributeHwGpuSampledTask(s.attribute), c.id, c.name)
					},
				},
				{
					func(c *metadata.MetricsConfig) bool { return c.HwGpuUtilizationMean.Enabled },
					func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
						mb.RecordHwGpuUtilizationMeanDataPoint(ts, s.float, metadata.AttributeHwGpuSampledTask(s.attribute), c.id, c.name)
					},
				},
				{
					func(c *metadata.MetricsConfig) bool { return c.HwGpuActiveTime.Enabled },
					func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
						mb.RecordHwGpuActiveTimeDataPoint(ts, s.float, metadata.AttributeHwGpuSampledTask(s.attribute), c.id, c.name)
					},
				},
			},
			read: func(_ nvml.Device, out *sheet) error {
				for i := range out.window.engines {
					e := &out.window.engines[i]
					if e.off || e.last == 0 {
						continue
					}
					attribute := int(sampled[i].attribute)
					if e.seen > 0 {
						out.float(0, attribute, e.max)
						out.float(1, attribute, e.integral/e.seen)
					}
					out.float(2, attribute, e.active)
				}
				return nil
			},
		},
	}
}
