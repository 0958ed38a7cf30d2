// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// Where a profiling counter is recorded: the metric's place in the row.
const (
	profilingEngine = iota
	profilingSM
	profilingOccupancy
	profilingPipe
	profilingMemory
	profilingRate
)

// ioRateReceive marks the direction in the attribute of hw.gpu.io.rate, beside the link.
const ioRateReceive = 1 << 8

// profiled are the counters that are asked for, as nvmlGpmMetricId_t.
var profiled = [...]struct {
	counter   nvml.GPMMetric
	metric    int
	attribute int
}{
	{nvml.GPMGraphics, profilingEngine, 0},
	{nvml.GPMSMActive, profilingSM, 0},
	{nvml.GPMSMOccupancy, profilingOccupancy, 0},
	{nvml.GPMTensor, profilingPipe, int(metadata.AttributeHwGpuPipeTensor)},
	{nvml.GPMFP64, profilingPipe, int(metadata.AttributeHwGpuPipeFp64)},
	{nvml.GPMFP32, profilingPipe, int(metadata.AttributeHwGpuPipeFp32)},
	{nvml.GPMFP16, profilingPipe, int(metadata.AttributeHwGpuPipeFp16)},
	{nvml.GPMInteger, profilingPipe, int(metadata.AttributeHwGpuPipeInteger)},
	{nvml.GPMDRAM, profilingMemory, 0},
	{nvml.GPMPCIeTx, profilingRate, int(metadata.AttributeHwGpuIoLinkPcie)},
	{nvml.GPMPCIeRx, profilingRate, int(metadata.AttributeHwGpuIoLinkPcie) | ioRateReceive},
	{nvml.GPMNVLinkTx, profilingRate, int(metadata.AttributeHwGpuIoLinkNvlink)},
	{nvml.GPMNVLinkRx, profilingRate, int(metadata.AttributeHwGpuIoLinkNvlink) | ioRateReceive},
}

var profilingCounters = func() (counters [len(profiled)]nvml.GPMMetric) {
	for i := range profiled {
		counters[i] = profiled[i].counter
	}
	return counters
}()

// mebibyte and fastestLink bound data rates: more than 100 TiB/s is no reading.
const (
	mebibyte    = 1 << 20
	fastestLink = 100 * mebibyte // MiB/s
)

// profilingFamilies are the GPM counters: averages between two scrapes, so
// that the first has none.
func profilingFamilies() []family {
	return []family{{
		name: "profiling", needs: "nvmlGpmMetricsGet", divided: true,
		metrics: []metric{
			profilingEngine: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuEngineActive.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuEngineActiveDataPoint(ts, s.float, c.id, c.name)
				},
			},
			profilingSM: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuSmActive.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuSmActiveDataPoint(ts, s.float, c.id, c.name)
				},
			},
			profilingOccupancy: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuSmOccupancy.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuSmOccupancyDataPoint(ts, s.float, c.id, c.name)
				},
			},
			profilingPipe: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuPipeActive.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuPipeActiveDataPoint(ts, s.float, metadata.AttributeHwGpuPipe(s.attribute), c.id, c.name)
				},
			},
			profilingMemory: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuMemoryActive.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuMemoryActiveDataPoint(ts, s.float, c.id, c.name)
				},
			},
			profilingRate: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuIoRate.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					direction := metadata.AttributeNetworkIoDirectionTransmit
					if s.attribute&ioRateReceive != 0 {
						direction = metadata.AttributeNetworkIoDirectionReceive
					}
					mb.RecordHwGpuIoRateDataPoint(ts, s.float, metadata.AttributeHwGpuIoLink(s.attribute&^ioRateReceive), c.id, c.name, direction)
				},
			},
		},
		read: readProfiling,
	}}
}

func readProfiling(_ nvml.Device, out *sheet) error {
	var on *nvml.MIGInstance
	if out.instance != nil {
		if out.instance.shared {
			// The counters are a GPU instance's: they belong to none of its MIG devices alone.
			return nvml.ErrNotSupported("nvmlGpmMigSampleGet")
		}
		on = out.instance.MIGInstance
	}
	if out.gpm == nil {
		gpm, err := out.gpu.NewGPM()
		if err != nil {
			return err
		}
		out.gpm = gpm
	}
	if err := out.gpm.Sample(out.gpu, on); err != nil {
		return err
	}
	values, err := out.gpm.Values(profilingCounters[:], out.values[:0])
	out.values = values
	for i := range values {
		p, v := &profiled[i], &values[i]
		switch {
		case !v.OK:
		case p.metric == profilingRate:
			if v.Value >= 0 && v.Value <= fastestLink {
				out.float(p.metric, p.attribute, v.Value*mebibyte)
			}
		case v.Value >= 0 && v.Value <= 100:
			out.float(p.metric, p.attribute, v.Value/100)
		}
	}
	return err
}
