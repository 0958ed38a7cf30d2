// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"container/list"
	"math"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

const (
	// forever is the end of what has not ended.
	forever = math.MaxInt64
	// maxWindows bounds the windows of time of one trace on one GPU that are remembered.
	maxWindows = 128
	// meanWindows bounds the windows of all traces: so many times the number of traces.
	meanWindows = 4
	// maxSpanIntervals bounds the spans that are remembered of one activity.
	maxSpanIntervals = 64
)

// activity is the time that one trace used a GPU.
type activity struct {
	trace   pcommon.TraceID
	pid     int64 // of the process; 0 if it is not known
	on      *activities
	windows []*window // sorted, apart
	// spans are those that name the GPU, for records that ask what ran at a time; they are
	// dropped when no such record can come any more. The slice is replaced, not changed.
	spans   []spanInterval
	touched time.Time     // when it was last added to
	place   *list.Element // in the memory of all activities
}

// window is a time without a break in which one trace used a GPU.
type window struct {
	gputimeline.Interval
	seq uint64
	of  *activity
}

func (w *window) place() place { return place{w.From, w.seq} }
func (w *window) until() int64 { return w.To }

// spanInterval is one span's time on the GPU; deeper ones are parts of others.
type spanInterval struct {
	gputimeline.Interval
	id    pcommon.SpanID
	depth int
}

// activities are those of one GPU: what overlaps shares the GPU.
type activities struct {
	ended map[pcommon.TraceID]*activity
	open  map[pcommon.TraceID]*activity
	// windows are those of all of them.
	windows ordered[*window]
	last    int64 // the end of the last that ended
	dropped bool  // nobody asks for them any more
	opened  int   // windows of those that have not ended
}

func newActivities() *activities {
	return &activities{ended: map[pcommon.TraceID]*activity{}, open: map[pcommon.TraceID]*activity{}}
}

// idleSince is when the last trace ended, as far as it is known that none runs; forever if
// one does.
func (a *activities) idleSince() int64 {
	if len(a.open) > 0 {
		return forever
	}
	return a.last
}

// insert adds a window to an activity; i is its place there.
func (a *activities) insert(x *activity, i int, w gputimeline.Interval, seq uint64) {
	added := &window{Interval: w, seq: seq, of: x}
	if w.To != forever {
		a.last = max(a.last, w.To)
	}
	x.windows = slices.Insert(x.windows, i, added)
	a.windows.insert(added)
}

// remove removes the windows i to j of an activity.
func (a *activities) remove(x *activity, i, j int) {
	for _, w := range x.windows[i:j] {
		a.windows.remove(w)
	}
	x.windows = slices.Delete(x.windows, i, j)
}

// merge adds a window to an activity and joins it with those that it touches. It returns
// how many windows more there are.
func (a *activities) merge(x *activity, w gputimeline.Interval, seq uint64) (more int) {
	i, _ := slices.BinarySearchFunc(x.windows, w.From, func(x *window, from int64) int {
		if x.To < from {
			return -1
		}
		return 1
	})
	j := i
	for ; j < len(x.windows) && x.windows[j].From <= w.To; j++ {
		w.From, w.To = min(w.From, x.windows[j].From), max(w.To, x.windows[j].To)
	}
	if j == i+1 && x.windows[i].Interval == w {
		return 0
	}
	a.remove(x, i, j)
	a.insert(x, i, w, seq)
	return 1 + i - j
}

// recollection is the memory of the activities of all GPUs. It bounds their number.
type recollection struct {
	ended, open list.List // of *activity; those that were added to last are last
	windows     int       // of those that ended
	seq         uint64
	// fresh is the first of ended that still has its spans; those after it have theirs.
	fresh *list.Element
}

func (r *recollection) next() uint64 {
	r.seq++
	return r.seq
}

// begin notes that a trace began to use the GPU and has not ended; false if there is no
// room.
func (r *recollection) begin(a *activities, trace pcommon.TraceID, pid int64, span pcommon.SpanID, from int64, limit int, now time.Time) bool {
	if r.open.Len() >= limit {
		return false
	}
	if a.dropped || a.ended[trace] != nil {
		return true // its spans were faster
	}
	r.close(a, trace)
	w := gputimeline.Interval{From: from, To: forever}
	x := &activity{trace: trace, pid: pid, on: a, spans: []spanInterval{{Interval: w, id: span}}, touched: now}
	a.insert(x, 0, w, r.next())
	a.opened++
	x.place = r.open.PushBack(x)
	a.open[trace] = x
	return true
}

// leave notes that a trace that has not ended runs elsewhere from a time on, or that it is
// back.
func (r *recollection) leave(a *activities, trace pcommon.TraceID, at int64, gone bool) {
	x := a.open[trace]
	if x == nil {
		return
	}
	n := len(x.windows)
	last := x.windows[n-1].Interval
	switch {
	case gone == (last.To != forever) || at < last.From || !gone && at < last.To || n == maxWindows:
	case gone:
		a.remove(x, n-1, n)
		a.insert(x, n-1, gputimeline.Interval{From: last.From, To: at}, r.next())
	default:
		a.insert(x, n, gputimeline.Interval{From: at, To: forever}, r.next())
		a.opened++
	}
}

