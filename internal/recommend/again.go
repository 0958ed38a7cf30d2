// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// again recognises requests that were refused and come again after their Retry-After, so that a
// client which tries ten times counts once. Telemetry does not say whose a request is: it is
// recognised by what it asks for and its time, as the advisor does. Another's that comes just then
// passes for it.
type again struct {
	// queue are those that may come again, in the order in which they were refused, from first on;
	// byKey are the same.
	queue []*refused
	first int
	byKey map[againKey][]*refused
}

// refused is a request that may come again.
type refused struct {
	Request
	shortOfMemory bool
	until         time.Time
	came          bool // again
}

// againKey is what a request has in common with itself, and the second in which it is due: those
// of a key are few, however many wait.
type againKey struct {
	server, class, workflow, model string
	side, batch, steps             int
	due                            int64 // s since 1970
}

const (
	// early is how much before its time a request may come again, and patience how long after.
	early    = 100 * time.Millisecond
	patience = time.Second
	// traceDelay is how long after it came a request's trace is expected at the latest.
	traceDelay = 5 * time.Minute
	// maxAgain bounds those that may come again; beyond it the oldest one is not waited for.
	maxAgain = 8192
)

func newAgain() again { return again{byKey: map[againKey][]*refused{}} }

func (r *Request) againKey(due time.Time) againKey {
	return againKey{r.Server, r.Class, r.Workflow, r.Model, r.Side, r.Batch, r.Steps, due.Unix()}
}

// due is when a refused request comes again: clients wait for whole seconds.
func (f *refused) due() time.Time {
	return f.Ended.Add(time.Duration(math.Ceil(f.RetryAfter.Seconds())) * time.Second)
}

// wait waits for a request that was refused to come again. If there are too many, it returns the
// oldest one, for which waiting has ended.
func (a *again) wait(r *Request, shortOfMemory bool) (oldest *refused, full bool) {
	f := &refused{Request: *r, shortOfMemory: shortOfMemory}
	f.until = f.due().Add(patience + traceDelay)
	if len(a.queue)-a.first >= maxAgain {
		oldest = a.pop()
		full = !oldest.came
	}
	a.queue = append(a.queue, f)
	key := r.againKey(f.due())
	a.byKey[key] = append(a.byKey[key], f)
	return oldest, full
}

// find is the refused request that a request is, if it came before.
func (a *again) find(r *Request) (*refused, bool) {
	first, last := r.Came.Add(-patience).Unix(), r.Came.Add(early).Unix()
	for second := first; second <= last; second++ {
		key := r.againKey(time.Unix(second, 0))
		for i, f := range a.byKey[key] {
			if off := r.Came.Sub(f.due()); off >= -early && off <= patience {
				f.came = true
				a.forget(key, i)
				return f, true
			}
		}
	}
	return nil, false
}

// over are the requests that did not come again.
func (a *again) over(now time.Time) (all []*refused) {
	for a.first < len(a.queue) && (a.queue[a.first].came || now.After(a.queue[a.first].until)) {
		if f := a.pop(); !f.came {
			all = append(all, f)
		}
	}
	return all
}

// pop removes the oldest one.
func (a *again) pop() *refused {
	f := a.queue[a.first]
	a.queue[a.first] = nil
	if a.first++; a.first > len(a.queue)/2 {
		n := copy(a.queue, a.queue[a.first:])
		clear(a.queue[n:])
		a.queue, a.first = a.queue[:n], 0
	}
	if !f.came {
		key := f.againKey(f.due())
		for i, o := range a.byKey[key] {
			if o == f {
				a.forget(key, i)
				break
			}
		}
	}
	return f
}

// forget removes one from those of its key.
func (a *again) forget(key againKey, i int) {
	rest := slices.Delete(a.byKey[key], i, i+1)
	if a.byKey[key] = rest; len(rest) == 0 {
		delete(a.byKey, key)
	}
}

// Bounds implements [bounds.Registered].
func (a *again) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "recommend.again.queue", Max: maxAgain, Size: len(a.queue) - a.first},
		{Name: "recommend.again.byKey", Max: maxAgain, Size: len(a.byKey)},
	}
}
