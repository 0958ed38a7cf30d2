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
	f := &factory{}
	return receiver.NewFactory(metadata.Type, createDefaultConfig,
		receiver.WithTraces(f.traces, metadata.TracesStability),
		receiver.WithMetrics(f.metrics, metadata.MetricsStability),
		receiver.WithLogs(f.logs, metadata.LogsStability))
}

// factory shares one receiver between the signals of one component.
type factory struct{ instances }

// instances are the receivers by their configurations.
type instances = sharedcomponent.Instances[*Config, *comfyuiReceiver]

func (f *factory) of(settings receiver.Settings, cfg component.Config) *comfyuiReceiver {
	c := cfg.(*Config)
	return f.Of(c, func() *comfyuiReceiver {
		r := newReceiver(settings, c)
		r.made = &f.instances
		return r
	})
}

func (f *factory) traces(_ context.Context, settings receiver.Settings, cfg component.Config, next consumer.Traces) (receiver.Traces, error) {
	r := f.of(settings, cfg)
	r.traces = next
	return r, nil
}

func (f *factory) logs(_ context.Context, settings receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	r := f.of(settings, cfg)
	r.logs = next
	return r, nil
}

func (f *factory) metrics(_ context.Context, settings receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	r := f.of(settings, cfg)
	scrape, err := scraper.NewMetrics(r.scrape, scraper.WithStart(r.Start), scraper.WithShutdown(r.Shutdown))
	if err != nil {
		return nil, err
	}
	controller := scraperhelper.NewDefaultControllerConfig()
	controller.CollectionInterval = r.cfg.CollectionInterval
	return scraperhelper.NewMetricsController(&controller, settings, next, scraperhelper.AddMetricsScraper(metadata.Type, scrape))
}
