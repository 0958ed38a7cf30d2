// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// use is one span's use of GPUs.
type use struct {
	span   ptrace.Span
	parent int // place of its parent, -1 if it is not here
	depth  int
	named  bool  // it names the GPU itself
	orphan bool  // the topmost span above it has a parent that is not here
	part   *part // of its GPU; nil if it has none, or several
	// many are the parts of the GPUs among which it may have used some.
	many     []*part
	pid      int64
	interval gputimeline.Interval
	// parts are the times within the interval in which it used the GPU, if that is not all
	// of it: what it did elsewhere is left out.
	parts  []gputimeline.Interval
	remote bool                 // it ran elsewhere, and used no GPU
	late   gputimeline.Lateness // of its edges
	node   bool                 // of a workflow
	offset int64                // of its host's clock, in ns
	// rolled is what lies below a span that has no GPU; nil if that is nothing.
	rolled *rolled
	reason string // why it can have no figures
}

// rolled are the windows of time of what lies below a span, by GPU. Spans above the same
// share one.
type rolled struct {
	gpus   []gpuWindows
	coarse bool // there were more windows
	excess bool // there were more GPUs
	// some is true if not all of the GPUs need have been used.
	some bool
}

type gpuWindows struct {
	gpu     string
	windows []gputimeline.Interval
}

// reasons for spans without figures, or with estimated ones.
const (
	ReasonHost      = "host"        // another host's clock, whose offset is not configured
	ReasonClock     = "clock"       // it ends in the future
	reasonNoSamples = "no_samples"  // of its GPU there are none, or none of its time
	reasonFew       = "few_samples" // shorter than two samples
	reasonGap       = "gap"         // a time without samples
	reasonHistory   = "history"     // it began before the samples that are kept
	reasonWait      = "wait"        // the samples of its end did not come in time
	reasonLost      = "card_lost"   // the GPU was lost or late
	reasonShutdown  = "shutdown"    // the collector ended
	reasonCoarse    = "coarse"      // too many windows of time, or others that shared the GPU, to follow each
	reasonUnused    = "unused"      // it used none of the GPUs that it could have used
	reasonUse       = "process_use" // whether its process used a GPU that it has open is not known
	ReasonLimit     = "limit"       // too many spans wait
)

// inherit finds the parent of every span, gives it the GPU of the nearest span above it
// that names one, and its depth. Parents that form a circle are cut.
func inherit(uses []use) {
	at := make(map[pcommon.SpanID]int, len(uses))
	for i := range uses {
		at[uses[i].span.SpanID()] = i
	}
	for i := range uses {
		u := &uses[i]
		id := u.span.ParentSpanID()
		u.parent, u.depth, u.orphan = -1, 0, false
		if p, ok := at[id]; ok && p != i {
			u.parent = p
		} else {
			u.orphan = !id.IsEmpty() && !ok
		}
	}
	const known = 1
	state := make([]int8, len(uses))
	var path []int
	for i := range uses {
		path = path[:0]
		for p := i; p >= 0 && state[p] != known; p = uses[p].parent {
			if state[p] != 0 { // it is on the path already
				uses[path[len(path)-1]].parent = -1
				break
			}
			state[p] = -1
			path = append(path, p)
		}
		for _, at := range slices.Backward(path) {
			u := &uses[at]
			if state[at] = known; u.parent < 0 {
				continue
			}
			above := &uses[u.parent]
			u.depth, u.orphan = above.depth+1, above.orphan
			if u.remote = u.remote || above.remote; u.remote {
				continue
			}
			if u.part == nil && u.many == nil && (above.part != nil || above.many != nil) {
				u.part, u.many, u.reason = above.part, above.many, cmp.Or(u.reason, above.reason)
			}
			if u.pid == 0 {
				u.pid = above.pid
			}
		}
	}
}

// maxRolledGPUs bounds the GPUs whose figures are added up on one span.
const maxRolledGPUs = 16

// below collects what lies below a span that has no GPU.
type below struct {
	same           *rolled // all of it, as long as a single child has any
	raw            []gpuWindows
	n              int // children that have any
	coarse, excess bool
	some           bool
}

