// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"math"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Admission is what the receiver's advisor said of a prompt.
type Admission struct {
	admission.Decision
	// Enforced is true if the receiver acted by it.
	Enforced bool
	// Claimed is the task class that the request named, if it did not count.
	Claimed string
	// AskedSide and LoweredSide are the longer side that the prompt asked for, in pixels, and the one
	// that the receiver lowered it to; 0 if it did not.
	AskedSide, LoweredSide int
	// Number is the place in the server's queue that the receiver gave it; 0 if it gave none.
	Number float64
	// Held and Released are when the receiver held it and no longer did; zero if it did not.
	Held, Released time.Time
}

// Refuses reports whether the receiver refused the prompt.
func (a *Admission) Refuses() bool {
	return a != nil && a.Enforced && a.Verdict != admission.Admit
}

// Lower is what to change in a submission so that its longer side is at most a number of pixels; see
// [sizing.Sizer.Lower].
func (t *Tracker) Lower(sub *protocol.Submission, side int) (edits []protocol.Edit, ok bool) {
	return t.sizer.Lower(sub, side)
}

// placeBefore is by how much a number is smaller than that of the prompt which it precedes.
const placeBefore = 1e-3

// Place is the place in the server's queue of a prompt of a class that is due at a number, and
// whose caller asked for a place, as [protocol.Submission.Number]. It precedes those of its class
// whose callers asked for a later one, as far as it thereby precedes none of another class.
func (t *Tracker) Place(class string, asked *float64, number float64) float64 {
	if asked == nil {
		return number
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	others, first := math.Inf(-1), number
	t.waiting(func(p *Prompt) {
		if p.Sizing.TaskClass != class && p.Answer.Number < number {
			others = max(others, p.Answer.Number)
		}
	})
	t.waiting(func(p *Prompt) {
		if p.Sizing.TaskClass == class && p.Answer.Number > others && p.isBehind(*asked) {
			first = min(first, p.Answer.Number)
		}
	})
	switch {
	case first == number:
		return number
	case first-placeBefore > others:
		return first - placeBefore
	}
	return others + (first-others)/2
}

// isBehind reports whether a prompt's caller asked for a later place than another one. Who asks
// for none is behind those who ask for one below 0, and in front means before all.
func (p *Prompt) isBehind(other float64) bool {
	own := 0.0
	if p.Submission.Number != nil {
		own = *p.Submission.Number
	}
	return own > other || math.IsInf(other, -1)
}

// waiting calls f with each prompt that waits in the server's queue. The caller holds the lock.
func (t *Tracker) waiting(f func(*Prompt)) {
	for _, p := range t.open {
		for ; p != nil; p = p.next {
			if p.known && !p.cancelled && p.Outcome == "" && p.lastProgress().IsZero() {
				f(p)
			}
		}
	}
}
