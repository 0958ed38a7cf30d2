// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/reader"
)

// pacer tells a receiver that follows work when to scrape: at collection_interval while no
// GPU has work, at working_interval while one has, and at once when work begins.
type pacer struct {
	rest, working time.Duration
	// ticks are taken by the scraper's controller. One that finds it busy is dropped.
	ticks chan time.Time
	fast  atomic.Bool
	wake  chan struct{}
	stop  chan struct{}
	wg    sync.WaitGroup
}

func newPacer(cfg *Config) *pacer {
	return &pacer{
		rest: cfg.CollectionInterval, working: cfg.WorkingInterval,
		ticks: make(chan time.Time, 1), wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

// start begins to tick; close ends it.
func (p *pacer) start(work *gpuevents.Work) {
	cancel := work.Changes.Subscribe(func(c gpuevents.WorkChange) {
		if c.Open && !c.Ended {
			p.hurry()
		}
	})
	p.wg.Go(func() {
		defer cancel()
		p.run()
	})
}

func (p *pacer) close() {
	close(p.stop)
	p.wg.Wait()
}

// hurry makes the next tick come now.
func (p *pacer) hurry() {
	p.fast.Store(true)
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// set says whether a GPU has work.
func (p *pacer) set(working bool) { p.fast.Store(working) }

// interval is the present one.
func (p *pacer) interval() time.Duration {
	if p.fast.Load() {
		return p.working
	}
	return p.rest
}

func (p *pacer) run() {
	timer := time.NewTimer(reader.UntilGrid(time.Now(), p.interval()))
	defer timer.Stop()
	for {
		now := time.Time{}
		select {
		case <-p.stop:
			return
		case now = <-timer.C:
		case <-p.wake:
			now = time.Now()
		}
		select {
		case p.ticks <- now:
		default:
		}
		timer.Reset(reader.UntilGrid(time.Now(), p.interval()))
	}
}

// afterWork is how long a GPU is read often after its work has ended: its power falls
// meanwhile.
const afterWork = 500 * time.Millisecond

// watch is what the scrape knows of a GPU's work.
type watch struct {
	until time.Time // when it is no longer read often
	asked time.Time
	power restPower
}

// works reports whether the GPU has work, or had some a moment ago. Where no server says so,
// its power does.
func (w *watch) works(now time.Time, known bool, open int, watts float64) bool {
	if known && open > 0 || !known && w.power.isAbove(now, watts) {
		w.until = now.Add(afterWork)
	}
	return now.Before(w.until)
}

const (
	// restWindow is for how long the lowest power of a GPU counts as its power at rest.
	restWindow = 5 * time.Minute
	// aboveRest and aboveRestShare are by how much the power of a GPU that works is above it,
	// in W and as a share: more than the noise of a reading.
	aboveRest      = 20
	aboveRestShare = 0.25
)

// restPower learns a GPU's power at rest: the lowest within the last one or two windows.
type restPower struct {
	since         time.Time
	lowest, older float64
}

// isAbove adds a reading of the power, 0 if there is none, and reports whether it is above
// rest.
func (r *restPower) isAbove(now time.Time, watts float64) bool {
	if watts <= 0 {
		return false
	}
	switch {
	case r.since.IsZero() || now.Before(r.since):
		*r = restPower{since: now, lowest: watts, older: watts}
	case now.Sub(r.since) >= restWindow:
		*r = restPower{since: now, lowest: watts, older: r.lowest}
	default:
		r.lowest = min(r.lowest, watts)
	}
	rest := min(r.lowest, r.older)
	return watts > rest+max(aboveRest, rest*aboveRestShare)
}
