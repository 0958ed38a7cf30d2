// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/sharedcomponent"
)

// NewFactory makes the factory of the gpuadvisor connector.
func NewFactory() connector.Factory {
	s := &instances{}
	return connector.NewFactory(metadata.Type, createDefaultConfig,
		connector.WithMetricsToMetrics(s.metrics, metadata.MetricsToMetricsStability),
		connector.WithTracesToMetrics(s.traces, metadata.TracesToMetricsStability),
		connector.WithLogsToMetrics(s.logs, metadata.LogsToMetricsStability))
}

// instances gives the components of one connector, created signal by signal with the
// same configuration, one advisor.
type instances struct {
	sharedcomponent.Instances[*Config, *advisor]
}

func (s *instances) of(settings connector.Settings, cfg component.Config, next consumer.Metrics) *advisor {
	a := s.Of(cfg.(*Config), func() *advisor {
		a := newAdvisor(settings, cfg.(*Config))
		a.release = func() { s.Forget(a.cfg) }
		return a
	})
	a.next = next
	return a
}

func (s *instances) metrics(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Metrics) (connector.Metrics, error) {
	return metricsComponent{s.of(settings, cfg, next)}, nil
}

func (s *instances) traces(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Metrics) (connector.Traces, error) {
	return tracesComponent{s.of(settings, cfg, next)}, nil
}

func (s *instances) logs(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Metrics) (connector.Logs, error) {
	return logsComponent{s.of(settings, cfg, next)}, nil
}
