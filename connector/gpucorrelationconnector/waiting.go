// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"container/heap"
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/batchpersignal"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// waiting is one trace whose spans wait for the samples of its GPUs.
type waiting struct {
	trace   pcommon.TraceID
	traces  ptrace.Traces
	uses    []use
	spans   int
	bytes   int
	arrived time.Time
	missing int // GPUs whose samples do not cover it yet
	over    bool
	// because says why it does not wait any more, if not because all is there.
	because string
}

// spanOverhead is what a span takes in memory beyond its size in OTLP, in bytes
// (make bench-correlation measures it).
const spanOverhead = 660

// need is the time up to which a waiting trace needs the samples of a GPU.
type need struct {
	end int64
	by  *waiting
}

// needs are a heap by their times.
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

// correlator joins samples, traces and records. It is told what came and what time
// it is, and gives back what is to be passed on; it neither waits nor sends, and is
// not safe for concurrent use.
type correlator struct {
	cfg       *Config
	timelines timelines
	count     counts

	byTrace map[pcommon.TraceID]*waiting
	arrived []*waiting // in the order of their arrival; those that are over are skipped
	ready   []*waiting
	spans   int
	bytes   int
	sizer   ptrace.ProtoMarshaler

	held    []*heldRecord // in the order of their arrival
	records []plog.Logs   // ready
}

// counts are told to the collector's own telemetry.
type counts struct {
	sampleCounts
	spans     map[spanOutcome]int64
	records   map[string]int64
	forgotten map[string]int64
}

type spanOutcome struct{ outcome, reason string }

// The outcomes of spans that name a GPU.
const (
	measured = "measured"
	estimate = "estimate"
	none     = "none"
	dropped  = "dropped"
)

func newCorrelator(cfg *Config) *correlator {
	return &correlator{
		cfg: cfg, timelines: timelines{byID: map[string]*timeline{}, limits: &cfg.Limits},
		count:   counts{spans: map[spanOutcome]int64{}, records: map[string]int64{}, forgotten: map[string]int64{}},
		byTrace: map[pcommon.TraceID]*waiting{},
	}
}

func (c *correlator) forgot(what string, n int) {
	if n > 0 {
		c.count.forgotten[what] += int64(n)
	}
}

// takeMetrics takes a scrape of samples in; traces that it covers become ready.
func (c *correlator) takeMetrics(md pmetric.Metrics) {
	for t := range c.timelines.take(md, &c.count.sampleCounts) {
		samples, traces := t.forget(c.cfg.History, &c.cfg.Limits)
		c.count.dropped += int64(samples)
		c.forgot("trace", traces)
		for len(t.queue) > 0 && (t.queue[0].by.over || t.covers(t.queue[0].end)) {
			w := heap.Pop(&t.queue).(need).by
			w.missing--
			if w.missing == 0 && !w.over {
				c.finish(w, "")
			}
		}
	}
}

// takeTraces takes finished spans in. What names no GPU and what finds no room is
// given back to be passed on at once.
func (c *correlator) takeTraces(td ptrace.Traces, now time.Time) (pass []ptrace.Traces) {
	for _, one := range batchpersignal.SplitTraces(td) {
		if through := c.takeTrace(one, now); through != nil {
			pass = append(pass, *through)
		}
	}
	return pass
}

func (c *correlator) takeTrace(td ptrace.Traces, now time.Time) (pass *ptrace.Traces) {
	uses := c.lookAt(td, now)
	id := traceID(td)
	before := c.byTrace[id]
	if uses == nil && before == nil {
		return &td
	}
	w := &waiting{trace: id, traces: td, uses: uses, spans: td.SpanCount(), bytes: c.sizer.TracesSize(td) + td.SpanCount()*spanOverhead, arrived: now}
	if c.spans+w.spans > c.cfg.Limits.Spans || c.bytes+w.bytes > c.cfg.Limits.Bytes {
		if before != nil { // in its order
			c.finish(before, reasonLimit)
		}
		c.refuse(uses, reasonLimit)
		if before == nil {
			return &td
		}
		w.uses, w.over = nil, true
		c.ready = append(c.ready, w)
		c.spans += w.spans
		c.bytes += w.bytes
		return nil
	}
	if before != nil { // the trace goes on: its spans stay together
		c.leave(before)
		before.over = true
		before.traces.ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
		w.spans += before.spans
		w.bytes += before.bytes
		w.arrived = before.arrived
		w.uses = c.lookAt(td, now)
	}
	c.wait(w)
	return nil
}

func traceID(td ptrace.Traces) pcommon.TraceID {
	return td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID()
}

// wait queues a trace with each GPU whose samples do not cover it yet.
func (c *correlator) wait(w *waiting) {
	c.byTrace[w.trace] = w
	c.spans += w.spans
	c.bytes += w.bytes
	ends := map[string]int64{}
	for i := range w.uses {
		if u := &w.uses[i]; u.gpu != "" && u.reason == "" {
			ends[u.gpu] = max(ends[u.gpu], u.window.to)
		}
	}
	c.remember(w)
	for id, end := range ends {
		t := c.timelines.of(id, notSampled)
		if t != nil && !t.covers(end) {
			heap.Push(&t.queue, need{end, w})
			w.missing++
		}
	}
	if w.missing == 0 {
		c.finish(w, "")
		return
	}
	c.arrived = append(c.arrived, w)
}

