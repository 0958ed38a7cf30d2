// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	utilization          = newWith1(level, "hw.gpu.utilization", (*builder).RecordHwGpuUtilizationDataPoint)
	bandwidthUtilization = newPlain(level, "hw.gpu.memory.bandwidth.utilization", (*builder).RecordHwGpuMemoryBandwidthUtilizationDataPoint)
)

// busyPercent is the utilisation from which a GPU counts as under load.
const busyPercent = 50

func utilizationRows() []Row {
	return []Row{
		{
			Name: "utilization", Status: true,
			metrics: []*Metric{utilization.Metric, bandwidthUtilization.Metric},
			read: func(d nvml.Device, out *Output) error {
				u, err := d.UtilizationRates()
				if err != nil {
					return err
				}
				out.putIf(u.Gpu <= 100, utilization.Of(float64(u.Gpu)/100, metadata.AttributeHwGpuTaskGeneral))
				out.putIf(u.Memory <= 100, bandwidthUtilization.Of(float64(u.Memory)/100))
				out.Health.Busy = u.Gpu >= busyPercent && u.Gpu <= 100
				return nil
			},
		},
		engineRow(metadata.AttributeHwGpuTaskEncoder, nvml.Device.EncoderUtilization),
		engineRow(metadata.AttributeHwGpuTaskDecoder, nvml.Device.DecoderUtilization),
		engineRow(metadata.AttributeHwGpuTaskJpeg, nvml.Device.JpegUtilization),
		engineRow(metadata.AttributeHwGpuTaskOfa, nvml.Device.OfaUtilization),
	}
}

func engineRow(task metadata.AttributeHwGpuTask, ask func(nvml.Device) (uint32, error)) Row {
	return single("utilization."+task.String(), ask, 0, 100,
		func(percent uint32) Sample { return utilization.Of(float64(percent)/100, task) })
}
