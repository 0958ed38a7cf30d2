// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// caller calls the advisor, which may block, panic, or return anything. Each call has a goroutine
// of its own, and is given up after a time.
type caller struct {
	timeout time.Duration
	finder  Finder
	now     func() time.Time
	// calls bounds those that are under way: an advisor that blocks may keep them.
	calls   chan struct{}
	silence silence
	// unsettled counts the claims whose settlement found no room among the calls.
	unsettled atomic.Int64
}

// maxCalls bounds the calls that are under way.
const maxCalls = 64

var (
	errSilent   = errors.New("the advisor has not answered, and is asked once a second")
	errBusy     = errors.New("too many calls of the advisor are under way")
	errNone     = errors.New("the advisor does not run")
	errPanicked = errors.New("the advisor panicked")
)

// until is when a question that begins now is given up.
func (c *caller) until() time.Time { return c.now().Add(c.timeout) }

// ask asks about a prompt until a time. Whatever fails admits.
func (c *caller) ask(r *admission.Request, until time.Time) admission.Decision {
	d, err := c.question(r, until)
	if err == nil && valid(&d) {
		if d.Verdict != admission.Admit && d.Claim != 0 {
			c.settle(d.Claim, "", until)
			d.Claim = 0
		}
		return d
	}
	c.settle(d.Claim, "", until)
	return failure(r)
}

// failure admits a prompt about which the advisor did not decide.
func failure(r *admission.Request) admission.Decision {
	return admission.Decision{Verdict: admission.Admit, Reason: admission.Failed, Class: r.Class}
}

// maxTime bounds the times of a decision.
const maxTime = 24 * time.Hour

// valid reports whether a decision is one for a prompt on its way to a server, which cannot be
// redirected. Times that no server can take are cut.
func valid(d *admission.Decision) bool {
	switch d.Reason {
	case admission.Fits, admission.Idle, admission.Probe, admission.Unknown, admission.Stale, admission.Starting:
		if d.Verdict != admission.Admit {
			return false
		}
	case admission.Late, admission.BatchWaits, admission.TooLarge, admission.Unhealthy, admission.MemoryIdle, admission.MemoryBusy:
		if d.Verdict != admission.Hold && d.Verdict != admission.Reject {
			return false
		}
	default:
		return false
	}
	for _, t := range []*time.Duration{&d.Wait, &d.Completion, &d.CompletionLow, &d.CompletionHigh, &d.RetryAfter} {
		*t = min(max(*t, 0), maxTime)
	}
	d.MaxSide = max(d.MaxSide, 0)
	return true
}

// answered is what an advisor returned.
type answered struct {
	admission.Decision
	err error
}

// question asks the advisor in a goroutine of its own.
func (c *caller) question(r *admission.Request, until time.Time) (admission.Decision, error) {
	advisor := c.finder.Advisor()
	if advisor == nil {
		return admission.Decision{}, errNone
	}
	select {
	case c.calls <- struct{}{}:
	default:
		return admission.Decision{}, errBusy
	}
	now := c.now()
	if !c.silence.mayAsk(now) {
		<-c.calls
		return admission.Decision{}, errSilent
	}
	limited, cancel := context.WithTimeout(context.Background(), until.Sub(now))
	defer cancel()
	answer := make(chan answered, 1)
	var decided atomic.Bool // by the answer, or by giving it up
	go func() {
		defer func() { <-c.calls }()
		a := advise(limited, advisor, r)
		switch {
		case decided.CompareAndSwap(false, true):
			answer <- a
		case a.Claim != 0: // nobody waits for it
			settle(advisor, a.Claim, "")
		}
	}()
	var a answered
	select {
	case a = <-answer:
	case <-limited.Done():
		if decided.CompareAndSwap(false, true) {
			a.err = limited.Err()
		} else {
			a = <-answer // just in time
		}
	}
	c.silence.note(a.err == nil || limited.Err() == nil, c.now())
	return a.Decision, a.err
}

// advise calls an advisor that may panic.
func advise(ctx context.Context, advisor admission.Advisor, r *admission.Request) (a answered) {
	defer func() {
		if recover() != nil {
			a = answered{err: errPanicked}
		}
	}()
	a.Decision, a.err = advisor.Advise(ctx, r)
	return a
}

// settle calls an advisor that may panic.
func settle(advisor admission.Advisor, claim uint64, id string) {
	defer func() { _ = recover() }()
	advisor.Settle(claim, id)
}

// settle ends a claim, and waits for that until a time: prompts that are held would else be compared
// with both the claim and the server's queue. A claim whose settlement finds no room among the calls
// is counted, and ends after [admission.ClaimTimeout].
func (c *caller) settle(claim uint64, id string, until time.Time) {
	if claim == 0 {
		return
	}
	advisor := c.finder.Advisor()
	if advisor == nil {
		return
	}
	select {
	case c.calls <- struct{}{}:
	default:
		c.unsettled.Add(1)
		return
	}
	done := make(chan struct{})
	go func() {
		defer func() { <-c.calls }()
		defer close(done)
		settle(advisor, claim, id)
	}()
	left := until.Sub(c.now())
	if left <= 0 {
		return // it goes on without the caller
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}