// remember notes when the trace used its GPUs.
func (c *correlator) remember(w *waiting) {
	windows, spans := map[string][]window{}, map[string][]spanWindow{}
	for i := range w.uses {
		u := &w.uses[i]
		if u.gpu == "" || u.reason != "" {
			continue
		}
		windows[u.gpu] = append(windows[u.gpu], u.window)
		if len(spans[u.gpu]) < mostSpanWindows {
			spans[u.gpu] = append(spans[u.gpu], spanWindow{u.window, u.span.SpanID(), u.depth})
		}
	}
	for id, all := range windows {
		if t := c.timelines.of(id, notSampled); t != nil {
			t.active.end(w.trace, all, spans[id])
			c.joinHeld(t)
		}
	}
}

// finish makes a trace ready, because it is covered or for another reason.
func (c *correlator) finish(w *waiting, because string) {
	w.over, w.because = true, because
	delete(c.byTrace, w.trace)
	c.ready = append(c.ready, w)
}

// leave takes a trace's size off what waits.
func (c *correlator) leave(w *waiting) {
	c.spans -= w.spans
	c.bytes -= w.bytes
}

// expire makes ready what has waited long enough.
func (c *correlator) expire(now time.Time) {
	i := 0
	for ; i < len(c.arrived); i++ {
		w := c.arrived[i]
		if !w.over && now.Sub(w.arrived) < c.cfg.Wait {
			break
		}
		if !w.over {
			c.finish(w, reasonWait)
		}
		c.arrived[i] = nil
	}
	c.arrived = c.arrived[i:]
	before := now.Add(-c.cfg.Wait).UnixNano()
	for _, t := range c.timelines.byID {
		t.active.forgetSpans(before)
		for len(t.queue) > 0 && t.queue[0].by.over {
			heap.Pop(&t.queue)
		}
	}
	c.expireRecords(now)
}

// end makes everything ready.
func (c *correlator) end() {
	for _, w := range c.arrived {
		if !w.over {
			c.finish(w, reasonShutdown)
		}
	}
	c.arrived = nil
}

// take bills the traces that are ready and gives them away.
func (c *correlator) take() (td ptrace.Traces, any bool) {
	const most = 512 // traces at once: the next consumer need not take them all in one piece
	td = ptrace.NewTraces()
	n := min(len(c.ready), most)
	for _, w := range c.ready[:n] {
		c.bill(w)
		c.leave(w)
		w.traces.ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
	}
	clear(c.ready[:n])
	if c.ready = c.ready[n:]; len(c.ready) == 0 {
		c.ready = nil
	}
	return td, n > 0
}

// refuse marks spans that get no figures.
func (c *correlator) refuse(uses []use, reason string) {
	for i := range uses {
		if u := &uses[i]; u.gpu != "" || u.rolled != nil {
			c.mark(u, none, reason)
		}
	}
}

func (c *correlator) mark(u *use, outcome, reason string) {
	c.count.spans[spanOutcome{outcome, reason}]++
	a := u.span.Attributes()
	a.PutStr("gpu.correlation", outcome)
	if reason != "" {
		a.PutStr("gpu.correlation.reason", reason)
	}
}

// bill writes figures onto the spans of a trace.
func (c *correlator) bill(w *waiting) {
	shares := map[string][]share{}
	for i := range w.uses {
		u := &w.uses[i]
		if u.gpu != "" && u.rolled == nil {
			u.rolled = map[string][]window{u.gpu: {u.window}}
		}
		if u.rolled == nil {
			continue
		}
		if u.reason != "" {
			c.mark(u, none, u.reason)
			continue
		}
		var sum *bill
		outcome, reason := measured, ""
		for gpu, windows := range u.rolled {
			t := c.timelines.byID[gpu]
			if t == nil || len(t.pace.points) == 0 {
				outcome, reason = none, reasonNoSamples
				break
			}
			windows = union(windows)
			if _, ok := shares[gpu]; !ok {
				all := windows
				if known := t.active.byTrace[w.trace]; known != nil {
					all = known.windows
				}
				shares[gpu] = t.active.shares(w.trace, all)
			}
			b := billOf(t, windows, shares[gpu], u.pid)
			if why := c.doubt(t, windows, b, w.because); why == reasonNoSamples {
				outcome, reason = none, why
				break
			} else if why != "" {
				outcome, reason = estimate, why
			}
			if sum == nil {
				sum = b
			} else {
				sum.add(b)
			}
			if len(u.rolled) == 1 && !u.own {
				u.span.Attributes().PutStr("hw.id", gpu)
			}
		}
		c.mark(u, outcome, reason)
		if outcome != none {
			sum.write(u.span.Attributes())
			sum.tell(u)
		}
	}
}

// doubt says why the figures of some windows are no more than an estimate; empty if
// they are measured.
func (c *correlator) doubt(t *timeline, windows []window, b *bill, because string) string {
	first := t.pace.points[0].at
	newest, _ := t.pace.newest()
	from, to := windows[0].from, windows[len(windows)-1].to
	switch gap := c.cfg.MaxGap.Nanoseconds(); {
	case b.samples == 0 && (from > newest+gap || to < first-gap):
		return reasonNoSamples
	case to > newest && t.ended != 0:
		return reasonLost
	case to > newest && because != "":
		return because
	case from < first:
		return reasonHistory
	case b.gap > c.cfg.MaxGap:
		return reasonGap
	case b.samples < 2:
		return reasonFew
	}
	return ""
}
