// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"sort"
	"sync"
	"time"
)

// History is what a GPU did, exactly: what measurements are compared with.
type History struct {
	mu     sync.Mutex
	states []state
}

// state is what a GPU does from a time on.
type state struct {
	at        int64 // ns since the epoch
	memory    int64 // By
	held      int64 // By, of it by processes
	watts     float64
	gpu       float64
	throttled bool
}

func (h *History) add(s state) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.states = append(h.states, s)
}

// Truth is what a GPU did in a time.
type Truth struct {
	Peak      int64   // By
	PeakHeld  int64   // By, of the processes alone
	Energy    float64 // J
	Busy      float64 // s, utilisation times time
	Throttled time.Duration
}

// Between is what the GPU did between two times. share, if given, is by how many the
// GPU was used at a time; energy and busy time are divided by it.
func (h *History) Between(from, to time.Time, share func(at int64) (n int, until int64)) (t Truth) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, b := from.UnixNano(), to.UnixNano()
	i := max(sort.Search(len(h.states), func(i int) bool { return h.states[i].at > a })-1, 0)
	for ; i < len(h.states) && h.states[i].at < b; i++ {
		s := h.states[i]
		end := b
		if i+1 < len(h.states) {
			end = min(end, h.states[i+1].at)
		}
		t.Peak, t.PeakHeld = max(t.Peak, s.memory), max(t.PeakHeld, s.held)
		for at := max(s.at, a); at < end; {
			n, until := 1, end
			if share != nil {
				n, until = share(at)
				until = min(until, end)
			}
			seconds := float64(until-at) / 1e9
			t.Energy += s.watts * seconds / float64(n)
			t.Busy += s.gpu * seconds / float64(n)
			if s.throttled {
				t.Throttled += time.Duration(until - at)
			}
			at = until
		}
	}
	return t
}
