// SPDX-License-Identifier: Apache-2.0

package join

import (
	"encoding/binary"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// bigSpan is a span of a trace that has more of them than a byte can count.
type bigSpan struct {
	trace, id, parent uint64
	gpu               string
	from, to          float64
}

func traceOf(n uint64) (id pcommon.TraceID) {
	binary.BigEndian.PutUint64(id[8:], n)
	return id
}

func bigTrace(spans ...bigSpan) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("host.name", "node-1")
	all := rs.ScopeSpans().AppendEmpty().Spans()
	all.EnsureCapacity(len(spans))
	id := func(n uint64) (id pcommon.SpanID) { binary.BigEndian.PutUint64(id[:], n); return id }
	for _, s := range spans {
		span := all.AppendEmpty()
		span.SetTraceID(traceOf(s.trace))
		span.SetSpanID(id(s.id))
		span.SetParentSpanID(id(s.parent))
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(gpuload.At(s.from)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(gpuload.At(s.to)))
		if s.gpu != "" {
			span.Attributes().PutStr("hw.id", s.gpu)
		}
	}
	return td
}

// sampleAt is what a GPU did at a time, by a clock that shows another.
func sampleAt(s, shown float64, gpu *gpuload.Load) pmetric.Metrics {
	md := gpuload.Sample(s, gpu)
	for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		m.Gauge().DataPoints().At(0).SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(shown)))
	}
	return md
}

// drain returns what is ready.
func drain(c *Joiner) (all []ptrace.Traces, spans int) {
	for {
		td, ok := c.NextTraces()
		if !ok {
			return all, spans
		}
		all, spans = append(all, td), spans+td.SpanCount()
	}
}

// hostile is input that once made the correlator slow, or grow.
type hostile struct {
	name    string
	full    int     // the amount of the benchmark
	short   int     // and of the test
	joiners int     // that get the amount, for what lasts a short time
	bounds  float64 // MiB that one may hold afterwards
	// prepare makes an amount of input and a joiner; run is what is measured, and returns
	// the spans that came out, of as many that went in.
	prepare func(n int) (c *Joiner, run func() (in, out int))
}

