// SPDX-License-Identifier: Apache-2.0

package join

import (
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// script makes inputs of a joiner from bytes. Every span and record has a number, so
// that each is known when it comes out.
type script struct {
	bytes []byte
	c     *Joiner
	now   float64
	next  int64

	in, out       map[int64]bool
	logs, logsOut map[int64]bool
	used          map[string]bool // containers that held anything
	t             *testing.T
}

func (s *script) byte() int {
	if len(s.bytes) == 0 {
		return 0
	}
	b := s.bytes[0]
	s.bytes = s.bytes[1:]
	return int(b)
}

var scriptGPUs = []string{"", gpuload.A, gpuload.B, "GPU-never", "GPU-c"}

func (s *script) number(a pcommon.Map, into map[int64]bool) {
	s.next++
	a.PutInt("n", s.next)
	into[s.next] = true
}

func (s *script) spans() {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("host.name", []string{"node-1", "node-2"}[s.byte()/250])
	all := rs.ScopeSpans().AppendEmpty().Spans()
	trace := byte(s.byte() % 6)
	for range 1 + s.byte()%12 {
		span := all.AppendEmpty()
		span.SetTraceID(pcommon.TraceID{15: trace + byte(s.byte()/250)})
		span.SetSpanID(pcommon.SpanID{7: byte(s.byte() % 24)})
		span.SetParentSpanID(pcommon.SpanID{7: byte(s.byte() % 24)})
		to := s.now + float64(s.byte()-240)/16
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(gpuload.At(to - float64(s.byte())/8)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(gpuload.At(to)))
		if gpu := scriptGPUs[s.byte()%len(scriptGPUs)]; gpu != "" {
			span.Attributes().PutStr("hw.id", gpu)
		}
		if pid := s.byte(); pid < 64 {
			span.Attributes().PutInt("process.pid", int64(pid%4))
		}
		s.number(span.Attributes(), s.in)
	}
	for _, td := range s.c.AddTraces(td, gpuload.At(s.now)) {
		s.came(td)
	}
}

func (s *script) samples() {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", "node-1")
	all := rm.ScopeMetrics().AppendEmpty().Metrics()
	gpu := scriptGPUs[1+s.byte()%2]
	if s.byte() > 250 {
		gpu = "GPU-c"
	}
	for range 1 + s.byte()%8 {
		at := s.now + float64(s.byte()-250)/32
		for _, name := range []string{"hw.gpu.memory.usage", "hw.energy", "hw.power", "hw.gpu.process.memory.usage", "hw.gpu.process.utilization"} {
			m := all.AppendEmpty()
			m.SetName(name)
			p := m.SetEmptyGauge().DataPoints().AppendEmpty()
			p.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(at)))
			p.SetIntValue(int64(s.byte()))
			p.Attributes().PutStr("hw.id", gpu)
			p.Attributes().PutStr("hw.gpu.task", "general")
			p.Attributes().PutInt("process.pid", int64(s.byte()%4))
			p.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(s.byte() > 250))
		}
	}
	s.c.AddMetrics(md)
}

func (s *script) records(started bool) {
	ld := plog.NewLogs()
	r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(s.now + float64(s.byte()-240)/16)))
	r.Attributes().PutStr("hw.id", scriptGPUs[1+s.byte()%(len(scriptGPUs)-1)])
	if started { // it is for the joiner only
		r.SetEventName(semconv.EventExecutionStarted)
		r.SetTraceID(pcommon.TraceID{15: byte(s.byte() % 6)})
	} else {
		r.SetEventName(semconv.EventXID)
		r.Attributes().PutInt(semconv.XID, 31)
		s.number(r.Attributes(), s.logs)
	}
	s.c.AddLogs(ld, gpuload.At(s.now))
	s.cameLogs(ld)
}

func (s *script) came(td ptrace.Traces) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				n, _ := span.Attributes().Get("n")
				require.True(s.t, s.in[n.Int()] && !s.out[n.Int()], "span %d comes out once", n.Int())
				s.out[n.Int()] = true
			}
		}
	}
}

func (s *script) cameLogs(ld plog.Logs) {
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				n, _ := r.Attributes().Get("n")
				require.True(s.t, s.logs[n.Int()] && !s.logsOut[n.Int()], "record %d comes out once", n.Int())
				s.logsOut[n.Int()] = true
			}
		}
	}
}

func (s *script) ready(next func() (ptrace.Traces, bool)) (found bool) {
	td, ok := next()
	s.came(td)
	ld, more := s.c.NextRecords()
	s.cameLogs(ld)
	return ok || more
}

