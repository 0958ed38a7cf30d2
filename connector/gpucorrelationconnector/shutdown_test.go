// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// sink is a next consumer of all signals that accepts, or blocks until it is released.
type sink struct {
	blocks, heeds bool // heeds ends with its context
	release       chan struct{}

	mu sync.Mutex
	// The rest is guarded by mu.
	items    int // that it accepted
	shutDown bool
	late     int // calls after it was shut down
}

func (s *sink) consume(ctx context.Context, items int) error {
	s.mu.Lock()
	if s.shutDown {
		s.late++
	}
	s.mu.Unlock()
	if s.blocks {
		if !s.heeds {
			ctx = context.WithoutCancel(ctx)
		}
		select {
		case <-s.release:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items += items
	return nil
}

func (s *sink) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shutDown = true
}

type tracesSink struct{ *sink }

func (s tracesSink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }
func (s tracesSink) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	return s.consume(ctx, td.SpanCount())
}

type logsSink struct{ *sink }

func (s logsSink) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }
func (s logsSink) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	return s.consume(ctx, ld.LogRecordCount())
}

// sums adds up a counter's points that have some attributes.
func (r *running) sums(t *testing.T, name string, attributes map[string]string) (sum int64) {
	t.Helper()
	got, err := r.tel.GetMetric(name)
	if err != nil {
		return 0
	}
	for _, p := range got.Data.(metricdata.Sum[int64]).DataPoints {
		matches := true
		for _, a := range p.Attributes.ToSlice() {
			if want, ok := attributes[string(a.Key)]; ok && want != a.Value.AsString() {
				matches = false
			}
		}
		if matches {
			sum += p.Value
		}
	}
	return sum
}

// prompt makes the trace of a prompt.
func prompt(id byte, span gpuload.Span) ptrace.Traces {
	td := gpuload.Trace(id, span)
	s := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	s.SetKind(ptrace.SpanKindServer)
	s.Attributes().PutStr("comfyui.prompt.id", fmt.Sprint(id))
	return td
}

// custody remembers what became of traces.
type custody struct {
	mu   sync.Mutex
	seen map[byte][]comfyevents.Custody // by the trace's last byte
}

func (c *custody) subscribe(bus *comfyevents.Bus) {
	c.seen = map[byte][]comfyevents.Custody{}
	bus.Handovers.Subscribe(func(h comfyevents.Handover) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.seen[h.Trace[15]] = append(c.seen[h.Trace[15]], h.Custody)
	})
}

func (c *custody) of(id byte) []comfyevents.Custody {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[id]
}

var dropped = map[string]string{"outcome": "dropped", "reason": "shutdown"}

// The three sides of a connector shut down in any order, with work that waits and work
// that is under way, whatever the next consumers do.
func TestShutdownInAnyOrderIsShortAndLosesNothingSilently(t *testing.T) {
	const spans = "otelcol_connector.gpucorrelation.spans"
	const records = "otelcol_connector.gpucorrelation.records"
	for name, next := range map[string]struct{ blocks, heeds bool }{
		"accepts":                       {},
		"blocks until its context ends": {blocks: true, heeds: true},
		"blocks for ever":               {blocks: true},
	} {
		for _, order := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			t.Run(fmt.Sprint(name, order), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					traces := &sink{blocks: next.blocks, heeds: next.heeds, release: make(chan struct{})}
					logs := &sink{blocks: next.blocks, heeds: next.heeds, release: make(chan struct{})}
					r := start(t, createDefaultConfig().(*Config), tracesSink{traces}, logsSink{logs})
					bus, seen := &comfyevents.Bus{}, &custody{}
					r.traces.(tracesComponent).bus = bus
					seen.subscribe(bus)
					ctx := context.Background()
					gpu := gpuload.Steady(gpuload.A, 10, 12)
					r.samples(t, 0, 11, gpu)
					// The first is complete and under way when the shutdown begins.
					require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 9, To: 10.5})))
					synctest.Wait()
					for id := byte(2); id <= 4; id++ {
						require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(id, oneSpan)))
					}
					require.NoError(t, r.logs.ConsumeLogs(ctx, gpuload.XIDRecord(5, gpuload.A)))
					synctest.Wait()
					sides := []component.Component{r.metrics, r.traces, r.logs}
					for _, side := range order {
						begin := time.Now()
						require.NoError(t, sides[side].Shutdown(ctx))
						assert.LessOrEqual(t, time.Since(begin), maxDrain, "side %d", side)
						switch side {
						case 1:
							traces.end()
						case 2:
							logs.end()
						}
						require.NoError(t, r.metrics.ConsumeMetrics(ctx, gpuload.Sample(12, gpu)), "samples that are late are ignored")
						synctest.Wait()
					}
					accepted, lost, result := 4, int64(0), comfyevents.Accepted
					if next.blocks {
						accepted, lost, result = 0, 4, comfyevents.Abandoned
					}
					check := func() {
						assert.Equal(t, lost, r.sums(t, spans, dropped))
						assert.Equal(t, lost, r.sums(t, spans, map[string]string{"outcome": "dropped"}), "and not counted as refused, too")
						assert.Equal(t, lost/4, r.sums(t, records, dropped))
						assert.Zero(t, traces.late+logs.late, "deliveries to what has shut down")
						for id := byte(1); id <= 4; id++ {
							assert.Equal(t, []comfyevents.Custody{comfyevents.Held, result}, seen.of(id), "trace %d", id)
						}
					}
					assert.Equal(t, accepted, traces.items)
					check()
					close(traces.release)
					close(logs.release)
					synctest.Wait()
					check() // what was abandoned changes nothing when it ends
					// What comes after the end is counted as well.
					require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(5, oneSpan)))
					require.NoError(t, r.logs.ConsumeLogs(ctx, gpuload.XIDRecord(5, gpuload.A)))
					assert.Equal(t, lost+1, r.sums(t, spans, dropped))
					assert.Equal(t, lost/4+1, r.sums(t, records, dropped))
					assert.Equal(t, []comfyevents.Custody{comfyevents.Abandoned}, seen.of(5))
				})
			})
		}
	}
}