// close forgets that a trace began.
func (r *recollection) close(a *activities, trace pcommon.TraceID) {
	x := a.open[trace]
	if x == nil {
		return
	}
	a.opened -= len(x.windows)
	a.remove(x, 0, len(x.windows))
	delete(a.open, trace)
	r.open.Remove(x.place)
}

// end notes the windows of time of a trace's spans; more of them may come. Windows that
// ended before a time are dropped, and the oldest beyond maxWindows, whose number is
// returned.
func (r *recollection) end(a *activities, trace pcommon.TraceID, p *part, before int64, now time.Time) (early int) {
	if a.dropped {
		return 0
	}
	r.close(a, trace)
	x := a.ended[trace]
	if x == nil {
		x = &activity{trace: trace, on: a}
		a.ended[trace] = x
		x.place = r.ended.PushBack(x)
	}
	x.pid = cmp.Or(x.pid, p.pid)
	for _, w := range p.windows {
		r.windows += a.merge(x, w, r.next())
	}
	aged := 0
	for aged < len(x.windows)-1 && x.windows[aged].To < before {
		aged++
	}
	early = max(len(x.windows)-aged-maxWindows, 0)
	a.remove(x, 0, aged+early)
	r.windows -= aged + early
	spans := p.spans
	if more := len(x.spans) + len(spans) - maxSpanIntervals; more > 0 {
		spans = slices.Concat(x.spans[min(more, len(x.spans)):], spans)
	} else {
		spans = slices.Concat(x.spans, spans)
	}
	x.spans = spans
	r.touch(x, now)
	return early
}

// touch makes an activity the one that was added to last.
func (r *recollection) touch(x *activity, now time.Time) {
	x.touched = now
	if r.fresh == x.place {
		r.fresh = x.place.Next()
	}
	r.ended.MoveToBack(x.place)
	if r.fresh == nil {
		r.fresh = x.place
	}
}

// forget forgets an activity that ended.
func (r *recollection) forget(x *activity) {
	if r.fresh == x.place {
		r.fresh = x.place.Next()
	}
	r.ended.Remove(x.place)
	if x.on.dropped {
		return
	}
	r.windows -= len(x.windows)
	x.on.remove(x, 0, len(x.windows))
	delete(x.on.ended, x.trace)
}

// drop forgets all activities of a GPU. They are found in the memory until they would
// have been forgotten anyway, with nothing that can be reached from elsewhere.
func (r *recollection) drop(a *activities) {
	r.windows -= a.windows.n - a.opened
	a.dropped = true
}

// remember makes room for when a part of a trace used its GPU, and stores it.
func (j *Joiner) remember(g *gpu, trace pcommon.TraceID, p *part, now time.Time) {
	before := now.Add(-j.settings.History).UnixNano()
	limit, items := j.settings.Limits.Traces, len(p.windows)+len(p.spans)+maxWindows
	for {
		j.steps.room(items)
		if g.active.dropped || g.active.ended[trace] != nil || j.memory.ended.Len() < limit {
			break
		}
		j.forgetFirst()
	}
	j.steps.count(items)
	j.countForgotten("window", j.memory.end(g.active, trace, p, before, now))
	for {
		j.steps.room(maxWindows + 1)
		if j.memory.windows <= max(meanWindows*limit, maxWindows) {
			return
		}
		j.forgetFirst()
	}
}

// forgetFirst forgets the activity that was not added to for the longest time, to make
// room.
func (j *Joiner) forgetFirst() {
	first := j.memory.ended.Front().Value.(*activity)
	j.steps.count(len(first.windows) + 1)
	if !first.on.dropped {
		j.countForgotten("trace", 1)
	}
	j.memory.forget(first)
}

// forgetOld forgets what is older than the history, and the spans of what is older than
// records can be.
func (j *Joiner) forgetOld(now time.Time) {
	for {
		j.steps.room(maxWindows + 1)
		front := j.memory.ended.Front()
		if front == nil || now.Sub(front.Value.(*activity).touched) <= j.settings.History+j.settings.Wait {
			break
		}
		x := front.Value.(*activity)
		j.steps.count(len(x.windows) + 1)
		j.memory.forget(x)
	}
	for {
		j.steps.next(1)
		fresh := j.memory.fresh
		if fresh == nil || now.Sub(fresh.Value.(*activity).touched) <= j.settings.Wait {
			break
		}
		fresh.Value.(*activity).spans = nil
		j.memory.fresh = fresh.Next()
	}
	for {
		j.steps.next(2)
		front := j.memory.open.Front()
		// What began that long ago and never ended has been forgotten by its service.
		if front == nil || now.Sub(front.Value.(*activity).touched) <= j.settings.History {
			return
		}
		x := front.Value.(*activity)
		j.memory.close(x.on, x.trace)
	}
}
