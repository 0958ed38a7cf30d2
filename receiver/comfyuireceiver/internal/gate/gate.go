// SPDX-License-Identifier: Apache-2.0

// Package gate asks an advisor whether a server should run a prompt, and holds prompts that are
// about to fit. Whatever the advisor does, a prompt is passed on within a bounded time: one that
// is stopped, slow or broken admits everything.
package gate

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Settings are a Gate's.
type Settings struct {
	// Timeout is how long an advisor may take.
	Timeout time.Duration
	// HoldTimeout is for how long a prompt is held at most; MaxHeld and MaxBytes bound the prompts
	// that are, and their bodies.
	HoldTimeout time.Duration
	MaxHeld     int
	MaxBytes    int
	// Enforce holds and refuses; without it decisions are only noted.
	Enforce bool
}

// Finder finds the advisor, which may come and go; nil if it does not run.
type Finder interface{ Advisor() admission.Advisor }

// Freer frees the memory of a neighbour.
type Freer interface {
	Free(ctx context.Context, server string) error
}

// Gate decides about the prompts of one server. Its methods may be called from any goroutine.
type Gate struct {
	settings Settings
	advisor  caller
	freer    Freer
	now      func() time.Time
	// running ends with Close.
	running context.Context
	close   context.CancelFunc
	// freeing bounds the requests to free memory that are under way.
	freeing chan struct{}
	changed chan struct{}
	work    sync.WaitGroup

	// mu guards everything declared below.
	mu    sync.Mutex
	held  []*waiter // by deadline
	bytes int
	// closed is true from Close on, serves while a goroutine asks for those that are held.
	closed, serves bool
}

// waiter is a prompt that is held.
type waiter struct {
	request  *admission.Request
	deadline time.Time
	bytes    int
	// answer receives one decision; it has room for it.
	answer chan admission.Decision
	// last is the newest decision to hold it; answered is true once it is no longer held. Both are
	// guarded by the gate's lock.
	last     admission.Decision
	answered bool
}

// maxFreeing bounds the requests to free memory that are under way.
const maxFreeing = 4

// New makes a gate. Close ends it.
func New(s Settings, finder Finder, freer Freer, now func() time.Time) *Gate {
	g := &Gate{settings: s, freer: freer, now: now, freeing: make(chan struct{}, maxFreeing), changed: make(chan struct{}, 1)}
	g.advisor = caller{timeout: s.Timeout, finder: finder, now: now, calls: make(chan struct{}, maxCalls)}
	g.running, g.close = context.WithCancel(context.Background())
	return g
}

// Result is what became of a prompt at the gate.
type Result struct {
	admission.Decision
	// Held and Released are when it was held and no longer; zero if it was not.
	Held, Released time.Time
	// Left is true if the client left meanwhile.
	Left bool
	// Spare is what the decision left of [Settings.Timeout], for [Gate.Settle].
	Spare time.Duration
}

// Decide asks about a prompt whose body has so many bytes, and holds it while it is about to fit.
// It returns once ctx, the client's, ends.
func (g *Gate) Decide(ctx context.Context, r *admission.Request, bytes int) Result {
	return g.decide(ctx, r, bytes, g.advisor.until())
}

// Again is Decide for a prompt that was changed after it, with what that decision left of
// [Settings.Timeout].
func (g *Gate) Again(ctx context.Context, r *admission.Request, bytes int, spare time.Duration) Result {
	return g.decide(ctx, r, bytes, g.now().Add(spare))
}

