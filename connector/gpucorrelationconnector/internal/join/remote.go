// SPDX-License-Identifier: Apache-2.0

package join

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// nodeLateness is by how much ComfyUI's messages may be late that a node begins or has
// ended, in ns.
const nodeLateness = int64(150 * time.Millisecond)

// findLate finds which edges of nodes may be late: those that are not of the span above.
func findLate(uses []use) {
	for i := range uses {
		u := &uses[i]
		if !u.node || u.parent < 0 {
			continue
		}
		above := &uses[u.parent]
		if u.interval.From > above.interval.From {
			u.late.From = nodeLateness
		}
		if u.interval.To < above.interval.To {
			u.late.To = nodeLateness
		}
	}
}

// maxAbove bounds the spans above one that runs elsewhere from which it is left out.
const maxAbove = 16

// times are the times in which a span used its GPU.
func (u *use) times() []gputimeline.Interval {
	if u.parts != nil {
		return u.parts
	}
	return []gputimeline.Interval{u.interval}
}

// leaveOut leaves the spans that ran elsewhere out of the times of those above them, except
// where another span below ran on the GPU meanwhile.
func leaveOut(uses []use) {
	elsewhere := map[int][]gputimeline.Interval{}
	for i := range uses {
		if !uses[i].remote {
			continue
		}
		eachAbove(uses, i, func(at int) { elsewhere[at] = append(elsewhere[at], uses[i].interval) })
	}
	if len(elsewhere) == 0 {
		return
	}
	local := map[int][]gputimeline.Interval{}
	for i := range uses {
		if _, above := elsewhere[i]; uses[i].remote || !uses[i].hasGPU() || above {
			continue
		}
		eachAbove(uses, i, func(at int) {
			if elsewhere[at] != nil {
				local[at] = append(local[at], uses[i].interval)
			}
		})
	}
	for at, out := range elsewhere {
		u := &uses[at]
		parts := local[at]
		from := u.interval.From
		for _, w := range gputimeline.Union(out) {
			if w.From > from {
				parts = append(parts, gputimeline.Interval{From: from, To: min(w.From, u.interval.To)})
			}
			from = max(from, w.To)
		}
		if from < u.interval.To {
			parts = append(parts, gputimeline.Interval{From: from, To: u.interval.To})
		}
		if u.parts, _ = unite(parts); len(u.parts) == 0 { // all of it ran elsewhere
			u.parts = []gputimeline.Interval{{From: u.interval.From, To: u.interval.From}}
		}
	}
}

// eachAbove calls do with the spans above one that have a GPU, up to a number.
func eachAbove(uses []use, i int, do func(at int)) {
	for at, n := uses[i].parent, 0; at >= 0 && n < maxAbove; at, n = uses[at].parent, n+1 {
		if uses[at].hasGPU() {
			do(at)
		}
	}
}
