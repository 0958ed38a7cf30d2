// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/join"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/calibration"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
)

// joinConnector is one gpucorrelation connector: the components of its three signals
// share it. Samples and traces come in through them; two goroutines send what the joiner
// has ready, one for each signal that goes out, so that a slow pipeline delays only its
// own signal.
type joinConnector struct {
	cfg      *Config
	settings connector.Settings
	now      func() time.Time
	// release drops the connector from the factory's instances, when its last component
	// has shut down.
	release func()
	once    logonce.Tracker
	bus     *comfyevents.Bus
	// joining guards what the joiner holds. The joiner itself locks it, for a bounded number
	// of items at a time.
	joining sync.Mutex
	joiner  *join.Joiner

	nextTraces  consumer.Traces
	nextLogs    consumer.Logs
	readMetrics bool // there is a metrics pipeline
	telemetry   *metadata.TelemetryBuilder

	traces  output
	records output

	// mu guards everything declared below.
	mu         sync.Mutex
	components int  // that run
	sampled    bool // the metrics side runs
}

func newConnector(settings connector.Settings, cfg *Config) *joinConnector {
	c := &joinConnector{
		cfg: cfg, settings: settings, now: time.Now, release: func() {}, bus: comfyevents.OfProcess(),
		traces: newOutput(), records: newOutput(),
	}
	c.joiner = join.NewShared(cfg.joinSettings(), &c.joining)
	return c
}

// The components of the three signals. Each drains its own signal when it shuts down, in
// whatever order they do.
type (
	metricsComponent struct{ *joinConnector }
	tracesComponent  struct{ *joinConnector }
	logsComponent    struct{ *joinConnector }
)

func (metricsComponent) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }
func (tracesComponent) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (logsComponent) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (s metricsComponent) Start(context.Context, component.Host) error {
	if err := s.attach(); err != nil {
		return err
	}
	s.setSampled(true)
	return nil
}

// Shutdown ends the samples; those that arrive later are ignored. Nothing of the metrics
// side waits.
func (s metricsComponent) Shutdown(ctx context.Context) error {
	if s.setSampled(false) {
		s.detach(ctx)
	}
	return nil
}

func (s tracesComponent) Start(context.Context, component.Host) error {
	if !s.readMetrics {
		s.settings.Logger.Warn(
			"The connector is in no metrics pipeline, so every trace that names a GPU waits for samples and gets none; add it to the exporters of a metrics pipeline that has an nvml receiver",
			zap.Duration("wait", s.cfg.Wait),
		)
	}
	if err := s.attach(); err != nil {
		return err
	}
	s.traces.start(func(ctx context.Context) { s.run(ctx, &s.traces, tracesSender(s)) })
	return nil
}

// Shutdown sends the traces that wait, with the figures that are known.
func (s tracesComponent) Shutdown(ctx context.Context) error {
	if !s.traces.isOpen() {
		return nil // it never started
	}
	for _, d := range s.traces.shutdown(ctx) {
		s.dropSpans(ctx, d)
	}
	s.dropTraces(ctx)
	s.detach(ctx)
	return nil
}

func (s logsComponent) Start(context.Context, component.Host) error {
	if err := s.attach(); err != nil {
		return err
	}
	s.records.start(func(ctx context.Context) { s.run(ctx, &s.records, recordsSender(s)) })
	return nil
}

// Shutdown sends the records that wait for a trace, without one.
func (s logsComponent) Shutdown(ctx context.Context) error {
	if !s.records.isOpen() {
		return nil // it never started
	}
	for _, d := range s.records.shutdown(ctx) {
		s.dropRecords(ctx, d)
	}
	s.joiner.FinishRecords()
	s.dropReadyRecords(ctx)
	s.detach(ctx)
	return nil
}

// attach counts a component that starts.
func (c *joinConnector) attach() (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.components == 0 {
		if err = c.calibrate(); err != nil {
			return err
		}
		if c.telemetry, err = metadata.NewTelemetryBuilder(c.settings.TelemetrySettings); err != nil {
			return err
		}
		c.initialize()
	}
	c.components++
	return nil
}