// decide is Decide until a time, however often the advisor is asked.
func (g *Gate) decide(ctx context.Context, r *admission.Request, bytes int, until time.Time) (res Result) {
	asked := until
	defer func() { res.Spare = max(until.Sub(asked), 0) }()
	w, failed := g.queue(r, bytes, until)
	if w == nil {
		if failed {
			asked = g.now()
			res.Decision = failure(r)
			return res
		}
		res.Decision = g.advisor.ask(r, until)
		asked = g.now()
		if !g.settings.Enforce || res.Verdict != admission.Hold {
			return res
		}
		if w = g.hold(r, &res.Decision, bytes); w == nil {
			res.Verdict = admission.Reject
			if res.Free != "" {
				g.free(res.Free) // there is room when it comes again
			}
			return res
		}
	}
	res.Held = g.now()
	asked = res.Held
	timer := time.NewTimer(g.settings.HoldTimeout)
	defer timer.Stop()
	select {
	case res.Decision = <-w.answer:
	case <-ctx.Done():
		res.Left = true
		res.Decision = g.withdraw(w)
	case <-timer.C:
		if res.Decision = g.withdraw(w); res.Verdict == admission.Hold {
			res.Verdict = admission.Reject
		}
	}
	res.Released = g.now()
	if ctx.Err() != nil {
		res.Left = true
		g.Settle(res.Claim, "", 0)
		res.Claim = 0
	}
	return res
}

// queue holds a prompt that would be admitted while more urgent ones are held: those are asked
// about first. It returns nil if there are none, and for one that the advisor would not admit; failed
// is true if that has not answered.
func (g *Gate) queue(r *admission.Request, bytes int, until time.Time) (w *waiter, failed bool) {
	if !g.settings.Enforce || g.Held() == 0 {
		return nil, false
	}
	inquiry := *r
	inquiry.Claim, inquiry.Stays = false, true
	d := g.advisor.ask(&inquiry, until)
	if d.Verdict != admission.Admit || d.Reason == admission.Failed || !g.precede(d.Deadline) {
		return nil, d.Reason == admission.Failed
	}
	d.Verdict, d.Reason, d.RetryAfter = admission.Hold, admission.MemoryBusy, max(d.RetryAfter, askAgain) // the refusal if its turn does not come
	w = g.hold(r, &d, bytes)
	g.Changed()
	return w, false
}

// precede reports whether a prompt that is held is more urgent than one with a deadline.
func (g *Gate) precede(deadline time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held) > 0 && byDeadline(g.held[0].deadline, deadline) <= 0
}

// byDeadline orders deadlines; none is last.
func byDeadline(a, b time.Time) int {
	switch {
	case a.IsZero() && b.IsZero():
		return 0
	case a.IsZero():
		return 1
	case b.IsZero():
		return -1
	}
	return a.Compare(b)
}

// hold adds a prompt to those that are held; nil if there is no room.
func (g *Gate) hold(r *admission.Request, d *admission.Decision, bytes int) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || g.settings.HoldTimeout <= 0 || len(g.held) >= g.settings.MaxHeld || g.bytes+bytes > g.settings.MaxBytes {
		return nil
	}
	w := &waiter{request: r, deadline: d.Deadline, bytes: bytes, answer: make(chan admission.Decision, 1), last: *d}
	place := len(g.held) // of those with one deadline, first come, first served
	for place > 0 && byDeadline(g.held[place-1].deadline, w.deadline) > 0 {
		place--
	}
	g.held = slices.Insert(g.held, place, w)
	g.bytes += bytes
	if !g.serves {
		g.serves = true
		g.work.Go(g.serve)
	}
	return w
}

// withdraw has a prompt held no longer. It returns the last decision about it.
func (g *Gate) withdraw(w *waiter) admission.Decision {
	g.mu.Lock()
	defer g.mu.Unlock()
	if w.answered {
		return <-w.answer
	}
	g.remove(w)
	return w.last
}

// remove takes a prompt out; the caller holds the lock.
func (g *Gate) remove(w *waiter) {
	w.answered = true
	if i := slices.Index(g.held, w); i >= 0 {
		g.held = slices.Delete(g.held, i, i+1)
		g.bytes -= w.bytes
	}
}

// Changed has those that are held asked about again.
func (g *Gate) Changed() {
	select {
	case g.changed <- struct{}{}:
	default:
	}
}

