// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
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
		if u.rolled != nil && len(u.rolled.gpus) == 1 && s.outcome != None || u.part != nil && !u.named && s.outcome != None {
			u.span.Attributes().PutStr(semconv.GPUID, u.gpu())
		}
		counts.mark(u, s.outcome, s.reason)
		if s.outcome != None {
			s.bill.write(u.span.Attributes())
			s.bill.writeXIDs(u)
		}
	}
}

// gpu is the first GPU of a use.
func (u *use) gpu() string {
	if u.part != nil {
		return u.part.gpu
	}
	return u.rolled.gpus[0].gpu
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
		if u.part != nil && u.why() == "" {
			windows[u.part.gpu] = append(windows[u.part.gpu], u.times()...)
			process[u.part.gpu] = cmp.Or(process[u.part.gpu], u.pid)
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
		return b.add([]gpuWindows{{u.part.gpu, u.times()}}, u.pid, false, u.late)
	}
	key := sumKey{u.rolled, u.pid}
	s := b.sums[key]
	if s == nil {
		s = &sum{outcome: None, reason: ReasonLimit}
		if !u.rolled.excess {
			s = b.add(u.rolled.gpus, u.pid, u.rolled.coarse, gputimeline.Lateness{})
		}
		b.sums[key] = s
	}
	return s
}

func (b *billing) add(gpus []gpuWindows, pid int64, coarse bool, late gputimeline.Lateness) *sum {
	s := &sum{outcome: Measured}
	for _, g := range gpus {
		v := b.views[g.gpu]
		if v == nil {
			return &sum{outcome: None, reason: reasonNoSamples}
		}
		part := billOf(v, g.windows, pid, late, &b.settings.Energy)
		why := b.doubt(v, g.windows, part)
		switch {
		case why == reasonNoSamples:
			return &sum{outcome: None, reason: why}
		case why == "" && coarse:
			why = reasonCoarse
		}
		if why != "" {
			s.outcome, s.reason = Estimate, why
		}
		if s.bill == nil {
			s.bill = part
		} else {
			s.bill.add(part)
		}
	}
	return s
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
	case part.energyBill.reason != reasonMIG:
		return part.energyBill.reason
	}
	return ""
}
