// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// running is a connector at work, with the next consumer.
type running struct {
	metrics connector.Metrics
	traces  connector.Traces
	logs    connector.Logs
	logged  *observer.ObservedLogs
	tel     *componenttest.Telemetry
}

func start(t *testing.T, cfg *Config, nextTraces consumer.Traces, nextLogs consumer.Logs) *running {
	t.Helper()
	r := &running{tel: componenttest.NewTelemetry()}
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
	r.traces.(tracesComponent).now = func() time.Time { return gpuload.At(12) }
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

func (r *running) samples(t *testing.T, from, to float64, gpu *gpuload.Load) {
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
	r.samples(t, 11.1, 12.4, gpu)
	require.Eventually(t, func() bool { return traces.SpanCount() == 1 }, 5*time.Second, time.Millisecond)
	a := traces.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().AsRaw()
	assert.InDelta(t, 400, a["gpu.energy"], 1, "energy")
	require.NoError(t, r.logs.ConsumeLogs(ctx, plog.NewLogs()))
	got, err := r.tel.GetMetric("otelcol_connector.gpucorrelation.spans")
	require.NoError(t, err)
	points := got.Data.(metricdata.Sum[int64]).DataPoints
	require.Len(t, points, 1)
	assert.Equal(t, int64(1), points[0].Value)
	outcome, _ := points[0].Attributes.Value(attribute.Key("outcome"))
	assert.Equal(t, join.Measured, outcome.AsString())
	r.stop(t)
}

func TestShutdownFlushesWaitingData(t *testing.T) {
	traces, logs := new(consumertest.TracesSink), new(consumertest.LogsSink)
	r := start(t, createDefaultConfig().(*Config), traces, logs)
	r.samples(t, 0, 11, gpuload.Steady(gpuload.A, 10, 12))
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), gpuload.Trace(1, oneSpan)))
	require.NoError(t, r.logs.ConsumeLogs(context.Background(), gpuload.XIDRecord(5, gpuload.A)))
	r.stop(t)
	assert.Equal(t, 1, traces.SpanCount())
	assert.Equal(t, 1, logs.LogRecordCount())
}

// failing is a next consumer that returns err while it is set.
type failing struct {
	consumertest.TracesSink
	mu  sync.Mutex
	err error
}

func (f *failing) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return f.TracesSink.ConsumeTraces(ctx, td)
}

// changing is a next consumer that overwrites what it gets.
type changing struct{ consumertest.TracesSink }

func (c *changing) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	for _, rs := range td.ResourceSpans().All() {
		rs.Resource().Attributes().PutStr("changed", "yes")
	}
	return c.TracesSink.ConsumeTraces(ctx, td)
}

// refused is how many spans each next pipeline refused, by the connector's telemetry.
func (r *running) refused(t *testing.T) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	got, err := r.tel.GetMetric("otelcol_connector.gpucorrelation.spans")
	require.NoError(t, err)
	for _, p := range got.Data.(metricdata.Sum[int64]).DataPoints {
		if o, _ := p.Attributes.Value("outcome"); o.AsString() == join.Dropped {
			id, _ := p.Attributes.Value("pipeline")
			all[id.AsString()] += p.Value
		}
	}
	return all
}