var hostiles = []hostile{
	{"trace_of_10000_spans", 10_000, 2_000, 4, 4, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		samples(c, 0, 60, 0.1, gpuload.Steady(gpuload.A, 0, 60))
		nested := n / 6
		var spans []bigSpan
		for i := range nested {
			spans = append(spans, bigSpan{1, uint64(i + 1), uint64(i), "", 0, 50})
		}
		for i := nested; i < n; i++ { // apart from each other
			from := 50 * float64(i-nested) / float64(n)
			spans = append(spans, bigSpan{1, uint64(i + 1), uint64(nested), gpuload.A, from, from + 25/float64(n)})
		}
		td := bigTrace(spans...)
		return c, func() (int, int) {
			c.AddTraces(td, gpuload.At(60))
			_, out := drain(c)
			return n, out
		}
	}},
	{"traces_on_a_gpu_never_sampled", 100_000, 10_000, 1, 12, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		samples(c, 0, 60, 0.1, gpuload.Steady(gpuload.A, 0, 60))
		for i := range uint64(c.settings.Limits.Traces) { // as many as are remembered
			c.AddTraces(bigTrace(bigSpan{1<<32 + i, 1, 0, "GPU-never", 58, 59}), gpuload.At(59))
		}
		c.Expire(gpuload.At(69))
		drain(c)
		var all []ptrace.Traces
		for i := range n {
			at := 60 + float64(i)/500
			all = append(all, bigTrace(bigSpan{uint64(i + 1), 1, 0, "GPU-never", at - 1, at}))
		}
		return c, func() (in, out int) {
			for i, td := range all {
				at := gpuload.At(60 + float64(i)/500)
				for _, td := range c.AddTraces(td, at) {
					out += td.SpanCount()
				}
				if in++; i%50 == 49 || i == n-1 {
					c.Expire(at)
					_, spans := drain(c)
					out += spans
				}
			}
			c.Finish()
			_, spans := drain(c)
			return in, out + spans
		}
	}},
	{"held_records", 10_000, 2_000, 2, 8, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		samples(c, 0, 60, 0.1, gpuload.Steady(gpuload.A, 0, 60), gpuload.Steady(gpuload.B, 0, 60))
		var all []plog.Logs
		for i := range n {
			all = append(all, gpuload.XIDRecord(50*float64(i)/float64(n), gpuload.A))
		}
		var traces []ptrace.Traces
		for i := range n { // beside the records, but for the last, which joins them all
			at := 55 + float64(i)/float64(n)
			traces = append(traces, bigTrace(bigSpan{uint64(i + 1), 1, 0, gpuload.A, at, at + 1/float64(n)}))
		}
		traces = append(traces, bigTrace(bigSpan{uint64(n + 1), 1, 0, gpuload.A, 0, 50}))
		return c, func() (in, out int) {
			for _, ld := range all {
				c.AddLogs(ld, gpuload.At(60))
			}
			for _, td := range traces {
				c.AddTraces(td, gpuload.At(60))
				in++
			}
			_, out = drain(c)
			records := 0
			for ld, ok := c.NextRecords(); ok; ld, ok = c.NextRecords() {
				records += ld.LogRecordCount()
			}
			return in + n, out + records
		}
	}},
	{"overlapping_traces", 20_000, 6_000, 1, 12, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		samples(c, 0, 60, 0.1, gpuload.Steady(gpuload.A, 0, 60))
		var all []ptrace.Traces
		for i := range n {
			all = append(all, bigTrace(bigSpan{uint64(i + 1), 1, 0, gpuload.A, 50 + float64(i)/float64(n), 52 + float64(i)/float64(n)}))
		}
		return c, func() (in, out int) {
			for _, td := range all {
				c.AddTraces(td, gpuload.At(60))
				in++
			}
			_, out = drain(c)
			return in, out
		}
	}},
	{"pieces_of_a_trace", 4_000, 2_000, 8, 4, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		gpu := gpuload.Steady(gpuload.A, 0, 60)
		samples(c, 0, 50, 0.1, gpu)
		var all []ptrace.Traces
		for i := range n { // above and beside each other
			from := 51 + float64(i)/float64(n)
			all = append(all, bigTrace(bigSpan{1, uint64(i + 1), uint64(i + 2), []string{gpuload.A, ""}[i%2], from, from + 0.5/float64(n)}))
		}
		var rest []pmetric.Metrics
		for i := range 30 {
			rest = append(rest, gpuload.Sample(50.1+float64(i)/10, gpu))
		}
		return c, func() (in, out int) {
			for _, td := range all {
				for _, td := range c.AddTraces(td, gpuload.At(55)) {
					out += td.SpanCount()
				}
				in++
			}
			for _, md := range rest {
				c.AddMetrics(md)
			}
			_, spans := drain(c)
			return in, out + spans
		}
	}},
	{"constant_traceparent", 20_000, 4_000, 1, 4, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		gpu := gpuload.Steady(gpuload.A, 0, 1e9)
		gpu.Joules = 1000
		var all []ptrace.Traces
		var mds []pmetric.Metrics
		for i := range n {
			at := float64(i) / 10
			all = append(all, bigTrace(bigSpan{1, uint64(3*i + 1), 7, "", at, at + 0.09}, bigSpan{1, uint64(3*i + 2), uint64(3*i + 1), gpuload.A, at + 0.02, at + 0.08}, bigSpan{1, uint64(3*i + 3), uint64(3*i + 2), "", at + 0.02, at + 0.05}))
			mds = append(mds, gpuload.Sample(at+0.1, gpu))
		}
		return c, func() (in, out int) {
			for i, td := range all {
				now := gpuload.At(float64(i)/10 + 0.1)
				c.AddTraces(td, now)
				c.AddMetrics(mds[i])
				c.Expire(now)
				_, spans := drain(c)
				in, out = in+3, out+spans
			}
			c.Finish() // the last ones wait for samples after their end
			_, spans := drain(c)
			return in, out + spans
		}
	}},
	{"clock_set_back", 20_000, 4_000, 1, 12, func(n int) (*Joiner, func() (int, int)) {
		c := newTestJoiner()
		gpu := gpuload.Steady(gpuload.A, 0, 1e9)
		var all []ptrace.Traces
		var mds []pmetric.Metrics
		gpu.Joules = 1000
		at := func(i int) float64 { // by the clock of the samples
			if i < n/2 {
				return float64(i) / 10
			}
			return float64(i)/10 - 3600
		}
		for i := range n {
			all = append(all, bigTrace(bigSpan{uint64(i + 1), 1, 0, gpuload.A, at(i) - 0.5, at(i)}))
			mds = append(mds, sampleAt(float64(i)/10, at(i), gpu))
		}
		return c, func() (in, out int) {
			for i, td := range all {
				now := gpuload.At(at(i))
				c.AddMetrics(mds[i])
				for _, td := range c.AddTraces(td, now) {
					out += td.SpanCount()
				}
				c.Expire(now)
				_, spans := drain(c)
				in, out = in+1, out+spans
			}
			c.Finish()
			_, spans := drain(c)
			return in, out + spans
		}
	}},
}

