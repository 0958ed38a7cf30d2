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

// running is a connector at work, with the next consumer.
type harness struct {
	metrics connector.Metrics
	traces  connector.Traces
	logs    connector.Logs
	logged  *observer.ObservedLogs
	tel     *componenttest.Telemetry
}

func start(t *testing.T, cfg *Config, nextTraces consumer.Traces, nextLogs consumer.Logs) *harness {
	t.Helper()
	r := &harness{tel: componenttest.NewTelemetry()}
	t.Cleanup(func() { require.NoError(t, r.tel.Shutdown(context.Background())) })
	set := connectortest.NewNopSettings(metadata.Type)
	set.TelemetrySettings = r.tel.NewTelemetrySettings()
	observed, logs := observer.New(zap.InfoLevel)
	set.Logger, r.logged = zap.New(observed), logs
	f := NewFactory()
	var err error
	ctx := context.Background()
	r.metrics, err = f.CreateMetricsToTraces(ctx, set, cfg, nextTraces)
	require.NoError(t, err)
	r.traces, err = f.CreateTracesToTraces(ctx, set, cfg, nextTraces)
	require.NoError(t, err)
	r.logs, err = f.CreateLogsToLogs(ctx, set, cfg, nextLogs)
	require.NoError(t, err)
	r.traces.(tracesSide).now = func() time.Time { return gpuload.At(12) }
	host := componenttest.NewNopHost()
	require.NoError(t, r.metrics.Start(ctx, host))
	require.NoError(t, r.traces.Start(ctx, host))
	require.NoError(t, r.logs.Start(ctx, host))
	return r
}

func (r *harness) stop(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	require.NoError(t, r.metrics.Shutdown(ctx))
	require.NoError(t, r.traces.Shutdown(ctx))
	require.NoError(t, r.logs.Shutdown(ctx))
}

func (r *harness) samples(t *testing.T, from, to float64, gpu *gpuload.Load) {
	t.Helper()
	for i := 0; from+float64(i)*0.1 <= to+1e-9; i++ {
		require.NoError(t, r.metrics.ConsumeMetrics(context.Background(), gpuload.Sample(from+float64(i)*0.1, gpu)))
	}
}

var oneSpan = gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}

func TestConnectorJoinsItsThreeSides(t *testing.T) {
	traces, logs := new(consumertest.TracesSink), new(consumertest.LogsSink)
	r := start(t, createDefaultConfig().(*Config), traces, logs)
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	r.samples(t, 0, 11, gpu)
	ctx := context.Background()
	require.NoError(t, r.logs.ConsumeLogs(ctx, gpuload.XIDRecord(11.5, gpuload.A)))
	require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(1, oneSpan)))
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
	assert.Equal(t, Measured, outcome.AsString())
	r.stop(t)
}

func TestEndPassesEverythingOn(t *testing.T) {
	traces, logs := new(consumertest.TracesSink), new(consumertest.LogsSink)
	r := start(t, createDefaultConfig().(*Config), traces, logs)
	r.samples(t, 0, 11, gpuload.Steady(gpuload.A, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), gpuload.Trace(1, oneSpan)))
	require.NoError(t, r.logs.ConsumeLogs(context.Background(), gpuload.XIDRecord(5, gpuload.A)))
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
	r.samples(t, 0, 12, gpuload.Steady(gpuload.A, 10, 12))
	ctx := context.Background()
	require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(1, oneSpan)))
	require.Eventually(t, func() bool { return next.attempts() >= 2 }, 5*time.Second, time.Millisecond)
	require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(2, oneSpan)))
	require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(3, oneSpan)))
	require.ErrorContains(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(4, oneSpan)), "the queue is full")
	next.set(nil)
	require.Eventually(t, func() bool { return next.SpanCount() == 3 }, 10*time.Second, time.Millisecond)
	require.Len(t, r.logged.FilterMessageSnippet("trying again").All(), 1)
	r.stop(t)
}

func TestSpansRefusedForGoodAreCounted(t *testing.T) {
	next := &failing{err: consumererror.NewPermanent(errors.New("too large"))}
	r := start(t, createDefaultConfig().(*Config), next, consumertest.NewNop())
	r.samples(t, 0, 12, gpuload.Steady(gpuload.A, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), gpuload.Trace(1, oneSpan)))
	require.Eventually(t, func() bool { return r.logged.FilterMessageSnippet("lost").Len() == 1 }, 5*time.Second, time.Millisecond)
	got, err := r.tel.GetMetric("otelcol_connector.gpucorrelation.spans")
	require.NoError(t, err)
	total := int64(0)
	for _, p := range got.Data.(metricdata.Sum[int64]).DataPoints {
		if o, _ := p.Attributes.Value("outcome"); o.AsString() == Dropped {
			total += p.Value
		}
	}
	assert.Equal(t, int64(1), total)
	r.stop(t)
}

func TestEndDoesNotWaitForANextThatRefuses(t *testing.T) {
	next := &failing{err: errors.New("away")}
	r := start(t, createDefaultConfig().(*Config), next, consumertest.NewNop())
	r.samples(t, 0, 12, gpuload.Steady(gpuload.A, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), gpuload.Trace(1, oneSpan)))
	require.Eventually(t, func() bool { return next.attempts() >= 1 }, 5*time.Second, time.Millisecond)
	r.stop(t)
	require.NotEmpty(t, r.logged.FilterMessageSnippet("lost").All())
}

func TestForeignHostIsSaidOnceWithTheRemedy(t *testing.T) {
	r := start(t, createDefaultConfig().(*Config), consumertest.NewNop(), consumertest.NewNop())
	r.samples(t, 0, 12, gpuload.Steady(gpuload.A, 10, 12))
	for i := range byte(3) {
		td := gpuload.Trace(i+1, oneSpan)
		td.ResourceSpans().At(0).Resource().Attributes().PutStr("host.name", "node-2")
		require.NoError(t, r.traces.ConsumeTraces(context.Background(), td))
	}
	r.stop(t)
	assert.Len(t, r.logged.FilterMessageSnippet("clock_offsets").All(), 1)
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
