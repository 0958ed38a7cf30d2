// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
)

// report adds what the joiner counted to the collector's own telemetry.
func (c *joinConnector) report(ctx context.Context) {
	n := c.joiner.Drain()
	for _, s := range []struct {
		outcome string
		count   int64
	}{{"taken", n.Accepted}, {"late", n.Late}, {"repeated", n.Repeated}, {"dropped", n.Dropped}} {
		if s.count > 0 {
			c.telemetry.ConnectorGpucorrelationSamples.Add(ctx, s.count, metric.WithAttributes(attribute.String("outcome", s.outcome)))
		}
	}
	for o, count := range n.Spans {
		c.warn(o.Reason)
		c.telemetry.ConnectorGpucorrelationSpans.Add(
			ctx,
			count,
			metric.WithAttributes(attribute.String("outcome", o.Outcome), attribute.String("reason", o.Reason)),
		)
	}
	for outcome, count := range n.Records {
		c.telemetry.ConnectorGpucorrelationRecords.Add(ctx, count, metric.WithAttributes(attribute.String("outcome", outcome)))
	}
	for what, count := range n.Forgotten {
		c.forgotten(ctx, what, count)
	}
	c.forgotten(ctx, "card", n.GPUs)
	c.forgotten(ctx, "timeline", n.SetBack)
	if n.SetBack > 0 {
		c.settings.Logger.Warn(
			"The clock was set back; the samples of GPUs are dropped, and spans get estimates until there are new ones",
			zap.Int64("gpus", n.SetBack),
		)
	}
	for id, difference := range n.Disagreements {
		c.telemetry.ConnectorGpucorrelationEnergyDisagreement.Record(ctx, difference, metric.WithAttributes(attribute.String("hw.id", id)))
		if difference != 0 && c.once.First("disagreement of "+id) {
			c.settings.Logger.Warn(
				"The energy counter and the instant power of a GPU disagree; energies of its spans may be off by as much. Compare them with a meter and set energy::gain",
				zap.String("hw.id", id), zap.Float64("difference", difference),
			)
		}
	}
	spans, bytes := c.joiner.Waiting()
	c.telemetry.ConnectorGpucorrelationWaitingSpans.Record(ctx, int64(spans))
	c.telemetry.ConnectorGpucorrelationWaitingBytes.Record(ctx, int64(bytes))
}

// initialize sets what runbooks read to 0, so that the first loss is an increase.
func (c *joinConnector) initialize() {
	for _, what := range []string{"trace", "window", "beginning", "xid", "card", "timeline"} {
		c.telemetry.ConnectorGpucorrelationForgotten.Add(context.Background(), 0, metric.WithAttributes(attribute.String("what", what)))
	}
}

// forgotten counts items that were dropped early.
func (c *joinConnector) forgotten(ctx context.Context, what string, count int64) {
	if count > 0 {
		c.telemetry.ConnectorGpucorrelationForgotten.Add(ctx, count, metric.WithAttributes(attribute.String("what", what)))
	}
}

// remedies are the reasons for spans without figures that a change of the configuration
// resolves.
var remedies = map[string]string{
	join.ReasonHost:  "Spans of another host get no GPU figures; add the host to clock_offsets with the offset of its clock (0s if it is the same)",
	join.ReasonClock: "Spans end in the future and get no GPU figures; synchronise the clock of their host, or add the host to clock_offsets",
	join.ReasonLimit: "Too many spans wait for samples; further spans are passed on without GPU figures. Check that samples arrive; otherwise raise limits::spans and limits::bytes",
}

// warn logs once why spans get no figures, if there is a remedy.
func (c *joinConnector) warn(reason string) {
	if text, ok := remedies[reason]; ok && c.once.First(reason) {
		c.settings.Logger.Warn(text)
	}
}
