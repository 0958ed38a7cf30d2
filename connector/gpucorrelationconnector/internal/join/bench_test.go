// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// traffic is that of busy GPUs in virtual time, sampled ten times a second.
type traffic struct {
	c    *Joiner
	gpus []*gpuload.Load
	s    float64
	id   uint64
}

func newTraffic(gpus int) *traffic {
	tr := &traffic{c: newTestJoiner()}
	for i := range gpus {
		l := gpuload.Steady(fmt.Sprintf("GPU-%d", i), 0, 1e9)
		l.Joules = 1000
		tr.gpus = append(tr.gpus, l)
	}
	return tr
}

// requests makes the traces of a tick: the root, the wait, the execution and its nodes.
func (tr *traffic) requests(perGPU int) []ptrace.Traces {
	var all []ptrace.Traces
	for _, l := range tr.gpus {
		for range perGPU {
			tr.id++
			end := tr.s
			td := gpuload.Trace(0, gpuload.Span{ID: 1, From: end - 2, To: end}, gpuload.Span{ID: 2, Parent: 1, From: end - 2, To: end - 1},
				gpuload.Span{ID: 3, Parent: 1, GPU: l.ID, From: end - 1, To: end}, gpuload.Span{ID: 4, Parent: 3, GPU: l.ID, From: end - 1, To: end - 0.5}, gpuload.Span{ID: 5, Parent: 3, GPU: l.ID, From: end - 0.5, To: end})
			for _, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
				id := s.TraceID()
				for i := range 8 {
					id[i] = byte(tr.id >> (8 * i))
				}
				s.SetTraceID(id)
			}
			all = append(all, td)
		}
	}
	return all
}

func (tr *traffic) tick(all []ptrace.Traces, md pmetric.Metrics) (spans int) {
	for _, td := range all {
		tr.c.AddTraces(td, gpuload.At(tr.s))
	}
	tr.c.AddMetrics(md)
	tr.c.Expire(gpuload.At(tr.s))
	for {
		td, found := tr.c.NextTraces()
		if !found {
			return spans
		}
		spans += td.SpanCount()
	}
}

// hourOfTraffic runs an hour of traffic and returns the memory in MiB after the history
// has filled, and the most after that.
func hourOfTraffic() (filled, peak float64) {
	tr := newTraffic(2)
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	for i := 1; i <= 36_000; i++ {
		tr.s = float64(i) * 0.1
		var all []ptrace.Traces
		if i%10 == 0 {
			all = tr.requests(1)
		}
		tr.tick(all, gpuload.Sample(tr.s, tr.gpus...))
		switch {
		case i == 9_000: // a quarter of an hour: the history is full
			filled = heap()
		case i > 9_000 && i%3_000 == 0:
			peak = max(peak, heap())
		}
	}
	return filled, peak
}

func TestMemoryIsFlatOverAnHour(t *testing.T) {
	filled, peak := hourOfTraffic()
	t.Logf("after 15 min %.1f MiB, later at most %.1f MiB", filled, peak)
	assert.Less(t, peak, filled*1.1+1)
}

func BenchmarkMemoryOverAnHour(b *testing.B) {
	for b.Loop() {
		filled, peak := hourOfTraffic()
		b.ReportMetric(peak/filled, "ratio")
	}
}

// BenchmarkJoin joins the spans of 2,000 requests a second on 8 GPUs, after ten minutes
// of samples. An iteration is a minute of it.
func BenchmarkJoin(b *testing.B) {
	runtime.GOMAXPROCS(1)
	tr := newTraffic(8)
	tick := 0
	for ; tick < 6_000; tick++ {
		tr.s = float64(tick) * 0.1
		tr.c.AddMetrics(gpuload.Sample(tr.s, tr.gpus...))
	}
	spans, busy := 0, time.Duration(0)
	for b.Loop() {
		for range 600 {
			tick++
			tr.s = float64(tick) * 0.1
			all, md := tr.requests(25), gpuload.Sample(tr.s, tr.gpus...)
			begin := time.Now()
			spans += tr.tick(all, md)
			busy += time.Since(begin)
		}
	}
	b.ReportMetric(float64(spans)/busy.Seconds(), "spans/s")
}

// BenchmarkWaitingSpan measures the memory of a span that waits, beside what
// spanOverhead assumes.
func BenchmarkWaitingSpan(b *testing.B) {
	for b.Loop() {
		var before, after runtime.MemStats
		tr := newTraffic(8)
		tr.s = 1
		tr.c.AddMetrics(gpuload.Sample(0.5, tr.gpus...))
		runtime.GC()
		runtime.ReadMemStats(&before)
		count := 0
		for range 50 {
			for _, td := range tr.requests(25) {
				count += td.SpanCount()
				tr.c.AddTraces(td, gpuload.At(tr.s))
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		spans, bytes := tr.c.Waiting()
		require.Equal(b, count, spans)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(count), "B")
		b.ReportMetric(float64(bytes)/float64(count), "assumed-B")
	}
}
