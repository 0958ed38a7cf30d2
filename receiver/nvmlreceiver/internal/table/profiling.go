// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	engineActive = newPlain(level, "hw.gpu.engine.active", (*builder).RecordHwGpuEngineActiveDataPoint)
	smActive     = newPlain(level, "hw.gpu.sm.active", (*builder).RecordHwGpuSmActiveDataPoint)
	smOccupancy  = newPlain(level, "hw.gpu.sm.occupancy", (*builder).RecordHwGpuSmOccupancyDataPoint)
	pipeActive   = newWith1(level, "hw.gpu.pipe.active", (*builder).RecordHwGpuPipeActiveDataPoint)
	memoryActive = newPlain(level, "hw.gpu.memory.active", (*builder).RecordHwGpuMemoryActiveDataPoint)
	ioRate       = newWith3(level, "hw.gpu.io.rate",
		func(mb *builder, ts timestamp, v float64, link metadata.AttributeHwGpuIoLink, d direction, _ noAttribute, id, name string) {
			mb.RecordHwGpuIoRateDataPoint(ts, v, link, id, name, d)
		})
)

const (
	mebibyte = 1 << 20
	// maxLinkMiB bounds data rates: more than 100 TiB/s is not a valid reading.
	maxLinkMiB = 100 * mebibyte
)

// profiled are the counters that are asked for, as nvmlGpmMetricId_t, with their series:
// shares come in percent, rates in MiB/s.
var profiled = [...]struct {
	counter nvml.GPMMetric
	series  Series
}{
	{nvml.GPMGraphics, engineActive.Of(0).Series},
	{nvml.GPMSMActive, smActive.Of(0).Series},
	{nvml.GPMSMOccupancy, smOccupancy.Of(0).Series},
	{nvml.GPMTensor, pipeActive.Of(0, metadata.AttributeHwGpuPipeTensor).Series},
	{nvml.GPMFP64, pipeActive.Of(0, metadata.AttributeHwGpuPipeFp64).Series},
	{nvml.GPMFP32, pipeActive.Of(0, metadata.AttributeHwGpuPipeFp32).Series},
	{nvml.GPMFP16, pipeActive.Of(0, metadata.AttributeHwGpuPipeFp16).Series},
	{nvml.GPMInteger, pipeActive.Of(0, metadata.AttributeHwGpuPipeInteger).Series},
	{nvml.GPMDRAM, memoryActive.Of(0).Series},
	{nvml.GPMPCIeTx, ioRate.of(0, metadata.AttributeHwGpuIoLinkPcie, transmit, 0).Series},
	{nvml.GPMPCIeRx, ioRate.of(0, metadata.AttributeHwGpuIoLinkPcie, receive, 0).Series},
	{nvml.GPMNVLinkTx, ioRate.of(0, metadata.AttributeHwGpuIoLinkNvlink, transmit, 0).Series},
	{nvml.GPMNVLinkRx, ioRate.of(0, metadata.AttributeHwGpuIoLinkNvlink, receive, 0).Series},
}

var profilingCounters = func() (counters [len(profiled)]nvml.GPMMetric) {
	for i := range profiled {
		counters[i] = profiled[i].counter
	}
	return counters
}()

// profilingRows are the GPM counters: averages between two scrapes, so that the first
// one has none.
func profilingRows() []Row {
	return []Row{{
		Name: "profiling", MIG: true,
		metrics: []*Metric{
			engineActive.Metric, smActive.Metric, smOccupancy.Metric,
			pipeActive.Metric, memoryActive.Metric, ioRate.Metric,
		},
		read: readProfiling,
	}}
}

func readProfiling(_ nvml.Device, out *Output) error {
	var instance *nvml.MIGInstance
	if out.Instance != nil {
		if out.Instance.SharesInstance {
			// The counters are the GPU instance's, not those of one of its MIG devices.
			return nvml.ErrNotSupported("nvmlGpmMigSampleGet")
		}
		instance = out.Instance.MIGInstance
	}
	if out.gpm == nil {
		gpm, err := out.GPU.NewGPM()
		if err != nil {
			return err
		}
		out.gpm = gpm
	}
	if err := out.gpm.Sample(out.GPU, instance); err != nil {
		return err
	}
	values, err := out.gpm.Values(profilingCounters[:], out.values[:0])
	out.values = values
	for i := range values {
		s, v := Sample{Series: profiled[i].series}, values[i].Value
		limit := 100.0
		s.float = v / 100
		if s.Metric == ioRate.Metric {
			limit, s.float = maxLinkMiB, v*mebibyte
		}
		out.putIf(values[i].OK && v >= 0 && v <= limit, s)
	}
	return err
}