// askAgain is how often those that are held are asked about at least.
const askAgain = 200 * time.Millisecond

// serve asks for those that are held, the most urgent first, until there are none.
func (g *Gate) serve() {
	for {
		g.mu.Lock()
		all := slices.Clone(g.held)
		if len(all) == 0 || g.closed {
			g.serves = false
			g.mu.Unlock()
			return
		}
		g.mu.Unlock()
		for _, w := range all {
			g.try(w)
		}
		timer := time.NewTimer(askAgain)
		select {
		case <-g.changed:
		case <-timer.C:
		case <-g.running.Done():
		}
		timer.Stop()
	}
}

// try asks about one that is held.
func (g *Gate) try(w *waiter) {
	g.mu.Lock()
	answered := w.answered
	g.mu.Unlock()
	if answered {
		return
	}
	again := *w.request
	if !w.deadline.IsZero() { // it counts from the arrival on
		again.Deadline = max(w.deadline.Sub(g.now()), time.Millisecond)
	}
	d := g.advisor.ask(&again, g.advisor.until())
	g.mu.Lock()
	answered = w.answered
	switch {
	case answered:
	case d.Verdict == admission.Hold:
		w.last = d
	default:
		g.remove(w)
		w.answer <- d
	}
	g.mu.Unlock()
	switch {
	case answered:
		g.Settle(d.Claim, "", 0)
	case d.Verdict == admission.Hold && d.Free != "":
		g.free(d.Free)
	}
}

// freeTimeout bounds a request to free a neighbour's memory.
const freeTimeout = 2 * time.Second

// free has a neighbour's memory freed, without waiting for it. If that fails, the prompt stays
// held and is refused in the end.
func (g *Gate) free(server string) {
	if g.freer == nil {
		return
	}
	select {
	case g.freeing <- struct{}{}:
	default:
		return // the next round asks again
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		<-g.freeing
		return
	}
	g.work.Go(func() {
		defer func() { <-g.freeing }()
		ctx, cancel := context.WithTimeout(g.running, freeTimeout)
		defer cancel()
		_ = g.freer.Free(ctx, server)
	})
}

// Settle ends a claim; see [admission.Advisor]. It waits for the advisor for at most the time that is
// spare, so that a decision and its settlement together delay a prompt by no more than the timeout.
func (g *Gate) Settle(claim uint64, id string, spare time.Duration) {
	g.advisor.settle(claim, id, g.now().Add(spare))
}

// Unsettled counts the claims that could not be settled, since the advisor has not returned from too many
// calls.
func (g *Gate) Unsettled() int64 { return g.advisor.unsettled.Load() }

// Those that are held when the gate closes are asked to come again after restartTakes, the last
// of them restartSpread later.
const (
	restartTakes  = 3 * time.Second
	restartSpread = 5 * time.Second
)

// Close refuses those that are held, at once, since the receiver shuts down.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	for i, w := range g.held {
		w.answered = true
		w.answer <- admission.Decision{
			Verdict: admission.Reject, Reason: admission.Stopping, Class: w.last.Class, Batch: w.last.Batch, Deadline: w.last.Deadline,
			RetryAfter: restartTakes + restartSpread*time.Duration(i)/time.Duration(len(g.held)),
		}
	}
	g.held, g.bytes = nil, 0
	g.mu.Unlock()
	g.close()
	g.work.Wait()
}

// Held is how many prompts are held.
func (g *Gate) Held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.held)
}

// Bounds implements [bounds.Registered].
func (g *Gate) Bounds() []bounds.Bound {
	g.mu.Lock()
	defer g.mu.Unlock()
	return []bounds.Bound{
		{Name: "gate.Gate.held", Max: g.settings.MaxHeld, Size: len(g.held)},
		{Name: "gate.Gate.freeing", Max: maxFreeing, Size: len(g.freeing)},
		{Name: "gate.caller.calls", Max: maxCalls, Size: len(g.advisor.calls)},
	}
}
