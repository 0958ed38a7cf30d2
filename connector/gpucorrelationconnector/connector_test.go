// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var figures = flag.Bool("figures", false, "measure and print figures")

// running is a connector at work, with the next consumer.
type running struct {
	metrics connector.Metrics
	traces  connector.Traces
	logs    connector.Logs
	said    *observer.ObservedLogs
	tel     *componenttest.Telemetry
}

func start(t *testing.T, cfg *Config, nextTraces consumer.Traces, nextLogs consumer.Logs) *running {
	t.Helper()
	r := &running{tel: componenttest.NewTelemetry()}
	t.Cleanup(func() { require.NoError(t, r.tel.Shutdown(context.Background())) })
	set := connectortest.NewNopSettings(metadata.Type)
	set.TelemetrySettings = r.tel.NewTelemetrySettings()
	observed, logs := observer.New(zap.InfoLevel)
	set.Logger, r.said = zap.New(observed), logs
	f := NewFactory()
	var err error
	ctx := context.Background()
	r.metrics, err = f.CreateMetricsToTraces(ctx, set, cfg, nextTraces)
	require.NoError(t, err)
	r.traces, err = f.CreateTracesToTraces(ctx, set, cfg, nextTraces)
	require.NoError(t, err)
	r.logs, err = f.CreateLogsToLogs(ctx, set, cfg, nextLogs)
	require.NoError(t, err)
	r.traces.(tracesSide).now = func() time.Time { return at(12) }
	host := componenttest.NewNopHost()
	require.NoError(t, r.metrics.Start(ctx, host))
	require.NoError(t, r.traces.Start(ctx, host))
	require.NoError(t, r.logs.Start(ctx, host))
	return r
}

func (r *running) stop(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	require.NoError(t, r.metrics.Shutdown(ctx))
	require.NoError(t, r.traces.Shutdown(ctx))
	require.NoError(t, r.logs.Shutdown(ctx))
}

func (r *running) samples(t *testing.T, from, to float64, gpu *load) {
	t.Helper()
	for i := 0; from+float64(i)*0.1 <= to+1e-9; i++ {
		require.NoError(t, r.metrics.ConsumeMetrics(context.Background(), sample(from+float64(i)*0.1, gpu)))
	}
}

var oneSpan = spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12}

func TestConnectorJoinsItsThreeSides(t *testing.T) {
	traces, logs := new(consumertest.TracesSink), new(consumertest.LogsSink)
	r := start(t, createDefaultConfig().(*Config), traces, logs)
	gpu := steady(simulatedGPU, 10, 12)
	r.samples(t, 0, 11, gpu)
	ctx := context.Background()
	require.NoError(t, r.logs.ConsumeLogs(ctx, xidRecord(11.5, simulatedGPU)))
	require.NoError(t, r.traces.ConsumeTraces(ctx, traceOf(1, oneSpan)))
	require.Eventually(t, func() bool { return logs.LogRecordCount() == 1 }, 5*time.Second, time.Millisecond, "the record has its trace before the trace has its samples")
	assert.Zero(t, traces.SpanCount())
	r.samples(t, 11.1, 12, gpu)
	require.Eventually(t, func() bool { return traces.SpanCount() == 1 }, 5*time.Second, time.Millisecond)
	a := traces.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().AsRaw()
	near(t, 400, a["gpu.energy"], 1, "energy")
	require.NoError(t, r.logs.ConsumeLogs(ctx, plog.NewLogs()))
	got, err := r.tel.GetMetric("otelcol_connector.gpucorrelation.spans")
	require.NoError(t, err)
	points := got.Data.(metricdata.Sum[int64]).DataPoints
	require.Len(t, points, 1)
	assert.Equal(t, int64(1), points[0].Value)
	outcome, _ := points[0].Attributes.Value(attribute.Key("outcome"))
	assert.Equal(t, measured, outcome.AsString())
	r.stop(t)
}

