// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"sort"
	"sync"
	"time"
)

// MemoryHistory is what a service's memory was, exactly.
type MemoryHistory struct {
	mu     sync.Mutex
	states []memoryState
}

// memoryState is the memory from a time on, in bytes.
type memoryState struct {
	at           int64 // ns since the epoch
	active, held int64
}

// RememberMemory keeps what the service's memory is from now on.
func (s *Service) RememberMemory() *MemoryHistory {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.memory = &MemoryHistory{}
	s.remember()
	return s.memory
}

// remember adds the present to the history. The caller holds the lock.
func (s *Service) remember() {
	if h := s.memory; h != nil {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.states = append(h.states, memoryState{time.Now().UnixNano(), s.torch.active, s.worker.held * mib})
	}
}

// MemoryTruth is what one execution did to a service's memory.
type MemoryTruth struct {
	// Need is the most that live tensors used, in bytes; Lasts is for how long they used at
	// least 97 % of it.
	Need  int64
	Lasts time.Duration
	// HighWater is true if the process held more than ever before.
	HighWater bool
}

// Between is what happened between two times.
func (h *MemoryHistory) Between(from, to time.Time) (t MemoryTruth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, b := from.UnixNano(), to.UnixNano()
	first := max(sort.Search(len(h.states), func(i int) bool { return h.states[i].at > a })-1, 0)
	end := sort.Search(len(h.states), func(i int) bool { return h.states[i].at > b })
	before, held := int64(0), int64(0)
	for _, s := range h.states[:first+1] {
		before = max(before, s.held)
	}
	for _, s := range h.states[first:end] {
		t.Need, held = max(t.Need, s.active), max(held, s.held)
	}
	for i := first; i < end; i++ {
		until := b
		if i+1 < end {
			until = h.states[i+1].at
		}
		if float64(h.states[i].active) >= 0.97*float64(t.Need) {
			t.Lasts += time.Duration(until - max(h.states[i].at, a))
		}
	}
	t.HighWater = held > before
	return t
}

// Outside is what the process holds outside of PyTorch's allocator, in bytes: the CUDA context,
// and the weights that can be evicted.
func (s *Service) Outside() (context, elastic int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.context * mib, s.elastic
}
