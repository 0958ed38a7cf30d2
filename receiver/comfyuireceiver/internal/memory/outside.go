// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"math"
	"time"
)

// MaxSkew is how far an answer and a list of processes may be apart: in a longer time too
// much is allocated for the difference to mean anything.
const MaxSkew = 100 * time.Millisecond

// usualContext is at most what a CUDA context takes, where it could not be learned.
const usualContext = 840 << 20

// Process is the server's process. It is another one after a restart.
type Process struct {
	PID int `json:"pid"`
	// Started is when it was started, in clock ticks since boot.
	Started uint64 `json:"started"`
}

// Learned is what is known of a process's memory outside of PyTorch's allocator. Its stored
// form survives the collector.
type Learned struct {
	Process
	// Context is the smallest memory outside since the process's start on which two readings
	// agree, with Dynamic VRAM that before its first prompt; 0 if it is unknown.
	Context float64 `json:"context,omitempty"`
	// Smallest is the smallest memory outside that was seen at all.
	Smallest float64 `json:"smallest,omitempty"`
}

// Reading is the memory of the server's process by NVML, and what its allocator had reserved
// at about the same time.
type Reading struct {
	Process, Reserved float64
	// Dynamic is true if weights may lie outside of the allocator, Fresh if the server has
	// not run a prompt, as far as its history shows: a client may have cleared that.
	Dynamic, Fresh bool
}

// Outside is what a process holds of a GPU beside PyTorch's allocator.
type Outside struct {
	learned Learned
	// seen is the memory outside, by the last reading; 0 if there is none. rough is the last bound of
	// it, if that came after the last reading; else 0.
	seen, rough float64
	// candidates are the last readings that none agreed with; the next one replaces that at
	// next.
	candidates [4]float64
	next       int
}

// agreement is by how much two readings of the same context may differ.
const agreement = 4 << 20

// Is forgets everything if the process is another one; it reports whether it is.
func (o *Outside) Is(p Process) (another bool) {
	if another = o.learned.Process != p; another {
		*o = Outside{learned: Learned{Process: p}}
	}
	return another
}

// Restore continues with what was learned of the same process.
func (o *Outside) Restore(l Learned) {
	if l.Process == o.learned.Process && l.Process != (Process{}) {
		o.learned = l
	}
}

// Learned is what is to be stored.
func (o *Outside) Learned() Learned { return o.learned }

// See records a reading. It reports whether something was learned.
func (o *Outside) See(r Reading) (learned bool) {
	outside := r.Process - r.Reserved
	if outside <= 0 { // memory was given back between the two
		return false
	}
	o.seen, o.rough = outside, 0
	if o.learned.Smallest == 0 || outside < o.learned.Smallest {
		o.learned.Smallest, learned = outside, true
	}
	switch {
	case r.Dynamic && !r.Fresh: // it holds weights
		return learned
	case o.learned.Context > 0 && outside >= o.learned.Context:
		return learned
	case (!r.Fresh || outside > usualContext) && !o.agrees(outside): // something may have been allocated between the two
		return learned
	}
	o.learned.Context = outside
	return true
}

// SeeBetween records a list of processes that was read between two answers, where what the allocator
// had reserved by then is not known: it was at most reserved, the larger of the two, unless it grew and
// shrank meanwhile. So the smaller of two such bounds in a row counts, and nothing is learned from it.
// It reports whether one did.
func (o *Outside) SeeBetween(process, reserved float64) bool {
	bound := process - reserved
	if bound <= 0 {
		return false
	}
	before := o.rough
	o.rough = bound
	if before == 0 {
		return false
	}
	o.seen = min(before, bound)
	return true
}

// agrees reports whether one of the last readings was about the same.
func (o *Outside) agrees(outside float64) bool {
	for _, c := range o.candidates {
		if math.Abs(c-outside) <= agreement {
			return true
		}
	}
	o.candidates[o.next] = outside
	o.next = (o.next + 1) % len(o.candidates)
	return false
}

// Context is the memory of the CUDA context; ok is false if it is unknown.
func (o *Outside) Context() (bytes float64, ok bool) {
	return o.learned.Context, o.learned.Context > 0
}

// Seen is the memory outside; ok is false if it is unknown.
func (o *Outside) Seen() (bytes float64, ok bool) { return o.seen, o.seen > 0 }

// Elastic is an upper bound of the weights that Dynamic VRAM could evict; ok is false if
// it is unknown.
func (o *Outside) Elastic() (bytes float64, ok bool) {
	if o.seen == 0 {
		return 0, false
	}
	return o.MaxElastic(o.seen), true
}

// MaxElastic is the most that can be elastic of what the process holds.
func (o *Outside) MaxElastic(held float64) float64 {
	context, known := o.Context()
	if !known {
		context = min(o.learned.Smallest, usualContext)
	}
	return max(held-context, 0)
}
