// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
)

// correlation is one gpucorrelation connector: its three sides share it.
type correlation struct {
	cfg      *Config
	settings connector.Settings
	now      func() time.Time
	forget   func() // called when the last side has ended

	nextTraces consumer.Traces
	nextLogs   consumer.Logs
	telemetry  *metadata.TelemetryBuilder

	mu   sync.Mutex
	join *correlator

	saying sync.Mutex
	said   map[string]bool // warnings that were given once

	sides   int // that run
	traces  lane
	records lane
	stop    chan struct{}
	work    sync.WaitGroup
}

// lane is the way out of one signal: a slow one does not hold up the other.
type lane struct {
	feeders int // sides whose end the lane's next waits for
	sending sync.Mutex
	wake    chan struct{}
	ending  chan struct{} // closed when the last feeder ends: nothing is tried again
}

func newCorrelation(settings connector.Settings, cfg *Config) *correlation {
	return &correlation{
		cfg: cfg, settings: settings, now: time.Now, forget: func() {}, join: newCorrelator(cfg), said: map[string]bool{},
		traces: lane{wake: make(chan struct{}, 1)}, records: lane{wake: make(chan struct{}, 1)},
	}
}

type metricsSide struct{ *correlation }

func (s metricsSide) Start(context.Context, component.Host) error { return s.start(&s.traces) }
func (s metricsSide) Shutdown(ctx context.Context) error          { return s.shutdown(ctx, &s.traces) }
func (s metricsSide) Capabilities() consumer.Capabilities         { return consumer.Capabilities{} }

type tracesSide struct{ *correlation }

func (s tracesSide) Start(context.Context, component.Host) error { return s.start(&s.traces) }
func (s tracesSide) Shutdown(ctx context.Context) error          { return s.shutdown(ctx, &s.traces) }
func (s tracesSide) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

type logsSide struct{ *correlation }

func (s logsSide) Start(context.Context, component.Host) error { return s.start(&s.records) }
func (s logsSide) Shutdown(ctx context.Context) error          { return s.shutdown(ctx, &s.records) }
func (s logsSide) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (c *correlation) start(to *lane) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sides++
	to.feeders++
	if to.feeders == 1 {
		to.ending = make(chan struct{})
	}
	if c.sides > 1 {
		return nil
	}
	if c.telemetry, err = metadata.NewTelemetryBuilder(c.settings.TelemetrySettings); err != nil {
		return err
	}
	c.stop = make(chan struct{})
	c.work.Go(func() { c.run(&c.traces, c.passTraces) })
	c.work.Go(func() { c.run(&c.records, c.passRecords) })
	return nil
}

// shutdown ends one side. When the last side that feeds a lane ends, what waits is
// passed on with what is known.
func (c *correlation) shutdown(ctx context.Context, to *lane) error {
	c.mu.Lock()
	if c.sides == 0 {
		c.mu.Unlock()
		return nil // it never started
	}
	c.sides--
	to.feeders--
	last, ended := c.sides == 0, to.feeders == 0
	pass := func(context.Context) {}
	if ended {
		close(to.ending)
		if to == &c.traces {
			c.join.end()
			pass = c.passTraces
		} else {
			c.join.endRecords()
			pass = c.passRecords
		}
	}
	c.mu.Unlock()
	pass(ctx)
	if last {
		c.forget()
		close(c.stop)
		c.work.Wait()
		c.telemetry.Shutdown()
	}
	return nil
}

// run passes on what is ready in a lane.
func (c *correlation) run(l *lane, pass func(context.Context)) {
	ticker := time.NewTicker(min(max(c.cfg.Wait/20, 10*time.Millisecond), time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-l.wake:
		case <-ticker.C:
		}
		c.mu.Lock()
		c.join.expire(c.now())
		c.mu.Unlock()
		pass(context.Background())
	}
}

// passTraces sends all traces that are ready, in their order.
func (c *correlation) passTraces(ctx context.Context) {
	c.traces.sending.Lock()
	defer c.traces.sending.Unlock()
	for {
		c.mu.Lock()
		td, found := c.join.take()
		c.report(ctx)
		c.mu.Unlock()
		if !found {
			return
		}
		spans := td.SpanCount()
		if err := c.try(&c.traces, func() error { return c.nextTraces.ConsumeTraces(ctx, td) }); err != nil {
			c.telemetry.ConnectorGpucorrelationSpans.Add(ctx, int64(spans), metric.WithAttributes(attribute.String("outcome", dropped), attribute.String("reason", "refused")))
			c.settings.Logger.Error("spans were refused by the next consumer and are lost", zap.Int("spans", spans), zap.Error(err))
		}
	}
}

