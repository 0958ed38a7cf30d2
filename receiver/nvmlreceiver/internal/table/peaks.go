// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	memoryPeak      = newPlain(level, "hw.gpu.memory.usage.max", (*builder).RecordHwGpuMemoryUsageMaxDataPoint)
	utilizationPeak = newWith1(level, "hw.gpu.utilization.max", (*builder).RecordHwGpuUtilizationMaxDataPoint)
	utilizationMean = newWith1(level, "hw.gpu.utilization.mean", (*builder).RecordHwGpuUtilizationMeanDataPoint)
	activeTime      = newWith1(counter, "hw.gpu.active.time", (*builder).RecordHwGpuActiveTimeDataPoint)
)

// peakRows report what the sampler observed since the last scrape.
func peakRows() []Row {
	return []Row{
		{
			Name: "peaks.memory", Sampled: true, MIG: true, metrics: []*Metric{memoryPeak.Metric},
			read: func(d nvml.Device, out *Output) error {
				if out.Peaks.memoryAt != out.Now { // it is not read for hw.gpu.memory.usage
					out.Peaks.SampleMemory(d)
				}
				out.putIf(out.Peaks.memorySeen, memoryPeak.Of(int64(out.Peaks.memoryMax)))
				return nil
			},
		},
		{
			Name: "peaks.utilization", Sampled: true,
			metrics: []*Metric{utilizationPeak.Metric, utilizationMean.Metric, activeTime.Metric},
			read: func(_ nvml.Device, out *Output) error {
				for i := range out.Peaks.engines {
					e, task := &out.Peaks.engines[i], sampledEngines[i].task
					if e.disabled || e.last == 0 {
						continue
					}
					out.putIf(e.seen > 0, utilizationPeak.Of(e.max, task))
					out.putIf(e.seen > 0, utilizationMean.Of(e.integral/e.seen, task))
					out.put(activeTime.Of(e.active, task))
				}
				return nil
			},
		},
	}
}

const (
	// bufferInterval is how far the first reading of the driver's sample buffers goes back.
	bufferInterval = time.Second
	// maxPeriod is beyond any sampling period of a driver: a longer step between two
	// samples is a gap, and counts neither as active nor as idle.
	maxPeriod = 2 * time.Second
)

// sampledEngines are the parts of a GPU whose samples the driver keeps.
var sampledEngines = [...]struct {
	engine nvml.SampledEngine
	task   metadata.AttributeHwGpuSampledTask
	// interval is how often the buffer is read: it holds the last 10 s at least.
	interval time.Duration
}{
	{nvml.SampledGeneral, metadata.AttributeHwGpuSampledTaskGeneral, 2 * time.Second},
	{nvml.SampledEncoder, metadata.AttributeHwGpuSampledTaskEncoder, 8 * time.Second},
	{nvml.SampledDecoder, metadata.AttributeHwGpuSampledTaskDecoder, 8 * time.Second},
}

// Peaks is what the sampler observed of one device since its last scrape, and the
// counters that it keeps up to date.
type Peaks struct {
	memoryMax  uint64
	memorySeen bool
	memoryAt   time.Time // the pass that has observed it
	engines    [len(sampledEngines)]peakWindow
	scratch    []nvml.UtilizationSample
	energy     energyMeter
	pcie       pcieCounters
}

// peakWindow is what was observed of one part of the GPU.
type peakWindow struct {
	last   uint64  // end of the newest sample, in µs of the wall clock
	active float64 // s, since the receiver's first sample
	// Since the last scrape: the largest sample, the integral, and the time covered.
	max, integral, seen float64
	// polled: the driver keeps no samples, and the present value is polled instead.
	// disabled: it cannot be polled either.
	polled, disabled bool
	drained          time.Time // when the driver's buffer was last read
}

