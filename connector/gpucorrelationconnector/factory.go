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
	s := &instances{}
	return connector.NewFactory(metadata.Type, createDefaultConfig,
		connector.WithMetricsToTraces(s.metrics, metadata.MetricsToTracesStability),
		connector.WithTracesToTraces(s.traces, metadata.TracesToTracesStability),
		connector.WithLogsToLogs(s.logs, metadata.LogsToLogsStability))
}

// instances gives the components of one connector, created signal by signal with the
// same configuration, one joinConnector.
type instances struct {
	sharedcomponent.Instances[*Config, *joinConnector]
}

func (s *instances) of(settings connector.Settings, cfg component.Config) *joinConnector {
	return s.Of(cfg.(*Config), func() *joinConnector {
		c := newConnector(settings, cfg.(*Config))
		c.release = func() { s.Forget(c.cfg) }
		return c
	})
}

func (s *instances) metrics(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Traces) (connector.Metrics, error) {
	c := s.of(settings, cfg)
	c.nextTraces, c.readMetrics = next, true
	return metricsComponent{c}, nil
}

func (s *instances) traces(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Traces) (connector.Traces, error) {
	c := s.of(settings, cfg)
	c.nextTraces = next
	return tracesComponent{c}, nil
}

func (s *instances) logs(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Logs) (connector.Logs, error) {
	c := s.of(settings, cfg)
	c.nextLogs = next
	return logsComponent{c}, nil
}