// check compares what a joiner holds with its limits.
func (s *script) check() {
	c, limits := s.c, s.c.settings.Limits
	require.LessOrEqual(s.t, c.spans, 2*limits.Spans)
	require.LessOrEqual(s.t, c.bytes, 2*limits.Bytes)
	require.LessOrEqual(s.t, c.waitingRecords.Len()+len(c.records), limits.Records)
	require.LessOrEqual(s.t, c.memory.ended.Len(), limits.Traces)
	require.LessOrEqual(s.t, c.memory.open.Len(), limits.Traces)
	require.LessOrEqual(s.t, c.memory.windows, max(meanWindows*limits.Traces, maxWindows))
	require.LessOrEqual(s.t, c.timelines.Len(), limits.GPUs)
	require.LessOrEqual(s.t, len(c.gpus), limits.GPUs)
	require.LessOrEqual(s.t, c.steps.maxSeen, maxItems)
	all := c.Bounds()
	require.NoError(s.t, growth.Within(all))
	maps.Copy(s.used, growth.Used(all))
	windows, needed := 0, 0
	for _, g := range c.gpus {
		require.LessOrEqual(s.t, len(g.Memory.Points), limits.Samples)
		windows += g.active.windows.n - len(g.active.open)
		for _, x := range g.active.ended {
			require.LessOrEqual(s.t, len(x.windows), maxWindows)
		}
		needed += len(g.queue)
	}
	require.Equal(s.t, c.memory.windows, windows)
	waiting := 0
	for e := c.arrived.Front(); e != nil; e = e.Next() {
		w := e.Value.(*waitingTrace)
		require.Same(s.t, w, c.byTrace[w.trace])
		for _, n := range w.needs {
			if c.gpus[n.on.ID] == n.on { // else it made room for another
				waiting++
			}
		}
	}
	require.Equal(s.t, needed, waiting)
	require.Len(s.t, c.byTrace, c.arrived.Len())
}

// Spans, samples and records in any order, by clocks that go where they like: every span
// and record comes out once, and no limit is exceeded.
func FuzzSequences(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 1, 0, 0, 7, 0, 0, 5, 4, 9, 0, 1, 0, 3, 6, 7, 8})
	f.Add([]byte{9, 0, 0, 1, 11, 0, 1, 0, 240, 8, 1, 255, 0, 2, 1, 240, 8, 0, 255, 1, 0, 0, 3, 240, 7, 5, 2, 240, 1, 9, 200, 6, 7, 8})
	long := make([]byte, 4000)
	for i := range long {
		long[i] = byte(i * i * 31 / 7)
	}
	f.Add(long)
	f.Fuzz(func(t *testing.T, raw []byte) { runScript(t, raw) })
}

// runScript runs a script to its end, and returns the containers that held anything.
func runScript(t *testing.T, raw []byte) map[string]bool {
	t.Helper()
	s := &script{bytes: raw, t: t, now: 100, in: map[int64]bool{}, out: map[int64]bool{}, logs: map[int64]bool{}, logsOut: map[int64]bool{}, used: map[string]bool{}}
	limit := 1 + s.byte()%32
	s.c = newTestJoiner(func(cfg *Settings) {
		cfg.History, cfg.Wait = 30*time.Second, 2*time.Second
		cfg.Limits = Limits{Spans: 4 * limit, Bytes: 4000 * limit, GPUs: 3, Samples: 50, Processes: 2, Traces: limit, Records: limit}
	})
	for len(s.bytes) > 0 {
		switch s.byte() % 11 {
		case 0, 1:
			s.spans()
		case 2, 3:
			s.samples()
		case 4:
			s.records(false)
		case 5:
			s.records(true)
		case 6:
			s.now += float64(s.byte()) / 20
		case 7:
			s.c.Expire(gpuload.At(s.now))
		case 8:
			s.ready(s.c.NextTraces)
		case 9:
			s.now -= float64(s.byte()) / 4
		case 10:
			s.c.Finish()
			s.c.FinishRecords()
			s.ready([]func() (ptrace.Traces, bool){s.c.NextUnbilled, s.c.Discard, s.c.NextTraces}[s.byte()%3])
		}
		s.check()
	}
	s.c.Finish()
	s.c.FinishRecords()
	for s.ready(s.c.NextTraces) {
	}
	s.check()
	require.Len(t, s.out, len(s.in))
	require.Len(t, s.logsOut, len(s.logs))
	require.Zero(t, s.c.spans+s.c.bytes+len(s.c.byTrace)+s.c.arrived.Len()+s.c.waitingRecords.Len()+len(s.c.records))
	return s.used
}

func TestSizesOfAJoinerStayWithinItsBounds(t *testing.T) {
	used, seed := map[string]bool{}, rand.New(rand.NewPCG(14, 3))
	for range 60 {
		raw := make([]byte, 4000)
		for i := range raw {
			raw[i] = byte(seed.IntN(256))
		}
		maps.Copy(used, runScript(t, raw))
	}
	assert.Len(t, used, len(newTestJoiner().Bounds())-1, "all but the reasons of throttling held something: %v", used)
}
