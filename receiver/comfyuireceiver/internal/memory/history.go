// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Sample is one answer: the sums over the server's devices.
type Sample struct {
	// Asked is when the request was sent, At when the answer was there. The figures are of
	// some time between.
	Asked, At        time.Time
	Active, Reserved float64
	// Used is what is not free of the devices, and what PyTorch's allocator keeps without use
	// not counted: tensors, and weights outside of the allocator.
	Used float64
}

// Use is what was seen of a server's memory while a prompt ran. Pointers are nil where
// it was not seen.
type Use struct {
	// ActivePeak is the largest memory that tensors were seen to use: a lower bound of what
	// the prompt needed. ActiveStart is what they used before it began.
	ActivePeak, ActiveStart *float64
	// ReservedPeak is the largest reserve of the allocator, up to the first answer after the
	// end. ReservedGrowth is by how much it grew; nil if it shrank meanwhile.
	ReservedPeak, ReservedGrowth *float64
	// Samples is how many answers there were, Gap the longest time between two of them or
	// between one and an edge.
	Samples int
	Gap     time.Duration
}

// maxSamples bounds the answers that are kept: more than two hours of them, twice a second.
const maxSamples = 16384

// History holds a server's last answers.
type History struct {
	samples []Sample // in their order; those before first are no longer used
	first   int
}

// Add adds an answer.
func (h *History) Add(s Sample) {
	// Prompts have times of the wall clock.
	s.Asked, s.At = s.Asked.Round(0), s.At.Round(0)
	if n := len(h.samples); n > 0 && s.Asked.Before(h.samples[n-1].Asked) { // it was set back
		h.Restarted()
	}
	if len(h.samples)-h.first == maxSamples {
		h.first++
	}
	if h.first == maxSamples { // half of the slice is unused
		h.samples = append(h.samples[:0], h.samples[h.first:]...)
		h.first = 0
	}
	h.samples = append(h.samples, s)
}

// Restarted forgets all answers: they are of another process, or of another clock.
func (h *History) Restarted() { h.samples, h.first = nil, 0 }

// Has reports whether there is an answer to a question that was asked after a time.
func (h *History) Has(after time.Time) bool {
	n := len(h.samples)
	return n > 0 && !h.samples[n-1].Asked.Before(after)
}

// Bounds implements [bounds.Registered].
func (h *History) Bounds() []bounds.Bound {
	return []bounds.Bound{{Name: "memory.History.samples", Max: 2 * maxSamples, Size: len(h.samples)}}
}

// Use is what was seen between two times.
func (h *History) Use(from, to time.Time) Use {
	all := h.samples[h.first:]
	begin, _ := slices.BinarySearchFunc(all, from, func(s Sample, t time.Time) int { return s.Asked.Compare(t) })
	end := begin
	for end < len(all) && !all[end].At.After(to) {
		end++
	}
	u := Use{Samples: end - begin}
	last := from
	for i := begin; i < end; i++ {
		u.ActivePeak = larger(u.ActivePeak, all[i].Active)
		u.Gap = max(u.Gap, all[i].At.Sub(last))
		last = all[i].At
	}
	u.Gap = max(u.Gap, to.Sub(last))
	before := begin - 1
	for before >= 0 && all[before].At.After(from) { // it was under way at the edge
		before--
	}
	if before >= 0 {
		active := all[before].Active
		u.ActiveStart = &active
	}
	u.addReserve(all, max(before, 0), before >= 0, to)
	return u
}

// addReserve adds what was reserved from a place in the answers to the first answer to a
// question that was asked after a time. isStart says whether the place is that of the last
// answer before the prompt.
func (u *Use) addReserve(all []Sample, from int, isStart bool, to time.Time) {
	shrank, ended := false, false
	for i := from; i < len(all) && !ended; i++ {
		u.ReservedPeak = larger(u.ReservedPeak, all[i].Reserved)
		shrank = shrank || i > from && all[i].Reserved < all[i-1].Reserved
		ended = !all[i].Asked.Before(to)
	}
	if ended && isStart && !shrank {
		growth := *u.ReservedPeak - all[from].Reserved
		u.ReservedGrowth = &growth
	}
}

// growth is from which growth on weights were loaded.
const growth = 64 << 20

// Grew reports whether the memory that is used grew from a time to another: within them, or
// where no answer is of that time, from before them to after the end of the prompt. known is
// false where there are no answers to tell.
func (h *History) Grew(from, to, end time.Time) (grew, known bool) {
	all := h.samples[h.first:]
	begin, _ := slices.BinarySearchFunc(all, from, func(s Sample, t time.Time) int { return s.Asked.Compare(t) })
	before := begin - 1
	for before >= 0 && all[before].At.After(from) { // it was under way
		before--
	}
	if before < 0 {
		return false, false
	}
	within := false
	for i := begin; i < len(all) && !all[i].At.After(to); i++ {
		within = true
		if all[i].Used-all[before].Used >= growth {
			return true, true
		}
	}
	if within {
		return false, true
	}
	after := slices.IndexFunc(all[begin:], func(s Sample) bool { return !s.Asked.Before(end) })
	return after >= 0 && all[begin+after].Used-all[before].Used >= growth, after >= 0
}

func larger(a *float64, v float64) *float64 {
	if a != nil && *a >= v {
		return a
	}
	return &v
}
