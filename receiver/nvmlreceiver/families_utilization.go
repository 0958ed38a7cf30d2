// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var utilization = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuUtilization.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuUtilizationDataPoint(ts, s.float, metadata.AttributeHwGpuTask(s.attribute), c.id, c.name)
	},
}

func utilizationFamilies() []family {
	return []family{
		{
			name:   "utilization",
			needs:  "nvmlDeviceGetUtilizationRates",
			status: true,
			metrics: []metric{utilization, {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryBandwidthUtilization.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryBandwidthUtilizationDataPoint(ts, s.float, c.id, c.name)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				u, err := d.UtilizationRates()
				if err != nil {
					return err
				}
				out.percent(0, int(metadata.AttributeHwGpuTaskGeneral), u.Gpu)
				out.percent(1, 0, u.Memory)
				out.health.busy = u.Gpu >= busyPercent && u.Gpu <= 100
				return nil
			},
		},
		engine("encoder", "nvmlDeviceGetEncoderUtilization", metadata.AttributeHwGpuTaskEncoder, nvml.Device.EncoderUtilization),
		engine("decoder", "nvmlDeviceGetDecoderUtilization", metadata.AttributeHwGpuTaskDecoder, nvml.Device.DecoderUtilization),
		engine("jpeg", "nvmlDeviceGetJpgUtilization", metadata.AttributeHwGpuTaskJpeg, nvml.Device.JpegUtilization),
		engine("ofa", "nvmlDeviceGetOfaUtilization", metadata.AttributeHwGpuTaskOfa, nvml.Device.OfaUtilization),
	}
}

// engine is the row of one of the engines beside the general one.
func engine(name, needs string, task metadata.AttributeHwGpuTask, ask func(nvml.Device) (uint32, error)) family {
	return family{
		name: "utilization." + name, needs: needs, metrics: []metric{utilization},
		read: func(d nvml.Device, out *sheet) error {
			u, err := ask(d)
			if err == nil {
				out.percent(0, int(task), u)
			}
			return err
		},
	}
}
