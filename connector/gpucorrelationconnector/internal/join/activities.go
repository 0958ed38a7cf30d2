// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"math"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// forever is the end of what has not ended.
const forever = math.MaxInt64

// activity is the time that one trace used a GPU.
type activity struct {
	trace     pcommon.TraceID
	intervals []gputimeline.Interval // sorted, apart
	from      int64
	to        int64
	// spans are those that name the GPU, for records that ask what ran at a time;
	// they are dropped when no such record can come any more.
	spans []spanInterval
}

// spanInterval is one span's time on the GPU; deeper ones are parts of others.
type spanInterval struct {
	gputimeline.Interval
	id    pcommon.SpanID
	depth int
}

// maxSpanIntervals bounds the spans that are remembered of one activity.
const maxSpanIntervals = 64

// activities are those of one GPU: what overlaps shares the GPU.
type activities struct {
	ended   []*activity // by their ends
	byTrace map[pcommon.TraceID]*activity
	open    map[pcommon.TraceID]*activity
}

func newActivities() activities {
	return activities{open: map[pcommon.TraceID]*activity{}, byTrace: map[pcommon.TraceID]*activity{}}
}

// begin notes that a trace began to use the GPU and has not ended.
func (a *activities) begin(trace pcommon.TraceID, span pcommon.SpanID, from int64, limit int) bool {
	if len(a.open) >= limit {
		return false
	}
	if a.byTrace[trace] != nil {
		return true // its spans were faster
	}
	w := gputimeline.Interval{From: from, To: forever}
	a.open[trace] = &activity{
		trace:     trace,
		intervals: []gputimeline.Interval{w},
		from:      from,
		to:        forever,
		spans:     []spanInterval{{Interval: w, id: span}},
	}
	return true
}

// end notes the whole time of a trace's spans; more of them may come.
func (a *activities) end(trace pcommon.TraceID, intervals []gputimeline.Interval, spans []spanInterval) {
	delete(a.open, trace)
	if before := a.byTrace[trace]; before != nil { // more of its spans
		i := a.firstAfter(before.to)
		for a.ended[i] != before {
			i++
		}
		a.ended = slices.Delete(a.ended, i, i+1)
		intervals = append(intervals, before.intervals...)
		spans = append(spans, before.spans...)
	}
	intervals = gputimeline.Union(intervals)
	n := &activity{trace: trace, intervals: intervals, from: intervals[0].From, to: intervals[len(intervals)-1].To, spans: spans}
	i := len(a.ended)
	for i > 0 && a.ended[i-1].to > n.to {
		i--
	}
	a.ended = slices.Insert(a.ended, i, n)
	a.byTrace[trace] = n
}

// forget drops what ended before a time, and all but the newest; it says how many it
// dropped because of their number.
func (a *activities) forget(before int64, limit int) (early int) {
	i := a.firstAfter(before)
	if over := len(a.ended) - limit; over > i {
		early, i = over-i, over
	}
	for _, x := range a.ended[:i] {
		delete(a.byTrace, x.trace)
	}
	clear(a.ended[:i])
	a.ended = a.ended[i:]
	for trace, o := range a.open {
		// What began that long ago and never ended has been forgotten by its service.
		if o.from < before {
			delete(a.open, trace)
		}
	}
	return early
}

// forgetSpans drops the spans of what ended before a time.
func (a *activities) forgetSpans(before int64) {
	for i := a.firstAfter(before) - 1; i >= 0 && a.ended[i].spans != nil; i-- {
		a.ended[i].spans = nil
	}
}

// firstAfter is the place of the first activity that ended at or after a time.
func (a *activities) firstAfter(at int64) int {
	i, _ := slices.BinarySearchFunc(a.ended, at, func(x *activity, at int64) int {
		if x.to < at {
			return -1
		}
		return 1
	})
	return i
}

// overlapping calls do with each activity that overlaps a window.
func (a *activities) overlapping(w gputimeline.Interval, do func(*activity)) {
	for _, x := range a.ended[a.firstAfter(w.From):] {
		if x.from <= w.To {
			do(x)
		}
	}
	for _, x := range a.open {
		if x.from <= w.To {
			do(x)
		}
	}
}

// share is a part of a window in which n traces used the GPU.
type share struct {
	gputimeline.Interval
	n int
}

// shares divides a trace's intervals where others begin or end.
func (a *activities) shares(trace pcommon.TraceID, intervals []gputimeline.Interval) []share {
	out := make([]share, 0, len(intervals))
	for _, w := range intervals {
		type turn struct {
			at int64
			by int
		}
		var turns []turn
		a.overlapping(w, func(x *activity) {
			if x.trace == trace {
				return
			}
			for _, other := range x.intervals {
				if c, ok := w.Clip(other); ok && c.Length() > 0 {
					turns = append(turns, turn{c.From, 1}, turn{c.To, -1})
				}
			}
		})
		slices.SortFunc(turns, func(a, b turn) int { return cmp.Compare(a.at, b.at) })
		at, n := w.From, 1
		for _, t := range turns {
			if t.at > at {
				out = append(out, share{gputimeline.Interval{From: at, To: t.at}, n})
				at = t.at
			}
			n += t.by
		}
		if at < w.To || w.Length() == 0 {
			out = append(out, share{gputimeline.Interval{From: at, To: w.To}, n})
		}
	}
	return out
}

// running finds what used the GPU at a time: of several the one that began last
// first, each with its deepest span.
func (a *activities) running(at int64) (found []userAt) {
	a.overlapping(gputimeline.Interval{From: at, To: at}, func(x *activity) {
		if !slices.ContainsFunc(x.intervals, func(w gputimeline.Interval) bool { return w.From <= at && at <= w.To }) {
			return
		}
		r := userAt{trace: x.trace, from: x.from}
		deepest := -1
		for _, s := range x.spans {
			if s.From <= at && at <= s.To && s.depth > deepest {
				deepest, r.span = s.depth, s.id
			}
		}
		found = append(found, r)
	})
	slices.SortStableFunc(found, func(a, b userAt) int { return cmp.Compare(b.from, a.from) })
	return found
}

// userAt is a trace that used a GPU at some time, and the span of it that did.
type userAt struct {
	trace pcommon.TraceID
	span  pcommon.SpanID
	from  int64
}
