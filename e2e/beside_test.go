// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"sync"
	"testing"
)

// places are how many tests of a kind run at the same time.
type places struct {
	mu   sync.Mutex
	free int
	// long counts the tests that are to begin before the others.
	long    int
	changed *sync.Cond
}

func newPlaces(n int) *places {
	p := &places{free: n}
	p.changed = sync.NewCond(&p.mu)
	return p
}

// Most of a run's time is waiting: for intervals, for a rule's `for`, for a store that comes
// back. Tests that wait run beside those that keep a core busy.
var (
	working = newPlaces(3)
	waiting = newPlaces(3)
)

// beside runs a test at the same time as others, once there is a place of its kind. A test
// whose subtests call it calls t.Parallel itself, or it would hold a place that they need.
func beside(t *testing.T, of *places) {
	t.Helper()
	t.Parallel()
	of.enter(false)
	t.Cleanup(of.leave)
}

// besideFirst is beside for a test that takes a minute or more: it begins before the others, or
// it might begin as the last and be waited for alone.
func besideFirst(t *testing.T, of *places) {
	t.Helper()
	t.Parallel()
	of.enter(true)
	t.Cleanup(of.leave)
}

func (p *places) enter(first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if first {
		p.long++
	}
	for p.free == 0 || !first && p.long > 0 {
		p.changed.Wait()
	}
	p.free--
	if first {
		p.long--
		p.changed.Broadcast()
	}
}

func (p *places) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	p.changed.Broadcast()
}