// calibrate reads what was measured of the GPUs' energy counters.
func (c *joinConnector) calibrate() error {
	if c.cfg.Energy.Calibration == "" {
		return nil
	}
	counters, err := calibration.Read(c.cfg.Energy.Calibration)
	if err != nil {
		return fmt.Errorf("energy::calibration: %w", err)
	}
	all := make(map[string]join.Calibration, 2*len(counters))
	for _, x := range slices.Backward(counters) { // the first of a model counts for others of it
		measured := join.Calibration{Lag: x.Lag, Share: x.Share}
		all[x.Model] = measured
		all[x.GPU] = measured
	}
	delete(all, "")
	c.joiner.Calibrate(all)
	return nil
}

// detach counts a component that has shut down.
func (c *joinConnector) detach(ctx context.Context) {
	c.report(ctx)
	c.mu.Lock()
	c.components--
	last := c.components == 0
	c.mu.Unlock()
	if last {
		c.release()
		c.telemetry.Shutdown()
	}
}

// setSampled stores whether the metrics side runs, and returns whether it did.
func (c *joinConnector) setSampled(sampled bool) (before bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.sampled = c.sampled, sampled
	return before
}

func (c *joinConnector) isSampled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sampled
}

// sender sends what is ready of one signal.
type sender interface {
	// finish makes ready all that waits.
	finish()
	send(context.Context)
}

// run sends what is ready in an output, until its side shuts down and nothing waits.
func (c *joinConnector) run(ctx context.Context, o *output, s sender) {
	defer o.leave()
	ticker := time.NewTicker(min(max(c.cfg.Wait/20, 10*time.Millisecond), time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-o.stop:
		case <-o.wake:
		case <-ticker.C:
		}
		c.joiner.Expire(c.now())
		if !c.records.isOpen() {
			c.dropReadyRecords(ctx)
		}
		select {
		case <-o.stop:
			c.drain(ctx, o, s)
			return
		default:
			s.send(ctx)
		}
	}
}

// drain sends all that waits, and what calls that are under way still bring.
func (c *joinConnector) drain(ctx context.Context, o *output, s sender) {
	for {
		others := !o.alone()
		s.finish()
		s.send(ctx)
		if !others {
			return
		}
		select {
		case <-o.wake:
		case <-ctx.Done():
			return
		}
	}
}

type (
	tracesSender  struct{ *joinConnector }
	recordsSender struct{ *joinConnector }
)

func (s tracesSender) finish() { s.joiner.Finish() }

func (s tracesSender) send(ctx context.Context) {
	for ctx.Err() == nil {
		next := s.joiner.NextTraces
		select {
		case <-s.traces.hurry: // better without figures than not at all
			next = s.joiner.NextUnbilled
		default:
		}
		td, ok := next()
		s.report(ctx)
		if !ok {
			return
		}
		s.deliverTraces(ctx, td)
	}
}

func (s recordsSender) finish() { s.joiner.FinishRecords() }

func (s recordsSender) send(ctx context.Context) {
	for ctx.Err() == nil {
		ld, ok := s.joiner.NextRecords()
		s.report(ctx)
		if !ok {
			return
		}
		s.deliverLogs(ctx, ld)
	}
}

// ConsumeMetrics adds samples of GPUs.
func (s metricsComponent) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	if !s.isSampled() || s.traces.isClosed() {
		return nil
	}
	s.joiner.AddMetrics(md)
	if s.joiner.HasTraces() {
		s.traces.notify()
	}
	return nil
}

// ConsumeTraces adds finished spans. It returns no error: what the next pipelines refuse
// is counted, and a receiver that tried again would deliver the rest twice.
func (s tracesComponent) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	handovers := s.handovers(td)
	if !s.traces.enter() {
		s.dropSpans(ctx, &delivery{td.SpanCount(), handovers})
		return nil
	}
	defer s.traces.leave()
	s.publish(handovers, comfyevents.Held)
	pass := s.joiner.AddTraces(td, s.now())
	if s.joiner.HasTraces() {
		s.traces.notify()
	}
	if s.joiner.HasRecords() {
		if s.records.isOpen() {
			s.records.notify()
		} else {
			s.dropReadyRecords(ctx)
		}
	}
	for _, trace := range pass {
		s.deliverTraces(ctx, trace)
	}
	return nil
}

// ConsumeLogs adds log records. It returns no error, as ConsumeTraces.
func (s logsComponent) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	if !s.records.enter() {
		s.dropRecords(ctx, &delivery{items: ld.LogRecordCount()})
		return nil
	}
	defer s.records.leave()
	s.joiner.AddLogs(ld, s.now())
	if ld.LogRecordCount() > 0 {
		s.deliverLogs(ctx, ld)
	}
	return nil
}
