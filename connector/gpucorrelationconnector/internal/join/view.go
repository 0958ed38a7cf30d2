// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"math"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// view is what a GPU did in the time of one trace, copied from what the joiner holds, so
// that figures are made from it without the joiner's lock.
type view struct {
	*gputimeline.Timeline // around the trace's time
	first, newest         int64
	xids                  []xidEvent
	shares                []share
	curve                 *gputimeline.Curve // nil where no energy is known
	coarse                bool               // more windows of other traces overlap than are followed
	// traced are the processes of other traces around the trace's time.
	traced map[int64]bool
	// held is the memory of the trace's processes, by pid.
	held map[int64]*gputimeline.Held
}

const (
	// maxSharers bounds the windows of other traces among which one trace's time on a GPU
	// is divided.
	maxSharers = 512
	// maxAround bounds those of them just before a window, and just after it.
	maxAround = 64
	// maxViewXIDs bounds the XIDs of one GPU that the spans of one trace are searched for.
	maxViewXIDs = 64
)

// view copies what a GPU did in windows of a trace, which are sorted and apart; nil if
// there are no samples of it.
func (j *Joiner) view(id string, trace pcommon.TraceID, pid int64, windows []gputimeline.Interval, pids map[int64]bool, s *scratch) *view {
	v, a := j.around(id, windows, pids)
	if v == nil {
		return nil
	}
	v.shares = make([]share, 0, len(windows))
	active := slices.Clone(windows)
	left := maxSharers
	for _, w := range windows {
		s.others = j.overlapping(s.others[:0], a, trace, w, left)
		if left -= len(s.others); left == 0 {
			v.coarse = true
		}
		s.around = j.overlapping(s.around[:0], a, trace, gputimeline.Interval{From: w.From - gputimeline.Margin, To: w.From}, maxAround)
		s.around = j.overlapping(s.around, a, trace, gputimeline.Interval{From: w.To, To: w.To + gputimeline.Margin}, maxAround)
		for _, some := range [][]otherUse{s.others, s.around} {
			for _, o := range some {
				active = append(active, o.Interval)
				v.traced[o.pid] = true
			}
		}
		v.shares = s.divide(v.shares, w, v.uses(pid, w, s.others, s.around))
	}
	v.curve = v.Curve(gputimeline.Union(active), j.settings.Energy.reading(v.Timeline))
	return v
}

// around copies the samples and XIDs of a GPU around windows of a trace.
func (j *Joiner) around(id string, windows []gputimeline.Interval, pids map[int64]bool) (*view, *activities) {
	j.steps.lock()
	defer j.steps.unlock()
	g := j.gpus[id]
	if g == nil || len(windows) == 0 {
		return nil, nil
	}
	newest, ok := g.Pace.Newest()
	if !ok {
		return nil, nil
	}
	hull := gputimeline.Interval{From: windows[0].From, To: windows[len(windows)-1].To}
	v := &view{Timeline: g.Window(hull, pids), first: g.Pace.Points[0].At, newest: newest, traced: map[int64]bool{}, held: map[int64]*gputimeline.Held{}}
	for pid := range pids {
		if h := g.Held(pid, hull); h != nil {
			v.held[pid] = h
		}
	}
	from, _ := slices.BinarySearchFunc(g.xids, hull.From, func(x xidEvent, at int64) int { return cmp.Compare(x.at, at) })
	for _, x := range g.xids[from:] {
		if x.at > hull.To || len(v.xids) == maxViewXIDs {
			break
		}
		v.xids = append(v.xids, x)
	}
	j.steps.count(len(v.xids))
	return v, g.active
}

// scratch is memory that is used again for each window of a batch of traces.
type scratch struct {
	others []otherUse // what others used of a window
	around []otherUse // and of the time before and after it
	turns  []int64
}

// otherUse is a time in which another trace used a GPU.
type otherUse struct {
	gputimeline.Interval
	pid int64
}

// overlapping appends what other traces used of a time, up to a number of windows of
// theirs.
func (j *Joiner) overlapping(out []otherUse, a *activities, trace pcommon.TraceID, w gputimeline.Interval, limit int) []otherUse {
	limit += len(out)
	j.steps.lock()
	defer j.steps.unlock()
	add := func(x *window) {
		if c, ok := w.Clip(x.Interval); ok && c.Length() > 0 && x.of.trace != trace && len(out) < limit {
			out = append(out, otherUse{c, x.of.pid})
		}
	}
	for p := (place{at: w.From}); len(out) < limit; { // those that began before
		j.steps.room(maxChunk)
		some := a.windows.before(p, w.From)
		if len(some) == 0 {
			break
		}
		j.steps.count(len(some))
		for _, x := range some {
			add(x)
		}
		p = some[0].place()
	}
	for p := (place{at: w.From}); len(out) < limit; { // those that began within
		j.steps.room(maxChunk)
		some := a.windows.from(p)
		if len(some) == 0 {
			break
		}
		j.steps.count(len(some))
		for _, x := range some {
			if x.From > w.To {
				return out
			}
			add(x)
		}
		last := some[len(some)-1].place()
		p = place{last.at, last.seq + 1}
	}
	return out
}

// userAt is a trace that used a GPU at some time.
type userAt struct {
	trace pcommon.TraceID
	spans []spanInterval
}

// deepest is the deepest of its spans at a time.
func (u *userAt) deepest(at int64) (id pcommon.SpanID) {
	depth := -1
	for _, s := range u.spans {
		if s.From <= at && at <= s.To && s.depth > depth {
			depth, id = s.depth, s.id
		}
	}
	return id
}

// running finds what used a GPU at a time, at most maxTraceIDs traces: the one that began
// last first.
func (j *Joiner) running(a *activities, at int64) (found []userAt) {
	for p := (place{at: at, seq: math.MaxUint64}); ; {
		j.steps.room(maxChunk)
		some := a.windows.before(p, at)
		if len(some) == 0 {
			return found
		}
		j.steps.count(len(some))
		for _, x := range slices.Backward(some) {
			if x.To < at {
				continue
			}
			if found = append(found, userAt{x.of.trace, x.of.spans}); len(found) == maxTraceIDs {
				return found
			}
		}
		p = some[0].place()
	}
}