func TestEndPassesEverythingOn(t *testing.T) {
	traces, logs := new(consumertest.TracesSink), new(consumertest.LogsSink)
	r := start(t, createDefaultConfig().(*Config), traces, logs)
	r.samples(t, 0, 11, steady(simulatedGPU, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), traceOf(1, oneSpan)))
	require.NoError(t, r.logs.ConsumeLogs(context.Background(), xidRecord(5, simulatedGPU)))
	r.stop(t)
	assert.Equal(t, 1, traces.SpanCount())
	assert.Equal(t, 1, logs.LogRecordCount())
}

// failing is a next consumer that refuses until told otherwise.
type failing struct {
	consumertest.TracesSink
	mu    sync.Mutex
	err   error
	tried int
}

func (f *failing) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tried++
	if f.err != nil {
		return f.err
	}
	return f.TracesSink.ConsumeTraces(ctx, td)
}

func (f *failing) attempts() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tried
}

func (f *failing) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.err = err
}

func TestRefusedSpansAreTriedAgainAndBeyondTheBoundTheSenderIsTold(t *testing.T) {
	next := &failing{err: errors.New("the queue is full")}
	cfg := createDefaultConfig().(*Config)
	cfg.Limits.Spans = 2
	r := start(t, cfg, next, consumertest.NewNop())
	r.samples(t, 0, 12, steady(simulatedGPU, 10, 12))
	ctx := context.Background()
	require.NoError(t, r.traces.ConsumeTraces(ctx, traceOf(1, oneSpan)))
	require.Eventually(t, func() bool { return next.attempts() >= 2 }, 5*time.Second, time.Millisecond)
	require.NoError(t, r.traces.ConsumeTraces(ctx, traceOf(2, oneSpan)))
	require.NoError(t, r.traces.ConsumeTraces(ctx, traceOf(3, oneSpan)))
	require.ErrorContains(t, r.traces.ConsumeTraces(ctx, traceOf(4, oneSpan)), "the queue is full")
	next.set(nil)
	require.Eventually(t, func() bool { return next.SpanCount() == 3 }, 10*time.Second, time.Millisecond)
	require.Len(t, r.said.FilterMessageSnippet("trying again").All(), 1)
	r.stop(t)
}

func TestSpansRefusedForGoodAreCounted(t *testing.T) {
	next := &failing{err: consumererror.NewPermanent(errors.New("too large"))}
	r := start(t, createDefaultConfig().(*Config), next, consumertest.NewNop())
	r.samples(t, 0, 12, steady(simulatedGPU, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), traceOf(1, oneSpan)))
	require.Eventually(t, func() bool { return r.said.FilterMessageSnippet("lost").Len() == 1 }, 5*time.Second, time.Millisecond)
	got, err := r.tel.GetMetric("otelcol_connector.gpucorrelation.spans")
	require.NoError(t, err)
	total := int64(0)
	for _, p := range got.Data.(metricdata.Sum[int64]).DataPoints {
		if o, _ := p.Attributes.Value("outcome"); o.AsString() == dropped {
			total += p.Value
		}
	}
	assert.Equal(t, int64(1), total)
	r.stop(t)
}

func TestEndDoesNotWaitForANextThatRefuses(t *testing.T) {
	next := &failing{err: errors.New("away")}
	r := start(t, createDefaultConfig().(*Config), next, consumertest.NewNop())
	r.samples(t, 0, 12, steady(simulatedGPU, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), traceOf(1, oneSpan)))
	require.Eventually(t, func() bool { return next.attempts() >= 1 }, 5*time.Second, time.Millisecond)
	r.stop(t)
	require.NotEmpty(t, r.said.FilterMessageSnippet("lost").All())
}

