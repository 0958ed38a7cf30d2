// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

const (
	// bufferInterval is how often the driver's sample buffers are emptied: they
	// hold the last 10 s at least.
	bufferInterval = time.Second
	// longestPeriod is beyond any sampling period of a driver: a longer step
	// between two samples is a gap, and is not counted as worked or idle.
	longestPeriod = 2 * time.Second
)

// sampled are the parts of a GPU whose samples the driver keeps.
var sampled = [...]struct {
	engine    nvml.SampledEngine
	attribute metadata.AttributeHwGpuSampledTask
}{
	{nvml.SampledGeneral, metadata.AttributeHwGpuSampledTaskGeneral},
	{nvml.SampledEncoder, metadata.AttributeHwGpuSampledTaskEncoder},
	{nvml.SampledDecoder, metadata.AttributeHwGpuSampledTaskDecoder},
}

// window is what the sampler saw of one GPU since its last scrape. Only the
// GPU's worker touches it.
type window struct {
	memoryMax  uint64
	memorySeen bool
	engines    [len(sampled)]engineWindow
	emptied    time.Time // when the driver's buffers were last read
	scratch    []nvml.UtilizationSample
	energy     energyWindow
	pcie       pcieWindow
}

// engineWindow is what was seen of one part of the GPU.
type engineWindow struct {
	last   uint64  // end of the newest sample, in µs of the wall clock
	active float64 // s, since the receiver began with the GPU
	// Since the last scrape: the largest, and the integral over the time seen.
	max, integral, seen float64
	// polled says that the driver keeps no samples of it, and its present value is polled.
	polled, off bool
}

// add takes one sample up.
func (e *engineWindow) add(at uint64, percent float64) {
	share := percent / 100
	e.max = max(e.max, share)
	if e.last != 0 && at > e.last {
		if step := time.Duration(at-e.last) * time.Microsecond; step <= longestPeriod {
			e.active += share * step.Seconds()
			e.integral += share * step.Seconds()
			e.seen += step.Seconds()
		}
	}
	e.last = max(e.last, at)
}

// take looks at the GPU once; it runs on the GPU's worker. The buffers are
// emptied only every bufferInterval, or if asked to.
func (w *window) take(d nvml.Device, now time.Time, empty bool) {
	w.takeMemory(d)
	if w.energy.integrated {
		_ = w.energy.take(d, now) // the next scrape tells the error
	}
	if w.pcie.short {
		_ = w.pcie.take(d)
	}
	empty = empty || now.Sub(w.emptied) >= bufferInterval
	if empty {
		w.emptied = now
	}
	for i := range w.engines {
		e := &w.engines[i]
		switch {
		case e.off:
		case e.polled:
			w.poll(d, e, now)
		case empty:
			w.drain(d, i, now)
		}
	}
}

func (w *window) takeMemory(d nvml.Device) {
	if m, _, err := memoryInfo(d); err == nil && m.Used <= m.Total && m.Total < 1<<50 {
		w.memoryMax = max(w.memoryMax, m.Used)
		w.memorySeen = true
	}
}

// again forgets what was learnt about the GPU before it came back.
func (w *window) anew() {
	w.energy.integrated, w.energy.at = false, time.Time{}
	w.pcie = pcieWindow{}
	for i := range w.engines {
		e := &w.engines[i]
		e.polled, e.off, e.last = false, false, 0
	}
}

// drain takes the driver's samples since the last ones.
func (w *window) drain(d nvml.Device, i int, now time.Time) {
	e := &w.engines[i]
	since := e.last
	if since > uint64(now.Add(longestPeriod).UnixMicro()) {
		since, e.last = 0, 0 // the clock was set back
	}
	if since == 0 { // what was before the receiver began is not its own
		since = uint64(now.Add(-bufferInterval).UnixMicro())
	}
	var err error
	w.scratch, err = d.UtilizationSamples(sampled[i].engine, since, w.scratch[:0])
	switch nvml.KindOf(err) {
	case nvml.NotSupported, nvml.Missing:
		// The general utilisation can be polled; the engines' is in hw.gpu.utilization.
		e.polled, e.off = sampled[i].engine == nvml.SampledGeneral, sampled[i].engine != nvml.SampledGeneral
		return
	}
	if err != nil {
		return
	}
	for _, s := range w.scratch {
		e.add(s.At, s.Percent)
	}
}

func (w *window) poll(d nvml.Device, e *engineWindow, now time.Time) {
	u, err := d.UtilizationRates()
	switch {
	case nvml.KindOf(err) == nvml.NotSupported && err != nil:
		e.polled, e.off = false, true // a GPU with MIG on
	case err == nil && u.Gpu <= 100:
		e.add(uint64(now.UnixMicro()), float64(u.Gpu))
	}
}

// reset begins the time to the next scrape.
func (w *window) reset() {
	w.memoryMax, w.memorySeen = 0, false
	for i := range w.engines {
		e := &w.engines[i]
		e.max, e.integral, e.seen = 0, 0, 0
	}
}

// sampler has every healthy GPU looked at between scrapes. A GPU that is
// late, or whose last look is still under way, is left alone.
type sampler struct {
	interval time.Duration
	gpus     atomic.Pointer[[]*gpu]
	stop     chan struct{}
	wg       sync.WaitGroup
}

func startSampler(interval time.Duration) *sampler {
	s := &sampler{interval: interval, stop: make(chan struct{})}
	s.wg.Go(s.run)
	return s
}

func (s *sampler) end() {
	close(s.stop)
	s.wg.Wait()
}

func (s *sampler) run() {
	ticker := time.NewTicker(s.interval)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-ticker.C:
		}
		gpus := s.gpus.Load()
		if gpus == nil {
			continue
		}
		for _, c := range *gpus {
			if c.samplable.Load() && c.sampling.CompareAndSwap(false, true) && !c.shared.Submit(c.look) {
				c.sampling.Store(false)
			}
		}
	}
}