// passRecords sends all records that are ready.
func (c *correlation) passRecords(ctx context.Context) {
	c.records.sending.Lock()
	defer c.records.sending.Unlock()
	c.mu.Lock()
	ld, found := c.join.takeRecords()
	c.mu.Unlock()
	if !found || c.nextLogs == nil {
		return
	}
	if err := c.try(&c.records, func() error { return c.nextLogs.ConsumeLogs(ctx, ld) }); err != nil {
		c.telemetry.ConnectorGpucorrelationRecords.Add(ctx, int64(ld.LogRecordCount()), outcomeIs(dropped))
		c.settings.Logger.Error("records were refused by the next consumer and are lost", zap.Int("records", ld.LogRecordCount()), zap.Error(err))
	}
}

// try does something again until it works, is refused for good, or the lane ends.
// Meanwhile what comes in waits, and beyond the bounds passes at once, so that its
// sender is told the error.
func (c *correlation) try(l *lane, do func() error) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		err := do()
		if err == nil || consumererror.IsPermanent(err) {
			return err
		}
		c.sayOnce("retry", func(log *zap.Logger) {
			log.Warn("the next consumer refuses; trying again until it takes it (said once)", zap.Error(err))
		})
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.ending:
			timer.Stop()
			return err
		}
	}
}

// ConsumeMetrics takes samples of GPUs.
func (s metricsSide) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	s.mu.Lock()
	s.join.takeMetrics(md)
	ready := len(s.join.ready) > 0
	s.mu.Unlock()
	if ready {
		s.traces.rouse()
	}
	return nil
}

// ConsumeTraces takes finished spans. An error is that of the next consumer, for
// spans that did not wait.
func (s tracesSide) ConsumeTraces(ctx context.Context, td ptrace.Traces) (err error) {
	s.mu.Lock()
	pass := s.join.takeTraces(td, s.now())
	ready, joined := len(s.join.ready) > 0, len(s.join.records) > 0
	s.mu.Unlock()
	if ready {
		s.traces.rouse()
	}
	if joined {
		s.records.rouse()
	}
	for _, one := range pass {
		err = errors.Join(err, s.nextTraces.ConsumeTraces(ctx, one))
	}
	return err
}

// ConsumeLogs takes records. An error is that of the next consumer, for records that
// did not wait.
func (s logsSide) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	s.mu.Lock()
	s.join.takeLogs(ld, s.now())
	s.mu.Unlock()
	if ld.LogRecordCount() == 0 {
		return nil
	}
	return s.nextLogs.ConsumeLogs(ctx, ld)
}

func (l *lane) rouse() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// warn says once what a configuration can mend.
func (c *correlation) warn() {
	for o := range c.join.count.spans {
		switch o.reason {
		case reasonHost:
			c.sayOnce(o.reason, func(log *zap.Logger) {
				log.Warn("spans of another host get no figures: name the host under clock_offsets, with how far its clock is ahead of this one's (0s if it is the same)")
			})
		case reasonClock:
			c.sayOnce(o.reason, func(log *zap.Logger) {
				log.Warn("spans end in the future and get no figures: mend the clock of their host, or name it under clock_offsets", zap.Duration("max_ahead", c.cfg.MaxAhead))
			})
		case reasonLimit:
			c.sayOnce(o.reason, func(log *zap.Logger) {
				log.Warn("too many spans wait for samples; the rest passes without figures: do the samples arrive? else raise limits::spans and limits::bytes")
			})
		}
	}
}

func (c *correlation) sayOnce(what string, say func(*zap.Logger)) {
	c.saying.Lock()
	defer c.saying.Unlock()
	if !c.said[what] {
		c.said[what] = true
		say(c.settings.Logger)
	}
}

func outcomeIs(outcome string) metric.MeasurementOption {
	return metric.WithAttributes(attribute.String("outcome", outcome))
}

// report tells the collector's own telemetry what was counted.
func (c *correlation) report(ctx context.Context) {
	n := &c.join.count
	for outcome, count := range map[string]*int64{"taken": &n.taken, "late": &n.late, "repeated": &n.repeated, "dropped": &n.dropped} {
		if *count > 0 {
			c.telemetry.ConnectorGpucorrelationSamples.Add(ctx, *count, outcomeIs(outcome))
			*count = 0
		}
	}
	c.warn()
	for o, count := range n.spans {
		c.telemetry.ConnectorGpucorrelationSpans.Add(ctx, count, metric.WithAttributes(attribute.String("outcome", o.outcome), attribute.String("reason", o.reason)))
	}
	for outcome, count := range n.records {
		c.telemetry.ConnectorGpucorrelationRecords.Add(ctx, count, outcomeIs(outcome))
	}
	if n.gpus > 0 {
		n.forgotten["card"], n.gpus = n.gpus, 0
	}
	for what, count := range n.forgotten {
		c.telemetry.ConnectorGpucorrelationForgotten.Add(ctx, count, metric.WithAttributes(attribute.String("what", what)))
	}
	clear(n.forgotten)
	clear(n.spans)
	clear(n.records)
	c.telemetry.ConnectorGpucorrelationWaitingSpans.Record(ctx, int64(c.join.spans))
	c.telemetry.ConnectorGpucorrelationWaitingBytes.Record(ctx, int64(c.join.bytes))
}
