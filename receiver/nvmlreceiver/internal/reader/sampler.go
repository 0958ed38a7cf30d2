// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package reader

import (
	"sync"
	"sync/atomic"
	"time"
)

// Sampler has every healthy GPU sampled between the passes. A GPU that is unresponsive,
// or whose last sample is still under way, is left out.
type Sampler struct {
	interval time.Duration
	readers  atomic.Pointer[[]*Reader]
	stop     chan struct{}
	wg       sync.WaitGroup
}

// StartSampler starts a sampler without GPUs.
func StartSampler(interval time.Duration) *Sampler {
	s := &Sampler{interval: interval, stop: make(chan struct{})}
	s.wg.Go(s.run)
	return s
}

// Follow replaces the GPUs that are sampled.
func (s *Sampler) Follow(readers []*Reader) { s.readers.Store(&readers) }

// Stop ends the sampler. It does not wait for samples under way.
func (s *Sampler) Stop() {
	close(s.stop)
	s.wg.Wait()
}

func (s *Sampler) run() {
	timer := time.NewTimer(UntilGrid(time.Now(), s.interval))
	defer timer.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-timer.C:
		}
		timer.Reset(UntilGrid(time.Now(), s.interval))
		if readers := s.readers.Load(); readers != nil {
			for _, r := range *readers {
				r.queueSample()
			}
		}
	}
}

// UntilGrid is the time until the next moment of the grid that all receivers with an interval
// read at, so that they share their readings.
func UntilGrid(now time.Time, interval time.Duration) time.Duration {
	return now.Truncate(interval).Add(interval).Sub(now)
}