// timedLock measures how long it is held.
type timedLock struct {
	sync.Mutex
	since time.Time
	hold  time.Duration // the longest
}

func (l *timedLock) Lock() {
	l.Mutex.Lock()
	l.since = time.Now()
}

func (l *timedLock) Unlock() {
	l.hold = max(l.hold, time.Since(l.since))
	l.Mutex.Unlock()
}

// result is what a run of hostile input came to.
type result struct {
	time, hold time.Duration
	items      int     // of one hold
	heap       float64 // MiB more than before
}

// measure runs an amount of input in each of some joiners.
func (h *hostile) measure(tb testing.TB, n, joiners int) (r result) {
	tb.Helper()
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	before := heap()
	lock := &timedLock{}
	var all []*Joiner
	var runs []func() (in, out int)
	for range joiners {
		c, run := h.prepare(n)
		c.steps.mu = lock
		all, runs = append(all, c), append(runs, run)
	}
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it would cost whoever comes last
	begin := time.Now()
	for _, run := range runs {
		in, out := run()
		require.Equal(tb, in, out, "%s: every span and record comes out once", h.name)
	}
	r.time, r.hold = time.Since(begin), lock.hold
	clear(runs) // what came in is not held any more
	r.heap = heap() - before
	for _, c := range all {
		r.items = max(r.items, c.steps.maxSeen)
	}
	return r
}

// maxRatio is how many times as much ten times the input may cost.
const maxRatio = 12

// compare measures an amount, and a tenth of it in each of ten joiners, by turns: so both
// find the same memory. It returns what the amount cost, and how many times that is what
// a tenth cost, by the median of the turns. A busy machine may add to any of it: the
// longest hold is that of the best turn, and a ratio that is too large is measured again;
// what grows with its square is far above.
func (h *hostile) compare(tb testing.TB, n, turns int) (big result, ratio float64) {
	tb.Helper()
	for attempt := 0; attempt < 5 && (attempt == 0 || ratio > maxRatio); attempt++ {
		var ratios []float64
		var times []time.Duration
		for range turns {
			small, r := h.measure(tb, n/10, 10*h.joiners), h.measure(tb, n, h.joiners)
			times = append(times, r.time/time.Duration(h.joiners))
			ratios = append(ratios, 10*float64(r.time)/float64(small.time))
			if big.hold == 0 || r.hold < big.hold {
				big.hold = r.hold
			}
			big.items, big.heap = max(big.items, r.items), max(big.heap, r.heap/float64(h.joiners))
		}
		slices.Sort(ratios)
		slices.Sort(times)
		big.time, ratio = times[turns/2], ratios[turns/2]
	}
	return big, ratio
}

// BenchmarkHostile prints for each hostile input the time, the ratio to that of a tenth
// of it, the longest hold of the lock, the items of one hold and the memory that is held
// afterwards, as a part of its bound.
func BenchmarkHostile(b *testing.B) {
	for _, h := range hostiles {
		b.Run(h.name, func(b *testing.B) {
			for b.Loop() {
				big, ratio := h.compare(b, h.full, 3)
				b.ReportMetric(float64(big.time.Milliseconds()), "ms")
				b.ReportMetric(ratio, "ratio")
				b.ReportMetric(float64(big.hold.Microseconds())/1000, "hold-ms")
				b.ReportMetric(float64(big.items), "items")
				b.ReportMetric(big.heap, "MiB")
				b.ReportMetric(big.heap/h.bounds, "of-bound")
				assert.LessOrEqual(b, ratio, float64(maxRatio))
				assert.LessOrEqual(b, big.items, maxItems)
				assert.LessOrEqual(b, big.heap, h.bounds)
			}
		})
	}
}