func TestAPipelineThatRefusesCostsTheOthersNothing(t *testing.T) {
	a, b, c := pipeline.NewIDWithName(pipeline.SignalTraces, "a"), pipeline.NewIDWithName(pipeline.SignalTraces, "b"), pipeline.NewIDWithName(pipeline.SignalTraces, "c")
	refusing, overwriting, last := &failing{err: errors.New("the queue is full")}, &changing{}, &consumertest.TracesSink{}
	router := connector.NewTracesRouter(map[pipeline.ID]consumer.Traces{a: refusing, b: overwriting, c: last})
	r := start(t, createDefaultConfig().(*Config), router.(consumer.Traces), consumertest.NewNop())
	r.samples(t, 0, 12.4, gpuload.Steady(gpuload.A, 10, 12))
	ctx := context.Background()
	for i := range byte(3) { // of which one names no GPU and passes at once
		span := oneSpan
		if i == 0 {
			span.GPU = ""
		}
		require.NoError(t, r.traces.ConsumeTraces(ctx, gpuload.Trace(i+1, span)), "a receiver that tried again would deliver twice")
	}
	require.Eventually(t, func() bool { return last.SpanCount() == 3 && overwriting.SpanCount() == 3 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, map[string]int64{"traces/a": 3}, r.refused(t))
	for _, td := range last.AllTraces() {
		for _, rs := range td.ResourceSpans().All() {
			assert.NotContains(t, rs.Resource().Attributes().AsRaw(), "changed", "another pipeline's change")
		}
	}
	r.stop(t)
	assert.Equal(t, 3, last.SpanCount(), "none comes twice")
}

func TestShutdownDoesNotWaitForARefusingConsumer(t *testing.T) {
	next := &failing{err: errors.New("away")}
	r := start(t, createDefaultConfig().(*Config), next, consumertest.NewNop())
	require.NoError(t, r.traces.ConsumeTraces(context.Background(), gpuload.Trace(1, oneSpan)))
	r.stop(t)
	require.Len(t, r.logged.FilterMessageSnippet("refused spans").All(), 1)
}

func TestATracesPipelineWithoutMetricsIsWarnedAbout(t *testing.T) {
	set := connectortest.NewNopSettings(metadata.Type)
	observed, logs := observer.New(zap.InfoLevel)
	set.Logger = zap.New(observed)
	f := NewFactory()
	c, err := f.CreateTracesToTraces(context.Background(), set, createDefaultConfig(), consumertest.NewNop())
	require.NoError(t, err)
	require.NoError(t, c.Start(context.Background(), componenttest.NewNopHost()))
	require.NoError(t, c.Shutdown(context.Background()))
	require.Len(t, logs.FilterMessageSnippet("no metrics pipeline").All(), 1)
}

func TestALogsSideAloneCountsItsRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tel := componenttest.NewTelemetry()
		set := connectortest.NewNopSettings(metadata.Type)
		set.TelemetrySettings = tel.NewTelemetrySettings()
		c, err := NewFactory().CreateLogsToLogs(context.Background(), set, createDefaultConfig(), consumertest.NewNop())
		require.NoError(t, err)
		require.NoError(t, c.Start(context.Background(), componenttest.NewNopHost()))
		require.NoError(t, c.ConsumeLogs(context.Background(), gpuload.XIDRecord(5, gpuload.A)))
		time.Sleep(11 * time.Second) // by the bubble's clock: the record waits in vain
		synctest.Wait()
		r := running{tel: tel}
		assert.Equal(t, int64(1), r.sums(t, "otelcol_connector.gpucorrelation.records", map[string]string{"outcome": "alone"}))
		require.NoError(t, c.Shutdown(context.Background()))
		require.NoError(t, tel.Shutdown(context.Background()))
	})
}

func TestForeignHostIsLoggedOnceWithTheRemedy(t *testing.T) {
	r := start(t, createDefaultConfig().(*Config), consumertest.NewNop(), consumertest.NewNop())
	r.samples(t, 0, 12.4, gpuload.Steady(gpuload.A, 10, 12))
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
		"misspelt":      {map[string]any{"max_gapp": "1s"}, "max_gapp: unknown key; did you mean max_gap?"},
		"misspelt deep": {map[string]any{"limits": map[string]any{"span": 1}}, "limits::span: unknown key; did you mean spans?"},
		"negative":      {map[string]any{"wait": "-1s"}, "wait: -1s is not positive; use a duration such as 10s"},
		"short history": {map[string]any{"history": "5s"}, "history: 5s is not longer than wait (10s)"},
		"no attribute":  {map[string]any{"device_attributes": []any{}}, "device_attributes: the list is empty"},
		"empty name":    {map[string]any{"device_attributes": []any{""}}, "device_attributes::0: \"\" is not a valid attribute name"},
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
