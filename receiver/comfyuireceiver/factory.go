// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/otelcol-gpu/otelcol-gpu/internal/sharedcomponent"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
)

// NewFactory makes the factory of the comfyui receiver.
func NewFactory() receiver.Factory {
	s := &services{}
	return receiver.NewFactory(metadata.Type, createDefaultConfig,
		receiver.WithTraces(s.traces, metadata.TracesStability),
		receiver.WithMetrics(s.metrics, metadata.MetricsStability),
		receiver.WithLogs(s.logs, metadata.LogsStability))
}

// services shares one service between the signals of one component.
type services struct {
	sharedcomponent.Instances[*Config, *service]
}

func (ss *services) of(settings receiver.Settings, cfg component.Config) *service {
	c := cfg.(*Config)
	return ss.Of(c, func() *service {
		s := newService(settings, c)
		s.forget = func() { ss.Forget(c) }
		return s
	})
}

// side is one signal of a service.
type side struct{ *service }

func (s side) Start(ctx context.Context, host component.Host) error { return s.start(ctx, host) }
func (s side) Shutdown(ctx context.Context) error                   { return s.shutdown(ctx) }

func (ss *services) traces(_ context.Context, settings receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	s := ss.of(settings, cfg)
	s.traces = next
	return side{s}, nil
}

func (ss *services) logs(_ context.Context, settings receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	s := ss.of(settings, cfg)
	s.logs = next
	return side{s}, nil
}

func (ss *services) metrics(_ context.Context, settings receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	s := ss.of(settings, cfg)
	scrape, err := scraper.NewMetrics(s.scrape, scraper.WithStart(s.start), scraper.WithShutdown(s.shutdown))
	if err != nil {
		return nil, err
	}
	controller := scraperhelper.NewDefaultControllerConfig()
	controller.CollectionInterval = s.cfg.CollectionInterval
	return scraperhelper.NewMetricsController(&controller, settings, next, scraperhelper.AddMetricsScraper(metadata.Type, scrape))
}