func TestForeignHostIsSaidOnceWithTheRemedy(t *testing.T) {
	r := start(t, createDefaultConfig().(*Config), consumertest.NewNop(), consumertest.NewNop())
	r.samples(t, 0, 12, steady(simulatedGPU, 10, 12))
	for i := range byte(3) {
		td := traceOf(i+1, oneSpan)
		td.ResourceSpans().At(0).Resource().Attributes().PutStr("host.name", "node-2")
		require.NoError(t, r.traces.ConsumeTraces(context.Background(), td))
	}
	r.stop(t)
	assert.Len(t, r.said.FilterMessageSnippet("clock_offsets").All(), 1)
}

func TestMistakesNameTheKeyTheValueAndTheRemedy(t *testing.T) {
	for name, test := range map[string]struct {
		conf map[string]any
		want string
	}{
		"misspelt":      {map[string]any{"max_gapp": "1s"}, "max_gapp: there is no such key: did you mean max_gap?"},
		"misspelt deep": {map[string]any{"limits": map[string]any{"span": 1}}, "limits::span: there is no such key: did you mean spans?"},
		"negative":      {map[string]any{"wait": "-1s"}, "wait: -1s is not positive: give a duration such as 10s"},
		"short history": {map[string]any{"history": "5s"}, "history: 5s is not longer than wait (10s)"},
		"no attribute":  {map[string]any{"device_attributes": []any{}}, "device_attributes: the list is empty"},
		"empty name":    {map[string]any{"device_attributes": []any{""}}, "device_attributes::0: it is empty"},
		"no room":       {map[string]any{"limits": map[string]any{"cards": 0}}, "limits::cards: 0 is less than 1"},
		"ahead":         {map[string]any{"max_ahead": "-1s"}, "max_ahead: -1s is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := createDefaultConfig().(*Config)
			err := confmap.NewFromStringMap(test.conf).Unmarshal(cfg)
			if err == nil {
				err = cfg.Validate()
			}
			require.ErrorContains(t, err, test.want)
		})
	}
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, confmap.NewFromStringMap(map[string]any{"clock_offsets": map[string]any{"node-2": "2s"}}).Unmarshal(cfg))
	require.NoError(t, cfg.Validate())
	assert.Equal(t, 2*time.Second, cfg.ClockOffsets["node-2"])
}

func TestOnlyItsSignalsAreServed(t *testing.T) {
	_, err := NewFactory().CreateTracesToMetrics(context.Background(), connectortest.NewNopSettings(metadata.Type), createDefaultConfig(), consumertest.NewNop())
	require.ErrorIs(t, err, pipeline.ErrSignalNotSupported)
}

