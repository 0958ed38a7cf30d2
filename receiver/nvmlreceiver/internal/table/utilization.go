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
			Name: "utilization", Status: true, pace: utilizationPace,
			metrics: []*Metric{utilization.Metric, bandwidthUtilization.Metric},
			read: func(d nvml.Device, out *Output) error {
				if out.Paced && !out.noSamples {
					if err := readSampledUtilization(d, out); !nvml.IsUnsupported(err) {
						return err
					}
					out.noSamples = true
				}
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
	row := single("utilization."+task.String(), ask, 0, 100,
		func(percent uint32) Sample { return utilization.Of(float64(percent)/100, task) })
	row.PlainOnly = true
	return row
}

// readSampledUtilization puts the driver's own samples, each with the time of its end: a
// receiver that follows work gets more of them than it could ask for.
func readSampledUtilization(d nvml.Device, out *Output) error {
	limit := uint64(out.Now.Add(maxPeriod).UnixMicro())
	if out.utilSince == 0 || out.utilSince > limit { // at first, or the clock was set back
		out.utilSince = uint64(out.Now.Add(-bufferInterval).UnixMicro())
	}
	samples, err := d.SharedSamples(nvml.SampledGeneral, out.utilSince, out.Peaks.scratch[:0])
	out.Peaks.scratch = samples
	if err != nil {
		return err
	}
	for i := range samples {
		s := utilization.Of(samples[i].Percent/100, metadata.AttributeHwGpuTaskGeneral)
		s.At = int64(samples[i].At) * 1000
		out.putIf(samples[i].At <= limit, s)
		out.utilSince = max(out.utilSince, samples[i].At)
	}
	if len(samples) == 0 {
		return ErrNotDue // the driver has no new one
	}
	return nil
}