func (b *below) add(gpu string, windows ...gputimeline.Interval) {
	for i := range b.raw {
		if b.raw[i].gpu == gpu {
			b.raw[i].windows = append(b.raw[i].windows, windows...)
			return
		}
	}
	if len(b.raw) == maxRolledGPUs {
		b.excess = true
		return
	}
	b.raw = append(b.raw, gpuWindows{gpu, slices.Clone(windows)})
}

// addRolled adds what lies below a child.
func (b *below) addRolled(r *rolled) {
	if b.n++; b.n == 1 {
		b.same = r
		return
	}
	b.spread()
	b.spreadOut(r)
}

// spread makes room for more than what lies below a single child.
func (b *below) spread() {
	if b.same != nil {
		same := b.same
		b.same = nil
		b.spreadOut(same)
	}
}

func (b *below) spreadOut(r *rolled) {
	b.coarse, b.excess, b.some = b.coarse || r.coarse, b.excess || r.excess, b.some || r.some
	for _, g := range r.gpus {
		b.add(g.gpu, g.windows...)
	}
}

// sum is all that was added.
func (b *below) sum() *rolled {
	if b.same != nil {
		return b.same
	}
	r := &rolled{gpus: b.raw, coarse: b.coarse, excess: b.excess, some: b.some}
	for i := range r.gpus {
		var coarse bool
		r.gpus[i].windows, coarse = unite(r.gpus[i].windows)
		r.coarse = r.coarse || coarse
	}
	return r
}

// byDepth lists the places of spans, the deepest first.
func byDepth(uses []use) []int {
	deepest := 0
	for i := range uses {
		deepest = max(deepest, uses[i].depth)
	}
	at := make([]int, deepest+2) // where those of a depth begin
	for i := range uses {
		at[deepest-uses[i].depth+1]++
	}
	for d := 1; d < len(at); d++ {
		at[d] += at[d-1]
	}
	order := make([]int, len(uses))
	for i := range uses {
		d := deepest - uses[i].depth
		order[at[d]] = i
		at[d]++
	}
	return order
}

// rollUp gives each span that has no GPU what the topmost spans below it used that have
// one: from the deepest spans up, each adds to its parent once.
func rollUp(uses []use) {
	order := byDepth(uses)
	all := make([]*below, len(uses))
	for i := range uses {
		if u := &uses[i]; u.many != nil {
			u.rolled = u.rollMany()
		}
	}
	for _, i := range order {
		u := &uses[i]
		if b := all[i]; b != nil && !u.hasGPU() {
			u.rolled = b.sum()
			all[i] = nil
		}
		if u.parent < 0 || uses[u.parent].hasGPU() || u.part == nil && u.rolled == nil {
			continue
		}
		b := all[u.parent]
		if b == nil {
			b = &below{}
			all[u.parent] = b
		}
		if u.part != nil {
			b.n++
			b.spread()
			b.add(u.part.gpu, u.times()...)
		} else {
			b.addRolled(u.rolled)
		}
		above := &uses[u.parent]
		above.pid = u.pid
		above.reason = cmp.Or(above.reason, u.why())
	}
}

// why is the reason why a span can have no figures; empty if it can.
func (u *use) why() string {
	if u.part != nil && u.part.foreign || slices.ContainsFunc(u.many, func(p *part) bool { return p.foreign }) {
		return ReasonHost
	}
	return u.reason
}

// hasGPU reports whether a span has a GPU, its own or that of a span above it.
func (u *use) hasGPU() bool { return u.part != nil || u.many != nil }

// eachPart calls do with the parts of the GPUs that a span may have used.
func (u *use) eachPart(do func(*part)) {
	if u.part != nil {
		do(u.part)
	}
	for _, p := range u.many {
		do(p)
	}
}

// rollMany is the span's time on each of several GPUs.
func (u *use) rollMany() *rolled {
	r := &rolled{some: true}
	for _, p := range u.many {
		r.gpus = append(r.gpus, gpuWindows{p.gpu, u.times()})
	}
	return r
}
