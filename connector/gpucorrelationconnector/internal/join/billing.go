// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"maps"
	"slices"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// refuse marks spans that get no figures.
func (c *Counters) refuse(uses []use, reason string) {
	rollUp(uses)
	for i := range uses {
		if u := &uses[i]; u.part != nil || u.rolled != nil {
			c.mark(u, None, reason)
		}
	}
}

func (c *Counters) mark(u *use, outcome, reason string) {
	c.Spans[SpanOutcome{outcome, reason}]++
	a := u.span.Attributes()
	a.PutStr("gpu.correlation", outcome)
	if reason != "" {
		a.PutStr("gpu.correlation.reason", reason)
	}
}

// addSpans adds what became of spans.
func (c *Counters) addSpans(other *Counters) {
	for o, n := range other.Spans {
		c.Spans[o] += n
	}
}

// all are the uses of all pieces of a trace: a span may inherit from one in another piece.
func (w *waitingTrace) all() []use {
	if len(w.pieces) == 1 {
		return w.pieces[0].uses
	}
	all := make([]use, 0, w.spans)
	for _, p := range w.pieces {
		all = append(all, p.uses...)
	}
	inherit(all)
	return all
}

// billing makes the figures of one trace.
type billing struct {
	*Joiner
	trace *waitingTrace
	uses  []use
	views map[string]*view
	*scratch
	// sums are those of spans without a GPU: spans above the same have the same.
	sums map[sumKey]*sum
}

type sumKey struct {
	of  *rolled
	pid int64
}

// sum is what one span's use of all its GPUs came to.
type sum struct {
	bill            *bill
	outcome, reason string
	of              []gpuBill
}

// gpuBill is what one span's use of one GPU came to.
type gpuBill struct {
	gpu             string
	bill            *bill
	outcome, reason string
}

// bill writes figures onto the spans of a trace.
func (j *Joiner) bill(w *waitingTrace, counts *Counters, s *scratch) {
	if w.refused {
		counts.refuse(w.all(), ReasonLimit)
		return
	}
	b := &billing{Joiner: j, trace: w, uses: w.all(), views: map[string]*view{}, sums: map[sumKey]*sum{}, scratch: s}
	rollUp(b.uses)
	b.view()
	for i := range b.uses {
		u := &b.uses[i]
		if u.part == nil && u.rolled == nil {
			continue
		}
		if reason := u.why(); reason != "" {
			counts.mark(u, None, reason)
			continue
		}
		s := b.sum(u)
		counts.mark(u, s.outcome, s.reason)
		if s.outcome == None {
			continue
		}
		s.writeGPUs(u)
		s.bill.write(u.span.Attributes())
		s.bill.writeXIDs(u)
	}
	listed := 0
	for i := range b.uses {
		if u := &b.uses[i]; u.named && u.many != nil && u.why() == "" && listed < maxListed {
			b.writeEach(u)
			listed++
		}
	}
}

// view copies what each GPU of the trace did in the trace's time.
func (b *billing) view() {
	windows, pids := map[string][]gputimeline.Interval{}, map[int64]bool{}
	process := map[string]int64{}
	for i := range b.uses {
		u := &b.uses[i]
		if u.pid != 0 {
			pids[u.pid] = true
		}
		if u.why() == "" {
			u.eachPart(func(p *part) {
				windows[p.gpu] = append(windows[p.gpu], u.times()...)
				process[p.gpu] = cmp.Or(process[p.gpu], u.pid)
			})
		}
	}
	for id, all := range windows {
		united, _ := unite(all)
		if v := b.Joiner.view(id, b.trace.trace, process[id], united, pids, b.scratch); v != nil {
			b.views[id] = v
		}
	}
}

// sum adds up what one span used of its GPUs.
func (b *billing) sum(u *use) *sum {
	if u.part != nil {
		return b.add(&rolled{gpus: []gpuWindows{{u.part.gpu, u.times()}}}, u.pid, u.late)
	}
	key := sumKey{u.rolled, u.pid}
	s := b.sums[key]
	if s == nil {
		s = &sum{outcome: None, reason: ReasonLimit}
		if !u.rolled.excess {
			s = b.add(u.rolled, u.pid, u.late)
		}
		b.sums[key] = s
	}
	return s
}

func (b *billing) add(r *rolled, pid int64, late gputimeline.Lateness) *sum {
	s := &sum{outcome: Measured}
	for _, g := range r.gpus {
		v, sure := b.views[g.gpu], true
		if r.some && v != nil {
			var used bool
			if used, sure = v.used(pid, g.windows); !used {
				continue
			}
		}
		x := b.billOn(v, g, pid, late)
		switch {
		case x.outcome == None && r.some: // it may have been used
			s.outcome, s.reason = Estimate, x.reason
			continue
		case x.outcome == None:
			return &sum{outcome: None, reason: x.reason}
		case x.outcome == Measured && r.coarse:
			x.outcome, x.reason = Estimate, reasonCoarse
		case x.outcome == Measured && !sure:
			x.outcome, x.reason = Estimate, reasonUse
		}
		if x.outcome == Estimate {
			s.outcome, s.reason = Estimate, x.reason
		}
		s.of = append(s.of, x)
	}
	switch len(s.of) {
	case 0:
		return &sum{outcome: None, reason: cmp.Or(s.reason, reasonUnused)}
	case 1:
		s.bill = s.of[0].bill
	default:
		s.bill = &bill{}
		*s.bill = *s.of[0].bill
		s.bill.throttle = maps.Clone(s.bill.throttle)
		s.bill.xids = slices.Clone(s.bill.xids)
		for _, x := range s.of[1:] {
			s.bill.add(x.bill)
		}
	}
	return s
}

// billOn is what a span's use of one GPU came to.
func (b *billing) billOn(v *view, g gpuWindows, pid int64, late gputimeline.Lateness) gpuBill {
	x := gpuBill{gpu: g.gpu, outcome: Measured}
	if v == nil {
		x.outcome, x.reason = None, reasonNoSamples
		return x
	}
	x.bill = billOf(v, g.windows, pid, late, &b.settings.Energy)
	switch x.reason = b.doubt(v, g.windows, x.bill); x.reason {
	case "":
	case reasonNoSamples:
		x.outcome = None
	default:
		x.outcome = Estimate
	}
	return x
}

// doubt is the reason why the figures of some intervals are only an estimate; empty if
// they are measured.
func (b *billing) doubt(v *view, intervals []gputimeline.Interval, part *bill) string {
	from, to := intervals[0].From, intervals[len(intervals)-1].To
	switch gap := b.settings.MaxGap; {
	case part.samples == 0 && (from > v.newest+gap.Nanoseconds() || to < v.first):
		return reasonNoSamples
	case to > v.newest && v.Ended != 0:
		return reasonLost
	case to > v.newest:
		return cmp.Or(b.trace.cause, reasonWait)
	case from < v.first:
		return reasonHistory
	case part.gap > gap:
		return reasonGap
	case v.coarse:
		return reasonCoarse
	case part.samples < 2:
		return reasonFew
	case part.reason != reasonMIG:
		return part.reason
	}
	return ""
}
