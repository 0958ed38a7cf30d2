// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// emptying changes the ids of the spans that it passes on.
type emptying struct{ consumer.Traces }

func (e emptying) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	for _, rs := range td.ResourceSpans().All() {
		for _, s := range rs.ScopeSpans().At(0).Spans().All() {
			s.SetSpanID(pcommon.SpanID{1})
			s.SetTraceID(pcommon.TraceID{15: 99})
			s.Attributes().Clear()
		}
	}
	return e.Traces.ConsumeTraces(ctx, td)
}

// between starts a connector between a subscriber and two pipelines, of which the first
// may refuse.
func between(t *testing.T, cfg *Config) (r *running, first *failing, seen *custody) {
	t.Helper()
	a, b := pipeline.NewIDWithName(pipeline.SignalTraces, "a"), pipeline.NewIDWithName(pipeline.SignalTraces, "b")
	first = &failing{}
	router := connector.NewTracesRouter(map[pipeline.ID]consumer.Traces{a: emptying{first}, b: emptying{consumertest.NewNop()}})
	r = start(t, cfg, router.(consumer.Traces), consumertest.NewNop())
	seen = &custody{}
	bus := &comfyevents.Bus{}
	seen.subscribe(bus)
	r.traces.(tracesComponent).bus = bus
	return r, first, seen
}

func (f *failing) refuse(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func TestASubscriberHearsWhereTheTraceOfAPromptIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, first, seen := between(t, createDefaultConfig().(*Config))
		ctx := context.Background()
		gpu := gpuload.Steady(gpuload.A, 10, 12)
		r.samples(t, 0, 11, gpu)
		require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(1, oneSpan)))
		require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(2, oneSpan))) // of no prompt
		assert.Equal(t, []comfyevents.Custody{comfyevents.Held}, seen.of(1), "before ConsumeTraces returns")
		synctest.Wait()
		assert.Len(t, seen.of(1), 1, "it waits")
		r.samples(t, 11.1, 12.4, gpu)
		synctest.Wait()
		assert.Equal(t, []comfyevents.Custody{comfyevents.Held, comfyevents.Accepted}, seen.of(1), "whatever a consumer makes of the spans")
		assert.Empty(t, seen.of(2))

		first.refuse(errors.New("the queue is full"))
		require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(3, oneSpan)))
		synctest.Wait()
		assert.Equal(t, []comfyevents.Custody{comfyevents.Held, comfyevents.Refused}, seen.of(3), "one of two pipelines refused it")
		assert.Empty(t, seen.of(99))
		r.stop(t)
	})
}

func TestTracesThatPassAreHandedOverBeforeConsumeTracesReturns(t *testing.T) {
	for name, change := range map[string]struct {
		span  gpuload.Span
		limit int
	}{
		"no GPU":  {gpuload.Span{ID: 1, From: 10, To: 12}, 100},
		"no room": {oneSpan, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := createDefaultConfig().(*Config)
				cfg.Limits.Spans = change.limit
				r, first, seen := between(t, cfg)
				ctx := context.Background()
				require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(1, oneSpan)), "it waits")
				require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(2, change.span)))
				assert.Equal(t, comfyevents.Accepted, seen.of(2)[len(seen.of(2))-1])
				first.refuse(errors.New("the queue is full"))
				require.NoError(t, r.traces.ConsumeTraces(ctx, prompt(3, change.span)))
				assert.Equal(t, comfyevents.Refused, seen.of(3)[len(seen.of(3))-1])
				r.stop(t)
			})
		})
	}
}

// Many prompts in one trace, from many goroutines: each is held, then accepted.
func TestEachPromptOfATraceIsHandedOverOnce(t *testing.T) {
	bus := &comfyevents.Bus{}
	var mu sync.Mutex
	heard := map[pcommon.SpanID][]comfyevents.Custody{}
	r := start(t, createDefaultConfig().(*Config), consumertest.NewNop(), consumertest.NewNop())
	r.traces.(tracesComponent).bus = bus
	bus.Handovers.Subscribe(func(h comfyevents.Handover) {
		mu.Lock()
		heard[h.Root] = append(heard[h.Root], h.Custody)
		mu.Unlock()
		r.traces.(tracesComponent).joiner.Waiting() // would hang if a lock were held
	})
	r.samples(t, 0, 12, gpuload.Steady(gpuload.A, 10, 12))
	var work sync.WaitGroup
	for g := range byte(4) {
		work.Go(func() {
			for i := range byte(50) {
				td := prompt(1, oneSpan)
				td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetSpanID(pcommon.SpanID{g + 1, i})
				assert.NoError(t, r.traces.ConsumeTraces(context.Background(), td))
			}
		})
	}
	work.Wait()
	r.stop(t)
	require.Len(t, heard, 200)
	for id, all := range heard {
		assert.Equal(t, []comfyevents.Custody{comfyevents.Held, comfyevents.Accepted}, all, "%v", id)
	}
}

func TestARefusingPipelineIsLoggedWhenItBeginsAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, first, _ := between(t, createDefaultConfig().(*Config))
		send := func(id byte) {
			require.NoError(t, r.traces.ConsumeTraces(context.Background(), prompt(id, gpuload.Span{ID: 1, From: 10, To: 12})))
		}
		first.refuse(errors.New("the queue is full"))
		for id := range byte(5) {
			send(id + 1)
		}
		first.refuse(errors.New("the queue is still full"))
		send(6)
		assert.Len(t, r.logged.FilterMessageSnippet("refused spans").All(), 1)
		assert.Equal(t, map[string]int64{"traces/a": 6}, r.refused(t), "each is counted")
		first.refuse(nil)
		send(7)
		send(8)
		assert.Len(t, r.logged.FilterMessageSnippet("accepts spans again").All(), 1)
		r.stop(t)
	})
}
