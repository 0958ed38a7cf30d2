package gpucorrelationconnector

import (
	"context"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
)

// NewFactory makes the factory of the gpucorrelation connector.
func NewFactory() connector.Factory {
	s := &shared{byConfig: map[*Config]*correlation{}}
	return connector.NewFactory(metadata.Type, createDefaultConfig,
		connector.WithMetricsToTraces(s.metrics, metadata.MetricsToTracesStability),
		connector.WithTracesToTraces(s.traces, metadata.TracesToTracesStability),
		connector.WithLogsToLogs(s.logs, metadata.LogsToLogsStability))
}

// shared gives the three sides of one component one instance.
type shared struct {
	mu       sync.Mutex
	byConfig map[*Config]*correlation
}

func (s *shared) of(settings connector.Settings, cfg component.Config) *correlation {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.byConfig[cfg.(*Config)]
	if !ok {
		c = newCorrelation(settings, cfg.(*Config))
		s.byConfig[cfg.(*Config)] = c
	}
	return c
}

func (s *shared) metrics(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Traces) (connector.Metrics, error) {
	c := s.of(settings, cfg)
	c.nextTraces = next
	return metricsSide{c}, nil
}

func (s *shared) traces(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Traces) (connector.Traces, error) {
	c := s.of(settings, cfg)
	c.nextTraces = next
	return tracesSide{c}, nil
}

func (s *shared) logs(_ context.Context, settings connector.Settings, cfg component.Config, next consumer.Logs) (connector.Logs, error) {
	c := s.of(settings, cfg)
	c.nextLogs = next
	return logsSide{c}, nil
}