func (e *peakWindow) add(at uint64, percent float64) {
	share := percent / 100
	e.max = max(e.max, share)
	if e.last != 0 && at > e.last {
		if step := time.Duration(at-e.last) * time.Microsecond; step <= maxPeriod {
			e.active += share * step.Seconds()
			e.integral += share * step.Seconds()
			e.seen += step.Seconds()
		}
	}
	e.last = max(e.last, at)
}

// Sample reads the GPU at an index once, without its memory. The driver's buffers are read
// at their intervals, or if drain is true.
func (p *Peaks) Sample(d nvml.Device, now time.Time, index int, drain bool) {
	if p.energy.integrates {
		_ = p.energy.add(d, now) // the next scrape reports the error
	}
	if p.pcie.short {
		_ = p.pcie.read(d)
	}
	for i := range p.engines {
		e := &p.engines[i]
		switch {
		case e.disabled:
		case e.polled:
			e.poll(d, now)
		case drain || e.isDue(now, i, index):
			e.drained = now
			p.drain(d, i, now)
		}
	}
}

// isDue reports whether the buffer of an engine is to be read: that of the general
// utilisation at the same time as receivers that follow work read it.
func (e *peakWindow) isDue(now time.Time, engine, index int) bool {
	interval := sampledEngines[engine].interval
	if sampledEngines[engine].engine == nvml.SampledGeneral {
		return Crossed(e.drained, now, interval, index)
	}
	return now.Sub(e.drained) >= interval || now.Before(e.drained)
}

// SampleMemory reads the memory, which is all that MIG devices have. ok is false if there is
// no valid answer.
func (p *Peaks) SampleMemory(d nvml.Device) (used uint64, ok bool) {
	m, _, _, err := d.SharedMemory()
	if ok = err == nil && m.Used <= m.Total && m.Total < maxMemoryBytes; ok {
		p.observeMemory(m.Used)
	}
	return m.Used, ok
}

func (p *Peaks) observeMemory(used uint64) {
	p.memoryMax = max(p.memoryMax, used)
	p.memorySeen = true
}

// Relearn forgets what the GPU supports, after it came back.
func (p *Peaks) Relearn() {
	p.energy.integrates, p.energy.at = false, time.Time{}
	p.pcie = pcieCounters{}
	for i := range p.engines {
		e := &p.engines[i]
		e.polled, e.disabled, e.last = false, false, 0
	}
}

// drain adds the driver's samples since the last ones.
func (p *Peaks) drain(d nvml.Device, i int, now time.Time) {
	e, engine := &p.engines[i], sampledEngines[i].engine
	since := e.last
	if since > uint64(now.Add(maxPeriod).UnixMicro()) {
		since, e.last = 0, 0 // the clock was set back
	}
	if since == 0 { // samples from before the receiver's start do not count
		since = uint64(now.Add(-bufferInterval).UnixMicro())
	}
	var err error
	p.scratch, err = d.SharedSamples(engine, since, p.scratch[:0])
	if nvml.IsUnsupported(err) {
		// The general utilisation can be polled; the engines' is in hw.gpu.utilization.
		e.polled, e.disabled = engine == nvml.SampledGeneral, engine != nvml.SampledGeneral
		return
	}
	if err != nil {
		return
	}
	for _, s := range p.scratch {
		e.add(s.At, s.Percent)
	}
}

func (e *peakWindow) poll(d nvml.Device, now time.Time) {
	u, err := d.UtilizationRates()
	switch {
	case nvml.IsUnsupported(err):
		e.polled, e.disabled = false, true // a GPU with MIG on
	case err == nil && u.Gpu <= 100:
		e.add(uint64(now.UnixMicro()), float64(u.Gpu))
	}
}

// Reset begins the time to the next scrape.
func (p *Peaks) Reset() {
	p.memoryMax, p.memorySeen = 0, false
	for i := range p.engines {
		e := &p.engines[i]
		e.max, e.integral, e.seen = 0, 0, 0
	}
}
