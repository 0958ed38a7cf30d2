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
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// signal is how one kind of data is delivered.
type signal[C, D any] interface {
	copy(D) D
	send(context.Context, C, D) error
	// result is called with what each pipeline returned.
	result(ctx context.Context, pipeline string, items int, err error)
}

// deliver sends data to every next pipeline: each gets its own delivery and its own
// copy. The fan-out that the collector puts there joins the errors of all pipelines and
// does not say which failed. next is a connector.TracesRouterAndConsumer or its like in
// the collector, and a plain consumer in tests. A delivery that is abandoned reaches no
// further pipeline. It returns whether all accepted the data.
func deliver[C, D any](ctx context.Context, o *output, d *delivery, s signal[C, D], next C, data D) (accepted bool) {
	accepted = true
	send := func(pipeline string, to C, data D, err error) {
		if !o.isUnderway(d) {
			return
		}
		if err == nil {
			err = s.send(ctx, to, data)
		}
		if !o.isUnderway(d) {
			return // it is counted already
		}
		s.result(ctx, pipeline, d.items, err)
		accepted = accepted && err == nil
	}
	router, ok := any(next).(interface {
		PipelineIDs() []pipeline.ID
		Consumer(ids ...pipeline.ID) (C, error)
	})
	if !ok {
		send("", next, data, nil)
		return accepted
	}
	ids := router.PipelineIDs()
	for i, id := range ids {
		delivered := data
		if i < len(ids)-1 {
			delivered = s.copy(data)
		}
		to, err := router.Consumer(id)
		send(id.String(), to, delivered, err)
	}
	return accepted
}

// deliverTraces sends traces to every next pipeline, counts what is refused, and
// publishes what became of the traces of prompts.
func (c *joinConnector) deliverTraces(ctx context.Context, td ptrace.Traces) {
	d := &delivery{td.SpanCount(), c.handovers(td)} // before a consumer changes the spans
	if !c.traces.begin(d) {
		c.dropSpans(ctx, d)
		return
	}
	accepted := deliver(ctx, &c.traces, d, tracesSignal{c}, c.nextTraces, td)
	switch {
	case !c.traces.end(d): // it was abandoned, and all that is done then is done
	case accepted:
		c.publish(d.handovers, comfyevents.Accepted)
	default:
		c.publish(d.handovers, comfyevents.Refused)
	}
}

// deliverLogs sends records to every next pipeline, and counts what is refused.
func (c *joinConnector) deliverLogs(ctx context.Context, ld plog.Logs) {
	d := &delivery{items: ld.LogRecordCount()}
	if !c.records.begin(d) {
		c.dropRecords(ctx, d)
		return
	}
	deliver(ctx, &c.records, d, logsSignal{c}, c.nextLogs, ld)
	c.records.end(d)
}

type tracesSignal struct{ *joinConnector }

func (tracesSignal) copy(td ptrace.Traces) ptrace.Traces {
	copied := ptrace.NewTraces()
	td.CopyTo(copied)
	return copied
}

func (tracesSignal) send(ctx context.Context, next consumer.Traces, td ptrace.Traces) error {
	return next.ConsumeTraces(ctx, td)
}

func (s tracesSignal) result(ctx context.Context, pipeline string, spans int, err error) {
	if err != nil {
		s.telemetry.ConnectorGpucorrelationSpans.Add(ctx, int64(spans), droppedBy(pipeline, "refused"))
	}
	s.logResult(pipeline, err, "Next pipeline refused spans; they are dropped", "Next pipeline accepts spans again", zap.Int("spans", spans))
}

type logsSignal struct{ *joinConnector }

func (logsSignal) copy(ld plog.Logs) plog.Logs {
	copied := plog.NewLogs()
	ld.CopyTo(copied)
	return copied
}

func (logsSignal) send(ctx context.Context, next consumer.Logs, ld plog.Logs) error {
	return next.ConsumeLogs(ctx, ld)
}

func (s logsSignal) result(ctx context.Context, pipeline string, records int, err error) {
	if err != nil {
		s.telemetry.ConnectorGpucorrelationRecords.Add(ctx, int64(records), droppedBy(pipeline, "refused"))
	}
	s.logResult(pipeline, err, "Next pipeline refused log records; they are dropped", "Next pipeline accepts log records again", zap.Int("records", records))
}

// logResult logs when a pipeline begins to refuse, and when it accepts again.
func (c *joinConnector) logResult(pipeline string, err error, refuses, accepts string, items zap.Field) {
	state := ""
	if err != nil {
		state = "refusing"
	}
	switch {
	case !c.once.Changed(refuses+pipeline, state):
	case err != nil:
		c.settings.Logger.Error(refuses, zap.String("pipeline", pipeline), items, zap.Error(err))
	default:
		c.settings.Logger.Info(accepts, zap.String("pipeline", pipeline))
	}
}

// dropSpans counts spans that are not delivered because the traces side has shut down.
func (c *joinConnector) dropSpans(ctx context.Context, d *delivery) {
	c.telemetry.ConnectorGpucorrelationSpans.Add(ctx, int64(d.items), droppedBy("", "shutdown"))
	if d.items > 0 && c.once.First("spans dropped") {
		c.settings.Logger.Warn("Spans are dropped at shutdown: the next consumers did not accept them in time", zap.Int("spans", d.items), zap.Duration("time", maxDrain))
	}
	c.publish(d.handovers, comfyevents.Abandoned)
}

// dropTraces drops all traces that wait.
func (c *joinConnector) dropTraces(ctx context.Context) {
	c.joiner.Finish()
	for {
		td, ok := c.joiner.Discard()
		if !ok {
			return
		}
		c.dropSpans(ctx, &delivery{td.SpanCount(), c.handovers(td)})
	}
}

// dropRecords counts records that are not delivered because the logs side has shut down.
func (c *joinConnector) dropRecords(ctx context.Context, d *delivery) {
	c.telemetry.ConnectorGpucorrelationRecords.Add(ctx, int64(d.items), droppedBy("", "shutdown"))
	if d.items > 0 && c.once.First("records dropped") {
		c.settings.Logger.Warn("Log records are dropped at shutdown: the next consumers did not accept them in time", zap.Int("records", d.items), zap.Duration("time", maxDrain))
	}
}

// dropReadyRecords drops the records that are ready, when there is no logs side.
func (c *joinConnector) dropReadyRecords(ctx context.Context) {
	for {
		ld, ok := c.joiner.NextRecords()
		if !ok {
			return
		}
		c.dropRecords(ctx, &delivery{items: ld.LogRecordCount()})
	}
}

func droppedBy(pipeline, reason string) metric.MeasurementOption {
	attributes := []attribute.KeyValue{attribute.String("outcome", join.Dropped), attribute.String("reason", reason)}
	if pipeline != "" {
		attributes = append(attributes, attribute.String("pipeline", pipeline))
	}
	return metric.WithAttributes(attributes...)
}
