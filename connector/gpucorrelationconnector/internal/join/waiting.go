// SPDX-License-Identifier: Apache-2.0

package join

import (
	"container/heap"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// waitingTrace is one trace whose spans wait for the samples of its GPUs.
type waitingTrace struct {
	trace   pcommon.TraceID
	traces  ptrace.Traces
	uses    []use
	spans   int
	bytes   int
	arrived time.Time
	missing int // GPUs whose samples do not cover it yet
	done    bool
	// cause is why it no longer waits, if its samples are not complete.
	cause string
}

// spanOverhead is the memory of a waiting span beyond its size in OTLP, in bytes
// (make bench-correlation measures it).
const spanOverhead = 660

// need is the time up to which a waiting trace needs the samples of a GPU.
type need struct {
	end int64
	by  *waitingTrace
}

// needs is a heap by time.
type needs []need

func (n needs) Len() int           { return len(n) }
func (n needs) Less(i, j int) bool { return n[i].end < n[j].end }
func (n needs) Swap(i, j int)      { n[i], n[j] = n[j], n[i] }
func (n *needs) Push(x any)        { *n = append(*n, x.(need)) }
func (n *needs) Pop() any {
	last := len(*n) - 1
	x := (*n)[last]
	(*n)[last] = need{}
	*n = (*n)[:last]
	return x
}

// dropDone removes needs of traces that no longer wait.
func (n *needs) dropDone() {
	for len(*n) > 0 && (*n)[0].by.done {
		heap.Pop(n)
	}
}

// finishCovered makes ready the traces whose last missing samples are there.
func (j *Joiner) finishCovered(g *gpu) {
	for len(g.queue) > 0 && (g.queue[0].by.done || g.Covers(g.queue[0].end)) {
		w := heap.Pop(&g.queue).(need).by
		w.missing--
		if w.missing == 0 && !w.done {
			j.finish(w, "")
		}
	}
}

// trim drops what is older than a time, and all but the newest traces. It returns how
// many traces were dropped because of their number.
func (g *gpu) trim(before int64, maxTraces int) (traces int) {
	g.xids = slices.DeleteFunc(g.xids, func(x xidEvent) bool { return x.at < before })
	return g.active.forget(before, maxTraces)
}

// addTrace holds a trace; false if it is to be passed on at once.
func (j *Joiner) addTrace(td ptrace.Traces, now time.Time) (held bool) {
	uses := j.usesOf(td, now)
	id := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID()
	before := j.byTrace[id]
	if uses == nil && before == nil {
		return false
	}
	w := &waitingTrace{
		trace:   id,
		traces:  td,
		uses:    uses,
		spans:   td.SpanCount(),
		bytes:   j.sizer.TracesSize(td) + td.SpanCount()*spanOverhead,
		arrived: now,
	}
	if j.spans+w.spans > j.settings.Limits.Spans || j.bytes+w.bytes > j.settings.Limits.Bytes {
		if before != nil { // in its order
			j.finish(before, ReasonLimit)
		}
		j.refuse(uses, ReasonLimit)
		if before == nil {
			return false
		}
		w.uses, w.done = nil, true
		j.ready = append(j.ready, w)
		j.spans += w.spans
		j.bytes += w.bytes
		return true
	}
	if before != nil { // the trace goes on: its spans stay together
		j.subtract(before)
		before.done = true
		before.traces.ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
		w.spans += before.spans
		w.bytes += before.bytes
		w.arrived = before.arrived
		w.uses = j.usesOf(td, now)
	}
	j.wait(w)
	return true
}

// wait queues a trace with each GPU whose samples do not cover it yet.
func (j *Joiner) wait(w *waitingTrace) {
	j.byTrace[w.trace] = w
	j.spans += w.spans
	j.bytes += w.bytes
	ends := map[string]int64{}
	for i := range w.uses {
		if u := &w.uses[i]; u.gpu != "" && u.reason == "" {
			ends[u.gpu] = max(ends[u.gpu], u.interval.To)
		}
	}
	j.remember(w)
	for id, end := range ends {
		g := j.gpuOf(id)
		if g != nil && !g.Covers(end) {
			heap.Push(&g.queue, need{end, w})
			w.missing++
		}
	}
	if w.missing == 0 {
		j.finish(w, "")
		return
	}
	j.arrived = append(j.arrived, w)
}

// remember stores when the trace used its GPUs.
func (j *Joiner) remember(w *waitingTrace) {
	intervals, spans := map[string][]gputimeline.Interval{}, map[string][]spanInterval{}
	for i := range w.uses {
		u := &w.uses[i]
		if u.gpu == "" || u.reason != "" {
			continue
		}
		intervals[u.gpu] = append(intervals[u.gpu], u.interval)
		if len(spans[u.gpu]) < maxSpanIntervals {
			spans[u.gpu] = append(spans[u.gpu], spanInterval{u.interval, u.span.SpanID(), u.depth})
		}
	}
	for id, all := range intervals {
		if g := j.gpuOf(id); g != nil {
			g.active.end(w.trace, all, spans[id])
			j.joinWaitingRecords(g)
		}
	}
}

// finish makes a trace ready: its samples are complete, or there is a cause not to wait.
func (j *Joiner) finish(w *waitingTrace, cause string) {
	w.done, w.cause = true, cause
	delete(j.byTrace, w.trace)
	j.ready = append(j.ready, w)
}

// subtract removes a trace's size from what waits.
func (j *Joiner) subtract(w *waitingTrace) {
	j.spans -= w.spans
	j.bytes -= w.bytes
}