func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &sink{blocks: true, heeds: true, release: make(chan struct{})}
		r := start(t, createDefaultConfig().(*Config), tracesSink{next}, logsSink{next})
		require.NoError(t, r.traces.ConsumeTraces(context.Background(), gpuload.Trace(1, oneSpan)))
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		begin := time.Now()
		require.NoError(t, r.traces.Shutdown(ctx))
		assert.Less(t, time.Since(begin), 60*time.Millisecond)
		require.NoError(t, r.metrics.Shutdown(ctx))
		require.NoError(t, r.logs.Shutdown(ctx))
	})
}

// A record that a trace joins after the logs side has shut down has nowhere to go.
func TestRecordsThatATraceJoinsAfterTheLogsSideEndedAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &sink{}
		r := start(t, createDefaultConfig().(*Config), tracesSink{next}, logsSink{next})
		ctx := context.Background()
		require.NoError(t, r.logs.ConsumeLogs(ctx, gpuload.XIDRecord(11, gpuload.A)))
		logs := r.logs.(logsComponent)
		logs.records.shutdown(ctx) // as if it ended while the trace is on its way
		require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(1, oneSpan)))
		assert.Equal(t, int64(1), r.sums(t, "otelcol_connector.gpucorrelation.records", dropped)+int64(next.items))
		require.NoError(t, r.metrics.Shutdown(ctx))
		require.NoError(t, r.traces.Shutdown(ctx))
	})
}

// With more traces than there is time for, the last ones leave without figures.
func TestASlowConsumerGetsTheRestWithoutFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		next := &slow{each: 250 * time.Millisecond}
		r := start(t, createDefaultConfig().(*Config), next, logsSink{&sink{}})
		for i := range 900 {
			td := gpuload.Trace(1, oneSpan)
			span := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
			id := span.TraceID()
			id[13], id[14] = byte(i>>8), byte(i)
			span.SetTraceID(id)
			require.NoError(t, r.traces.ConsumeTraces(context.Background(), td))
		}
		ctx := context.Background()
		require.NoError(t, r.traces.Shutdown(ctx))
		require.NoError(t, r.metrics.Shutdown(ctx))
		require.NoError(t, r.logs.Shutdown(ctx))
		assert.Equal(t, int64(900), int64(next.spans)+r.sums(t, "otelcol_connector.gpucorrelation.spans", dropped))
		assert.Equal(t, 3*256, next.spans)
		assert.Equal(t, 2*256, next.reasons["no_samples"])
		assert.Equal(t, 256, next.reasons["shutdown"])
	})
}

// slow is a next consumer that needs some time for each batch.
type slow struct {
	each    time.Duration
	spans   int
	reasons map[string]int
}

func (s *slow) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s *slow) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	select {
	case <-time.After(s.each):
	case <-ctx.Done():
		return ctx.Err()
	}
	s.spans += td.SpanCount()
	if s.reasons == nil {
		s.reasons = map[string]int{}
	}
	for _, rs := range td.ResourceSpans().All() {
		reason, _ := rs.ScopeSpans().At(0).Spans().At(0).Attributes().Get("gpu.correlation.reason")
		s.reasons[reason.Str()]++
	}
	return nil
}
