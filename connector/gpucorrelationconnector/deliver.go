// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pipeline"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
)

// deliver sends data to every next pipeline: each gets its own delivery and its own
// copy, and refused is called with those that return an error. The fan-out that the
// collector puts there joins the errors of all pipelines and does not say which failed.
// next is a connector.TracesRouterAndConsumer or its like in the collector, and a plain
// consumer in tests.
func deliver[C, D any](next C, data D, copyTo func(D) D, send func(C, D) error, refused func(pipeline string, err error)) {
	router, ok := any(next).(interface {
		PipelineIDs() []pipeline.ID
		Consumer(ids ...pipeline.ID) (C, error)
	})
	if !ok {
		if err := send(next, data); err != nil {
			refused("", err)
		}
		return
	}
	ids := router.PipelineIDs()
	for i, id := range ids {
		delivered := data
		if i < len(ids)-1 {
			delivered = copyTo(data)
		}
		to, err := router.Consumer(id)
		if err == nil {
			err = send(to, delivered)
		}
		if err != nil {
			refused(id.String(), err)
		}
	}
}

// deliverTraces sends traces to every next pipeline, and counts what is refused.
func (c *joinConnector) deliverTraces(ctx context.Context, td ptrace.Traces) {
	spans := td.SpanCount()
	deliver(c.nextTraces, td,
		func(td ptrace.Traces) ptrace.Traces { copied := ptrace.NewTraces(); td.CopyTo(copied); return copied },
		func(next consumer.Traces, td ptrace.Traces) error { return next.ConsumeTraces(ctx, td) },
		func(pipeline string, err error) {
			c.telemetry.ConnectorGpucorrelationSpans.Add(ctx, int64(spans), refusedBy(pipeline, attribute.String("reason", "refused")))
			c.settings.Logger.Error(
				"Next pipeline refused spans; they are dropped",
				zap.String("pipeline", pipeline),
				zap.Int("spans", spans),
				zap.Error(err),
			)
		})
}

// deliverLogs sends records to every next pipeline, and counts what is refused.
func (c *joinConnector) deliverLogs(ctx context.Context, ld plog.Logs) {
	if c.nextLogs == nil {
		return
	}
	records := ld.LogRecordCount()
	deliver(c.nextLogs, ld,
		func(ld plog.Logs) plog.Logs { copied := plog.NewLogs(); ld.CopyTo(copied); return copied },
		func(next consumer.Logs, ld plog.Logs) error { return next.ConsumeLogs(ctx, ld) },
		func(pipeline string, err error) {
			c.telemetry.ConnectorGpucorrelationRecords.Add(ctx, int64(records), refusedBy(pipeline))
			c.settings.Logger.Error(
				"Next pipeline refused log records; they are dropped",
				zap.String("pipeline", pipeline),
				zap.Int("records", records),
				zap.Error(err),
			)
		})
}

func refusedBy(pipeline string, more ...attribute.KeyValue) metric.MeasurementOption {
	return metric.WithAttributes(append(more, attribute.String("outcome", join.Dropped), attribute.String("pipeline", pipeline))...)
}
