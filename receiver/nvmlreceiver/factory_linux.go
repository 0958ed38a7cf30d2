// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// newCreators return constructors whose receivers share sessions.
func newCreators() (receiver.CreateMetricsFunc, receiver.CreateLogsFunc) {
	sessions, bus := nvml.OfProcess(), gpuevents.OfProcess()
	return func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
			return newReceiver(set, cfg.(*Config), next, sessions, bus)
		}, func(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
			return newEventLog(set, cfg.(*Config), next, sessions, bus)
		}
}

func newReceiver(set receiver.Settings, cfg *Config, next consumer.Metrics, sessions *nvml.Sessions, bus *gpuevents.Bus, options ...scraperhelper.ControllerOption) (receiver.Metrics, error) {
	c := newCollector(set, cfg, sessions, bus)
	s, err := scraper.NewMetrics(c.collect, scraper.WithStart(c.start), scraper.WithShutdown(c.shutdown))
	if err != nil {
		return nil, err
	}
	options = append(options, scraperhelper.AddMetricsScraper(metadata.Type, s))
	return scraperhelper.NewMetricsController(&cfg.ControllerConfig, set, next, options...)
}
