// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/sharedcomponent"
)

// NewFactory makes the factory of the gpucorrelation connector.
func NewFactory() connector.Factory {
	s := &correlations{}
	return connector.NewFactory(metadata.Type, createDefaultConfig,
		connector.WithMetricsToTraces(s.metrics, metadata.MetricsToTracesStability),
		connector.WithTracesToTraces(s.traces, metadata.TracesToTracesStability),
		connector.WithLogsToLogs(s.logs, metadata.LogsToLogsStability))
}

// correlations gives the three sides of one component one instance.
type correlations struct {
	sharedcomponent.Instances[*Config, *correlation]
}

func (s *correlations) of(settings connector.Settings, cfg component.Config) *correlation {
	return s.Of(cfg.(*Config), func() *correlation {
		c := newCorrelation(settings, cfg.(*Config))
		c.forget = func() { s.Forget(c.cfg) }
		return c
	})
}

func (s *correlations) metrics(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Traces) (connector.Metrics, error) {
	c := s.of(settings, cfg)
	c.nextTraces = next
	return metricsSide{c}, nil
}

func (s *correlations) traces(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Traces) (connector.Traces, error) {
	c := s.of(settings, cfg)
	c.nextTraces = next
	return tracesSide{c}, nil
}

func (s *correlations) logs(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Logs) (connector.Logs, error) {
	c := s.of(settings, cfg)
	c.nextLogs = next
	return logsSide{c}, nil
}
