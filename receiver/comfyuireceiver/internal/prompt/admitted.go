// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// Admission is what the receiver's advisor said of a prompt.
type Admission struct {
	admission.Decision
	// Enforced is true if the receiver acted by it.
	Enforced bool
	// Claimed is the task class that the request named, if it did not count.
	Claimed string
	// Number is the place in the server's queue that the receiver gave it; 0 if it gave none.
	Number float64
	// Held and Released are when the receiver held it and no longer did; zero if it did not.
	Held, Released time.Time
}

// Refuses reports whether the receiver refused the prompt.
func (a *Admission) Refuses() bool {
	return a != nil && a.Enforced && a.Verdict != admission.Admit
}

// FirstOf is the smallest number in the server's queue of the prompts of a class that wait, among
// those whose callers asked for a place behind a number; ok is false if there are none.
func (t *Tracker) FirstOf(class string, behind float64) (number float64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		for ; p != nil; p = p.next {
			if !p.waits() || p.Sizing.TaskClass != class || p.Admission == nil || p.Admission.Number == 0 {
				continue
			}
			if asked := p.Submission.Number; asked != nil && *asked <= behind {
				continue
			}
			if !ok || p.Admission.Number < number {
				number, ok = p.Admission.Number, true
			}
		}
	}
	return number, ok
}

// waits reports whether a prompt waits in the server's queue. The caller holds the lock.
func (p *Prompt) waits() bool {
	return p.known && !p.cancelled && p.Outcome == "" && p.lastProgress().IsZero()
}
