// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// again recognises requests that were refused and come again, so that a client which tries ten times
// counts once. Where telemetry does not say whose a request is, it is recognised by what it asks for
// and by its time, when its Retry-After has passed, as the advisor does. Another's that comes just
// then passes for it. Where telemetry has the client's id, the client may come whenever it likes
// from a second to a minute later; ids are chosen by clients, so that they count here alone.
type again struct {
	// queue are those that may come again, in the order in which they were refused, from first on;
	// byKey are the same, byClient those of known clients.
	queue    []*refused
	first    int
	byKey    map[againKey][]*refused
	byClient map[clientKey][]*refused
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

// clientKey is what a request of a known client has in common with itself, whatever server it is sent
// to.
type clientKey struct {
	client, class, workflow, model string
	side, batch, steps             int
}

const (
	// ownTime is within what time of its refusal a known client comes again that does not wait for its
	// Retry-After.
	ownTime = time.Minute
	// pause is how long after its refusal it comes again at the soonest: what it sends sooner is
	// something else, as where it sends several requests at once.
	pause = time.Second
	// maxOfClient bounds those of a clientKey; beyond it the oldest one comes again by its time alone.
	maxOfClient = 64
	// early is how much before its time a request may come again, and patience how long after.
	early    = 100 * time.Millisecond
	patience = time.Second
	// traceDelay is how long after it came a request's trace is expected at the latest.
	traceDelay = 5 * time.Minute
	// maxAgain bounds those that may come again; beyond it the oldest one is not waited for.
	maxAgain = 8192
)

func newAgain() again {
	return again{byKey: map[againKey][]*refused{}, byClient: map[clientKey][]*refused{}}
}

func (r *Request) clientKey() clientKey {
	return clientKey{r.Client, r.Class, r.Workflow, r.Model, r.Side, r.Batch, r.Steps}
}

func (r *Request) againKey(due time.Time) againKey {
	return againKey{r.Server, r.Class, r.Workflow, r.Model, r.Side, r.Batch, r.Steps, due.Unix()}
}

// due is when a refused request comes again: clients wait for whole seconds.
func (f *refused) due() time.Time {
	return f.Ended.Add(time.Duration(math.Ceil(f.RetryAfter.Seconds())) * time.Second)
}

// last is until when it may come again.
func (f *refused) last() time.Time {
	last := f.due()
	if own := f.Ended.Add(ownTime); f.Client != "" && own.After(last) {
		last = own
	}
	return last.Add(patience)
}

// wait waits for a request that was refused to come again. If there are too many, it returns the
// oldest one, for which waiting has ended.
func (a *again) wait(r *Request, shortOfMemory bool) (oldest *refused, full bool) {
	f := &refused{Request: *r, shortOfMemory: shortOfMemory}
	f.until = f.last().Add(traceDelay)
	if len(a.queue)-a.first >= maxAgain {
		oldest = a.pop()
		full = !oldest.came
	}
	a.queue = append(a.queue, f)
	key := r.againKey(f.due())
	a.byKey[key] = append(a.byKey[key], f)
	if r.Client != "" {
		of := r.clientKey()
		all := a.byClient[of]
		if len(all) >= maxOfClient {
			all = slices.Delete(all, 0, 1)
		}
		a.byClient[of] = append(all, f)
	}
	return oldest, full
}

// find is the refused request that a request is, if it came before.
func (a *again) find(r *Request) (*refused, bool) {
	if r.Client != "" {
		for _, f := range a.byClient[r.clientKey()] {
			if !r.Came.Before(f.Ended.Add(pause)) && !r.Came.After(f.last()) {
				a.found(f)
				return f, true
			}
		}
	}
	first, last := r.Came.Add(-patience).Unix(), r.Came.Add(early).Unix()
	for second := first; second <= last; second++ {
		key := r.againKey(time.Unix(second, 0))
		for _, f := range a.byKey[key] {
			if r.Client != "" && f.Client != "" { // it is another's
				continue
			}
			if off := r.Came.Sub(f.due()); off >= -early && off <= patience {
				a.found(f)
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
		a.forget(f)
	}
	return f
}

// found has a request have come again.
func (a *again) found(f *refused) {
	f.came = true
	a.forget(f)
}

// forget removes one from those that are found.
func (a *again) forget(f *refused) {
	without(a.byKey, f.againKey(f.due()), f)
	if f.Client != "" {
		without(a.byClient, f.clientKey(), f)
	}
}

// without removes one from those of its key.
func without[K comparable](all map[K][]*refused, key K, f *refused) {
	i := slices.Index(all[key], f)
	if i < 0 {
		return
	}
	if rest := slices.Delete(all[key], i, i+1); len(rest) > 0 {
		all[key] = rest
	} else {
		delete(all, key)
	}
}

// Bounds implements [bounds.Registered].
func (a *again) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "recommend.again.queue", Max: maxAgain, Size: len(a.queue) - a.first},
		{Name: "recommend.again.byKey", Max: maxAgain, Size: len(a.byKey)},
		{Name: "recommend.again.byClient", Max: maxAgain, Size: len(a.byClient)},
	}
}
