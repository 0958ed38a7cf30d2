// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// The numbers of prompts in the server's queue are seconds since 1970. Those of batch prompts are
// greater by batchNumber, so that the server runs them last, and those without a deadline by
// undatedNumber.
const (
	batchNumber   = 1e10
	undatedNumber = 5e9
)

// dueTimes know when prompts of a class are due. What the advisor said of a class counts for
// prompts about which it says nothing, too: they would else precede all others.
type dueTimes struct {
	mu sync.Mutex
	// classes is guarded by mu.
	classes *lru.Cache[string, dueTime]
}

// dueTime is when a prompt is due after its arrival, if it is.
type dueTime struct {
	after        time.Duration
	dated, batch bool
}

// maxDueTimes bounds the classes.
const maxDueTimes = 256

func newDueTimes() dueTimes { return dueTimes{classes: lru.New[string, dueTime](maxDueTimes)} }

// number is the place in the server's queue of a prompt of a class: its deadline. allowed is
// what its request has asked for, 0 if nothing, or if that does not count.
func (d *dueTimes) number(decision *prompt.Admission, class string, received time.Time, allowed time.Duration) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	due := dueTime{after: decision.Deadline.Sub(received), dated: !decision.Deadline.IsZero(), batch: decision.Batch}
	switch {
	case decision.Reason == admission.Failed:
		due = *d.classes.FindOrAdd(class)
		if allowed > 0 {
			due.after, due.dated = allowed, true
		}
	case allowed == 0 && !decision.Returned && decision.Held.IsZero(): // else it may not be the class's
		*d.classes.FindOrAdd(class) = due
	}
	number := float64(received.UnixMicro()) / 1e6
	if due.dated {
		number += min(max(due.after, 0), maxDue).Seconds()
	} else {
		number += undatedNumber
	}
	if due.batch {
		number += batchNumber
	}
	return number
}

// maxDue bounds for how long a prompt may be due: it stays before those without a deadline.
const maxDue = 365 * 24 * time.Hour

// Bounds implements [bounds.Registered].
func (d *dueTimes) Bounds() []bounds.Bound {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.classes.Bounds()
}
