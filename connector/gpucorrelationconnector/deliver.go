// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"

	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
)

// Each pipeline after the connector gets its own delivery and its own copy. The fan-out
// that the collector puts there joins the errors of all pipelines and does not say which
// of them failed.

// deliverTraces sends traces to every next pipeline, and counts what is refused.
func (c *joinConnector) deliverTraces(ctx context.Context, td ptrace.Traces) {
	router, ok := c.nextTraces.(connector.TracesRouterAndConsumer)
	if !ok {
		c.tracesTo(ctx, "", c.nextTraces, td)
		return
	}
	ids := router.PipelineIDs()
	for i, id := range ids {
		next, err := router.Consumer(id)
		if err != nil {
			c.refusedSpans(ctx, id.String(), td.SpanCount(), err)
			continue
		}
		own := td
		if i < len(ids)-1 {
			own = ptrace.NewTraces()
			td.CopyTo(own)
		}
		c.tracesTo(ctx, id.String(), next, own)
	}
}

func (c *joinConnector) tracesTo(ctx context.Context, pipeline string, next consumer.Traces, td ptrace.Traces) {
	spans := td.SpanCount()
	if err := next.ConsumeTraces(ctx, td); err != nil {
		c.refusedSpans(ctx, pipeline, spans, err)
	}
}

func (c *joinConnector) refusedSpans(ctx context.Context, pipeline string, spans int, err error) {
	c.telemetry.ConnectorGpucorrelationSpans.Add(ctx, int64(spans), metric.WithAttributes(
		attribute.String("outcome", join.Dropped), attribute.String("reason", "refused"), attribute.String("pipeline", pipeline)))
	c.settings.Logger.Error("Next pipeline refused spans; they are dropped", zap.String("pipeline", pipeline), zap.Int("spans", spans), zap.Error(err))
}

// deliverLogs sends records to every next pipeline, and counts what is refused.
func (c *joinConnector) deliverLogs(ctx context.Context, ld plog.Logs) {
	if c.nextLogs == nil {
		return
	}
	router, ok := c.nextLogs.(connector.LogsRouterAndConsumer)
	if !ok {
		c.logsTo(ctx, "", c.nextLogs, ld)
		return
	}
	ids := router.PipelineIDs()
	for i, id := range ids {
		next, err := router.Consumer(id)
		if err != nil {
			c.refusedRecords(ctx, id.String(), ld.LogRecordCount(), err)
			continue
		}
		own := ld
		if i < len(ids)-1 {
			own = plog.NewLogs()
			ld.CopyTo(own)
		}
		c.logsTo(ctx, id.String(), next, own)
	}
}

func (c *joinConnector) logsTo(ctx context.Context, pipeline string, next consumer.Logs, ld plog.Logs) {
	records := ld.LogRecordCount()
	if err := next.ConsumeLogs(ctx, ld); err != nil {
		c.refusedRecords(ctx, pipeline, records, err)
	}
}

func (c *joinConnector) refusedRecords(ctx context.Context, pipeline string, records int, err error) {
	c.telemetry.ConnectorGpucorrelationRecords.Add(ctx, int64(records), metric.WithAttributes(
		attribute.String("outcome", join.Dropped), attribute.String("pipeline", pipeline)))
	c.settings.Logger.Error("Next pipeline refused log records; they are dropped", zap.String("pipeline", pipeline), zap.Int("records", records), zap.Error(err))
}
