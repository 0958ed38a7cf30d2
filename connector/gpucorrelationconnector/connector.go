// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
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

	nextTraces  consumer.Traces
	nextLogs    consumer.Logs
	readMetrics bool // there is a metrics pipeline
	telemetry   *metadata.TelemetryBuilder

	traces  output
	records output
	stop    chan struct{}
	work    sync.WaitGroup

	// mu guards everything declared below.
	mu         sync.Mutex
	joiner     *join.Joiner
	components int // that run
}

// output is the way out of one signal.
type output struct {
	// feeders counts the running components whose data may reach this output. Guarded by
	// the connector's mu.
	feeders int
	sending sync.Mutex // held while a batch is delivered, so that batches keep their order
	wake    chan struct{}
}

func newOutput() output { return output{wake: make(chan struct{}, 1)} }

// notify makes the output's goroutine send what is ready.
func (o *output) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func newConnector(settings connector.Settings, cfg *Config) *joinConnector {
	return &joinConnector{
		cfg: cfg, settings: settings, now: time.Now, release: func() {}, joiner: join.New(cfg.joinSettings()),
		traces: newOutput(), records: newOutput(),
	}
}

// side is what the components of the three signals have in common: to is the output
// that they feed.
type side struct {
	*joinConnector
	to *output
}

func (s side) Start(context.Context, component.Host) error { return s.start(s.to) }
func (s side) Shutdown(ctx context.Context) error          { return s.shutdown(ctx, s.to) }
func (s side) Capabilities() consumer.Capabilities         { return consumer.Capabilities{MutatesData: true} }

type (
	metricsComponent struct{ side }
	tracesComponent  struct{ side }
	logsComponent    struct{ side }
)

func (metricsComponent) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (s tracesComponent) Start(ctx context.Context, host component.Host) error {
	if !s.readMetrics {
		s.settings.Logger.Warn(
			"The connector is in no metrics pipeline, so every trace that names a GPU waits for samples and gets none; add it to the exporters of a metrics pipeline that has an nvml receiver",
			zap.Duration("wait", s.cfg.Wait),
		)
	}
	return s.side.Start(ctx, host)
}

func (c *joinConnector) start(to *output) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.components == 0 {
		if c.telemetry, err = metadata.NewTelemetryBuilder(c.settings.TelemetrySettings); err != nil {
			return err
		}
		c.stop = make(chan struct{})
		c.work.Go(func() { c.run(&c.traces) })
		c.work.Go(func() { c.run(&c.records) })
	}
	c.components++
	to.feeders++
	return nil
}

// shutdown ends one component. When the last component that feeds an output ends, what
// waits is sent with the figures that are known.
func (c *joinConnector) shutdown(ctx context.Context, to *output) error {
	c.mu.Lock()
	if c.components == 0 {
		c.mu.Unlock()
		return nil // it never started
	}
	c.components--
	to.feeders--
	last, ended := c.components == 0, to.feeders == 0
	switch {
	case ended && to == &c.traces:
		c.joiner.Finish()
	case ended:
		c.joiner.FinishRecords()
	}
	c.mu.Unlock()
	if ended {
		c.send(ctx, to)
	}
	if last {
		c.mu.Lock()
		c.report(ctx)
		c.mu.Unlock()
		c.release()
		close(c.stop)
		c.work.Wait()
		c.telemetry.Shutdown()
	}
	return nil
}

// run sends what is ready in an output, until the connector stops.
func (c *joinConnector) run(o *output) {
	ticker := time.NewTicker(min(max(c.cfg.Wait/20, 10*time.Millisecond), time.Second))
	defer ticker.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-o.wake:
		case <-ticker.C:
		}
		c.mu.Lock()
		c.joiner.Expire(c.now())
		c.mu.Unlock()
		c.send(context.Background(), o)
	}
}

// send delivers all that is ready in an output, in its order.
func (c *joinConnector) send(ctx context.Context, o *output) {
	o.sending.Lock()
	defer o.sending.Unlock()
	if o == &c.records {
		c.mu.Lock()
		ld, ok := c.joiner.NextRecords()
		c.mu.Unlock()
		if ok {
			c.deliverLogs(ctx, ld)
		}
		return
	}
	for {
		c.mu.Lock()
		td, ok := c.joiner.NextTraces()
		c.report(ctx)
		c.mu.Unlock()
		if !ok {
			return
		}
		c.deliverTraces(ctx, td)
	}
}

// ConsumeMetrics adds samples of GPUs.
func (s metricsComponent) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	s.mu.Lock()
	s.joiner.AddMetrics(md)
	ready := s.joiner.HasTraces()
	s.mu.Unlock()
	if ready {
		s.traces.notify()
	}
	return nil
}

// ConsumeTraces adds finished spans. It returns no error: what the next pipelines refuse
// is counted, and a receiver that tried again would deliver the rest twice.
func (s tracesComponent) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	s.mu.Lock()
	pass := s.joiner.AddTraces(td, s.now())
	ready, records := s.joiner.HasTraces(), s.joiner.HasRecords()
	s.mu.Unlock()
	if ready {
		s.traces.notify()
	}
	if records {
		s.records.notify()
	}
	for _, trace := range pass {
		s.deliverTraces(ctx, trace)
	}
	return nil
}

// ConsumeLogs adds log records. It returns no error, as ConsumeTraces.
func (s logsComponent) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	s.mu.Lock()
	s.joiner.AddLogs(ld, s.now())
	s.mu.Unlock()
	if ld.LogRecordCount() > 0 {
		s.deliverLogs(ctx, ld)
	}
	return nil
}
