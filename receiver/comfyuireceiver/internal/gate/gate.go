// SPDX-License-Identifier: Apache-2.0

// Package gate asks an advisor whether a server should run a prompt, and holds prompts that are
// about to fit. Whatever the advisor does, a prompt is passed on within a bounded time: one that
// is stopped, slow or broken admits everything.
package gate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
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
	finder   Finder
	freer    Freer
	now      func() time.Time

	// asking bounds the questions that are under way: an advisor that blocks may keep them.
	asking chan struct{}

	// mu guards everything declared below.
	mu    sync.Mutex
	held  []*waiter // by deadline
	bytes int
	// closed is true from Close on, running while a goroutine asks for those that are held.
	closed, running bool
	changed         chan struct{}
	work            sync.WaitGroup
}

// waiter is a prompt that is held.
type waiter struct {
	request  *admission.Request
	deadline time.Time
	until    time.Time
	bytes    int
	// answer receives one decision; it has room for it.
	answer chan admission.Decision
	gone   bool // guarded by the gate's lock
}

// maxAsking bounds the questions that are under way.
const maxAsking = 64

// New makes a gate.
func New(s Settings, finder Finder, freer Freer, now func() time.Time) *Gate {
	return &Gate{settings: s, finder: finder, freer: freer, now: now, asking: make(chan struct{}, maxAsking), changed: make(chan struct{}, 1)}
}

// Result is what became of a prompt at the gate.
type Result struct {
	admission.Decision
	// Held and Released are when it was held and no longer; zero if it was not.
	Held, Released time.Time
	// Left is true if the client left meanwhile.
	Left bool
}

// Decide asks about a prompt whose body has so many bytes, and holds it while it is about to fit.
// It returns once ctx, the client's, ends.
func (g *Gate) Decide(ctx context.Context, r *admission.Request, bytes int) (res Result) {
	res.Decision = g.ask(ctx, r)
	if !g.settings.Enforce || res.Verdict != admission.Hold {
		return res
	}
	w := g.hold(r, &res.Decision, bytes)
	if w == nil {
		res.Verdict = admission.Reject
		return res
	}
	res.Held = g.now()
	select {
	case res.Decision = <-w.answer:
	case <-ctx.Done():
		res.Left = true
		g.forget(w)
	}
	res.Released = g.now()
	return res
}

// hold adds a prompt to those that are held; nil if there is no room.
func (g *Gate) hold(r *admission.Request, d *admission.Decision, bytes int) *waiter {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed || len(g.held) >= g.settings.MaxHeld || g.bytes+bytes > g.settings.MaxBytes {
		return nil
	}
	now := g.now()
	w := &waiter{request: r, deadline: d.Deadline, until: now.Add(g.settings.HoldTimeout), bytes: bytes, answer: make(chan admission.Decision, 1)}
	place, _ := slices.BinarySearchFunc(g.held, w, func(a, b *waiter) int {
		if a.deadline.IsZero() != b.deadline.IsZero() {
			if a.deadline.IsZero() {
				return 1
			}
			return -1
		}
		return a.deadline.Compare(b.deadline)
	})
	for place < len(g.held) && g.held[place].deadline.Equal(w.deadline) { // first come, first served
		place++
	}
	g.held = slices.Insert(g.held, place, w)
	g.bytes += bytes
	if !g.running {
		g.running = true
		g.work.Go(g.serve)
	}
	return w
}

// forget removes a prompt whose client has left. A decision that came meanwhile is given back.
func (g *Gate) forget(w *waiter) {
	g.mu.Lock()
	g.remove(w)
	g.mu.Unlock()
	select {
	case d := <-w.answer:
		g.Settle(d.Claim, "")
	default:
	}
}

// remove takes a prompt out; the caller holds the lock.
func (g *Gate) remove(w *waiter) {
	w.gone = true
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
			g.running = false
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
		}
		timer.Stop()
	}
}

// try asks about one that is held.
func (g *Gate) try(w *waiter) {
	d := g.ask(context.Background(), w.request)
	if d.Verdict == admission.Hold {
		if g.now().Before(w.until) {
			if d.Free != "" && g.freer != nil {
				ctx, cancel := context.WithTimeout(context.Background(), freeTimeout)
				_ = g.freer.Free(ctx, d.Free) // it stays held, and is refused in the end
				cancel()
			}
			return
		}
		d.Verdict = admission.Reject
	}
	g.mu.Lock()
	gone := w.gone
	g.remove(w)
	if !gone {
		w.answer <- d
	}
	g.mu.Unlock()
	if gone {
		g.Settle(d.Claim, "")
	}
}

// freeTimeout bounds a request to free a neighbour's memory.
const freeTimeout = 2 * time.Second

var errBusy = errors.New("too many questions are under way")

// ask asks the advisor. Whatever fails admits.
func (g *Gate) ask(ctx context.Context, r *admission.Request) admission.Decision {
	d, err := g.question(ctx, r)
	if err != nil {
		return admission.Decision{Verdict: admission.Admit, Reason: admission.Failed, Class: r.Class}
	}
	switch d.Verdict {
	case admission.Admit, admission.Hold, admission.Reject, admission.Redirect:
		return d
	}
	return admission.Decision{Verdict: admission.Admit, Reason: admission.Failed, Class: r.Class}
}

var (
	errNone     = errors.New("the advisor does not run")
	errPanicked = errors.New("the advisor panicked")
)

// answered is what an advisor returned.
type answered struct {
	admission.Decision
	err error
}

// question asks the advisor in a goroutine of its own: it may block.
func (g *Gate) question(ctx context.Context, r *admission.Request) (admission.Decision, error) {
	advisor := g.finder.Advisor()
	if advisor == nil {
		return admission.Decision{}, errNone
	}
	select {
	case g.asking <- struct{}{}:
	default:
		return admission.Decision{}, errBusy
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.settings.Timeout)
	defer cancel()
	answer := make(chan answered, 1)
	var settled atomic.Bool // by the answer, or by giving it up
	go func() {
		defer func() { <-g.asking }()
		var a answered
		func() {
			defer func() {
				if recover() != nil {
					a = answered{err: errPanicked}
				}
			}()
			a.Decision, a.err = advisor.Advise(limited, r)
		}()
		switch {
		case settled.CompareAndSwap(false, true):
			answer <- a
		case a.Claim != 0: // nobody waits for it
			advisor.Settle(a.Claim, "")
		}
	}()
	select {
	case a := <-answer:
		return a.Decision, a.err
	case <-limited.Done():
		if settled.CompareAndSwap(false, true) {
			return admission.Decision{}, limited.Err()
		}
		a := <-answer // just in time
		return a.Decision, a.err
	}
}

// Settle ends a claim; see [admission.Advisor].
func (g *Gate) Settle(claim uint64, id string) {
	if claim == 0 {
		return
	}
	if advisor := g.finder.Advisor(); advisor != nil {
		advisor.Settle(claim, id)
	}
}

// Close refuses those that are held, at once.
func (g *Gate) Close() {
	g.mu.Lock()
	g.closed = true
	for _, w := range g.held {
		w.gone = true
		w.answer <- admission.Decision{Verdict: admission.Reject, Reason: admission.Unhealthy, Class: w.request.Class}
	}
	g.held, g.bytes = nil, 0
	g.mu.Unlock()
	g.Changed()
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
		{Name: "gate.Gate.asking", Max: maxAsking, Size: len(g.asking)},
	}
}
