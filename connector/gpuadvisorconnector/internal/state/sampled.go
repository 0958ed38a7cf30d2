// SPDX-License-Identifier: Apache-2.0

package state

import (
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// reading is a GPU's memory in use, in bytes, at a time.
type reading struct {
	used int64
	at   time.Time
}

// sampled are the readings of samplers that the machine does not know yet. The samplers run in
// the GPUs' workers, which must not wait while a page is made: they have a lock of their own.
type sampled struct {
	mu sync.Mutex
	// newest and largest are those of each GPU since the last drain, guarded by mu.
	newest, largest map[string]reading
}

// maxSampled bounds the GPUs; what further ones read is left to the scrapes.
const maxSampled = 1024

// add keeps a reading.
func (s *sampled) add(gpu string, r reading) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		s.newest, s.largest = map[string]reading{}, map[string]reading{}
	}
	before, known := s.largest[gpu]
	if !known && len(s.newest) >= maxSampled {
		return
	}
	s.newest[gpu] = r
	if !known || r.used >= before.used {
		s.largest[gpu] = r
	}
}

// drain calls visit with the largest and the newest reading of each GPU, in the order of their
// times.
func (s *sampled) drain(visit func(gpu string, r reading)) {
	s.mu.Lock()
	newest, largest := s.newest, s.largest
	s.newest, s.largest = nil, nil
	s.mu.Unlock()
	for gpu, r := range largest {
		visit(gpu, r)
		if n := newest[gpu]; n != r {
			visit(gpu, n)
		}
	}
}

// Bounds implements [bounds.Registered].
func (s *sampled) Bounds() []bounds.Bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []bounds.Bound{
		{Name: "state.sampled.newest", Max: maxSampled, Size: len(s.newest)},
		{Name: "state.sampled.largest", Max: maxSampled, Size: len(s.largest)},
	}
}