// Spans, samples and records of any content pass, and none of them twice.
func FuzzAnything(f *testing.F) {
	spans := func(all ...spanOf) []byte {
		raw, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(traceOf(1, all...))
		require.NoError(f, err)
		return raw
	}
	gpu := steady(simulatedGPU, 10, 12)
	metrics, err := (&pmetric.ProtoMarshaler{}).MarshalMetrics(sample(10, gpu))
	require.NoError(f, err)
	records, err := (&plog.ProtoMarshaler{}).MarshalLogs(xidRecord(10.5, simulatedGPU))
	require.NoError(f, err)
	f.Add(spans(oneSpan, spanOf{id: 2, parent: 1, from: 10, to: 11}, spanOf{id: 3, parent: 3, from: 10, to: 11}), metrics, records)
	f.Add(spans(spanOf{id: 1, parent: 2, from: 10, to: 12}, spanOf{id: 2, parent: 1, from: 12, to: 11, gpu: simulatedGPU}), metrics, records)
	f.Fuzz(func(t *testing.T, spans, samples, logs []byte) {
		c := testCorrelator()
		if md, err := (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(samples); err == nil {
			c.takeMetrics(md)
		}
		if ld, err := (&plog.ProtoUnmarshaler{}).UnmarshalLogs(logs); err == nil {
			c.takeLogs(ld, at(11))
		}
		td, err := (&ptrace.ProtoUnmarshaler{}).UnmarshalTraces(spans)
		if err != nil {
			return
		}
		want := td.SpanCount()
		got := 0
		for _, p := range c.takeTraces(td, at(12)) {
			got += p.SpanCount()
		}
		c.expire(at(100))
		for {
			td, found := c.take()
			if !found {
				break
			}
			got += td.SpanCount()
		}
		require.Equal(t, want, got)
	})
}

// traffic is that of busy GPUs in virtual time, sampled ten times a second.
type traffic struct {
	c    *correlator
	gpus []*load
	s    float64
	id   uint64
}

func newTraffic(gpus int) *traffic {
	tr := &traffic{c: testCorrelator()}
	for i := range gpus {
		l := steady(fmt.Sprintf("GPU-%d", i), 0, 1e9)
		l.joules = 1000
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
			td := traceOf(0, spanOf{id: 1, from: end - 2, to: end}, spanOf{id: 2, parent: 1, from: end - 2, to: end - 1},
				spanOf{id: 3, parent: 1, gpu: l.id, from: end - 1, to: end}, spanOf{id: 4, parent: 3, gpu: l.id, from: end - 1, to: end - 0.5}, spanOf{id: 5, parent: 3, gpu: l.id, from: end - 0.5, to: end})
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
		tr.c.takeTraces(td, at(tr.s))
	}
	tr.c.takeMetrics(md)
	tr.c.expire(at(tr.s))
	for {
		td, found := tr.c.take()
		if !found {
			return spans
		}
		spans += td.SpanCount()
	}
}

// TestMemoryIsFlatOverAnHour runs an hour of traffic, ten minutes of it to fill the
// history.
func TestMemoryIsFlatOverAnHour(t *testing.T) {
	tr := newTraffic(2)
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc) / (1 << 20)
	}
	var filled, most float64
	for i := 1; i <= 36_000; i++ {
		tr.s = float64(i) * 0.1
		var all []ptrace.Traces
		if i%10 == 0 {
			all = tr.requests(1)
		}
		tr.tick(all, sample(tr.s, tr.gpus...))
		switch {
		case i == 9_000: // a quarter of an hour: the history is full
			filled = heap()
		case i > 9_000 && i%3_000 == 0:
			most = max(most, heap())
		}
	}
	t.Logf("after 15 min %.1f MiB, later at most %.1f MiB", filled, most)
	assert.Less(t, most, filled*1.1+1)
	if *figures {
		figure.AtMost("correlation.memory_growth", most/filled, "ratio", 1.1)
	}
}

// TestCorrelationFigures is `make bench-correlation`.
func TestCorrelationFigures(t *testing.T) {
	if !*figures {
		t.Skip("make bench-correlation runs it")
	}
	runtime.GOMAXPROCS(1)
	tr := newTraffic(8)
	for i := range 6_000 { // ten minutes of samples
		tr.s = float64(i) * 0.1
		tr.c.takeMetrics(sample(tr.s, tr.gpus...))
	}
	spans, busy := 0, time.Duration(0)
	for i := 6_000; i < 6_600; i++ { // a minute: 2,000 requests a second
		tr.s = float64(i) * 0.1
		all, md := tr.requests(25), sample(tr.s, tr.gpus...)
		begin := time.Now()
		spans += tr.tick(all, md)
		busy += time.Since(begin)
	}
	figure.AtLeast("correlation.spans_per_second", float64(spans)/busy.Seconds(), "spans/s", 10_000)

	var before, after runtime.MemStats
	tr = newTraffic(8)
	tr.s = 1
	tr.c.takeMetrics(sample(0.5, tr.gpus...))
	runtime.GC()
	runtime.ReadMemStats(&before)
	count := 0
	for range 50 {
		for _, td := range tr.requests(25) {
			count += td.SpanCount()
			tr.c.takeTraces(td, at(tr.s))
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Equal(t, count, tr.c.spans)
	figure.Print("correlation.bytes_per_waiting_span", float64(after.HeapAlloc-before.HeapAlloc)/float64(count), "B")
	figure.Print("correlation.bytes_per_waiting_span_assumed", float64(tr.c.bytes)/float64(count), "B")
}
