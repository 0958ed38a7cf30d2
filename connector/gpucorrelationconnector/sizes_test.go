// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer/consumertest"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

func TestSizesOfTheConnectorStayWithinItsBounds(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	cfg.Limits = join.Limits{Spans: 10, Bytes: 10_000, GPUs: 2, Samples: 20, Processes: 2, Traces: 5, Records: 5}
	c := newConnector(connectortest.NewNopSettings(metadata.Type), cfg)
	traces, records := new(consumertest.TracesSink), new(consumertest.LogsSink)
	c.nextTraces, c.nextLogs, c.readMetrics = traces, records, true
	sides := []interface {
		Start(context.Context, component.Host) error
		Shutdown(context.Context) error
	}{metricsComponent{c}, tracesComponent{c}, logsComponent{c}}
	for _, s := range sides {
		require.NoError(t, s.Start(t.Context(), componenttest.NewNopHost()))
	}
	used := map[string]bool{}
	gpus := []*gpuload.Load{gpuload.Steady(gpuload.A, 0, 1e6), gpuload.Steady(gpuload.B, 0, 1e6), gpuload.Steady("GPU-c", 0, 1e6)}
	for i := range 500 {
		s := float64(i) / 10
		require.NoError(t, metricsComponent{c}.ConsumeMetrics(t.Context(), gpuload.Sample(s, gpus...)))
		require.NoError(t, tracesComponent{c}.ConsumeTraces(t.Context(), gpuload.Trace(byte(i), gpuload.Span{ID: 1, GPU: gpus[i%3].ID, From: s, To: s + 100})))
		require.NoError(t, logsComponent{c}.ConsumeLogs(t.Context(), gpuload.XIDRecord(s-200, gpus[i%3].ID)))
		all := c.Bounds()
		require.NoError(t, growth.Within(all))
		for name := range growth.Used(all) {
			used[name] = true
		}
	}
	assert.Greater(t, len(used), 5, "%v", used)
	for _, s := range sides {
		require.NoError(t, s.Shutdown(t.Context()))
	}
	assert.Equal(t, 500, traces.SpanCount())
	assert.Equal(t, 500, records.LogRecordCount())
}

func TestAConnectorThatHasShutDownIsForgotten(t *testing.T) {
	s, cfg, settings := &instances{}, createDefaultConfig(), connectortest.NewNopSettings(metadata.Type)
	first := s.of(settings, cfg)
	assert.Same(t, first, s.of(settings, cfg))
	side := metricsComponent{first}
	require.NoError(t, side.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, side.Shutdown(t.Context()))
	assert.NotSame(t, first, s.of(settings, cfg))
}
