// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/collector/scraper"
	"go.opentelemetry.io/collector/scraper/scraperhelper"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

func createMetrics(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Metrics) (receiver.Metrics, error) {
	c := cfg.(*Config)
	g := newGPUScraper(set, c, nvml.OfProcess(), gpuevents.OfProcess(), time.Now)
	s, err := scraper.NewMetrics(g.scrape, scraper.WithStart(g.start), scraper.WithShutdown(g.shutdown))
	if err != nil {
		return nil, err
	}
	options := []scraperhelper.ControllerOption{scraperhelper.AddMetricsScraper(metadata.Type, s)}
	if g.pacer != nil {
		options = append(options, scraperhelper.WithTickerChannel(g.pacer.ticks))
	}
	return scraperhelper.NewMetricsController(&c.ControllerConfig, set, next, options...)
}

func createLogs(_ context.Context, set receiver.Settings, cfg component.Config, next consumer.Logs) (receiver.Logs, error) {
	return newEventLog(set, cfg.(*Config), next, nvml.OfProcess(), gpuevents.OfProcess(), time.Now)
}
