// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/connector"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/alerts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/prompts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/state"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// advisor is one gpuadvisor connector: the components of its three signals share it. It runs
// from the first start to the last shutdown.
type advisor struct {
	cfg      *Config
	settings connector.Settings
	log      *zap.Logger
	now      func() time.Time
	bus      *comfyevents.Bus
	advisors *admission.Advisors
	// release drops the advisor from the factory's instances, when its last component has shut
	// down.
	release func()
	next    consumer.Metrics

	// running guards everything declared below during start and shutdown.
	running   sync.Mutex
	users     int // components that run
	telemetry *metadata.TelemetryBuilder
	page      *page.Page
	server    *http.Server
	address   string // of the page's listener
	cancel    context.CancelFunc
	began     time.Time
	work      sync.WaitGroup
	alerts    *alerts.Poller

	// state is made at the start. It has a lock of its own, as have advice and recommended.
	state       *state.Store
	advice      *advice.Advisor
	recommended *recommender
	// saved is used at the start, by one goroutine, and at the shutdown, in this order; nil without
	// storage.
	saved *saved
	// observed and repeats have locks of their own.
	observed *observed
	repeats  *repeats

	emitter emitter
}

func newAdvisor(settings connector.Settings, cfg *Config) *advisor {
	return &advisor{
		cfg: cfg, settings: settings, log: settings.Logger, now: time.Now, bus: comfyevents.OfProcess(), release: func() {},
		alerts: alerts.New(cfg.Alerts, settings.TelemetrySettings), advisors: admission.OfProcess(), repeats: newRepeats(), observed: newObserved(cfg.Classes),
	}
}

// The components of the three signals. They keep what they read, and change nothing.
type (
	metricsComponent struct{ *advisor }
	tracesComponent  struct{ *advisor }
	logsComponent    struct{ *advisor }
)

func (metricsComponent) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }
func (tracesComponent) Capabilities() consumer.Capabilities  { return consumer.Capabilities{} }
func (logsComponent) Capabilities() consumer.Capabilities    { return consumer.Capabilities{} }

// ConsumeMetrics implements [consumer.Metrics]. It returns no error: what the page does not
// understand, others may.
func (a metricsComponent) ConsumeMetrics(_ context.Context, md pmetric.Metrics) error {
	a.state.Metrics(md)
	return nil
}

// ConsumeTraces implements [consumer.Traces].
func (a tracesComponent) ConsumeTraces(_ context.Context, td ptrace.Traces) error {
	a.state.Traces(td) // one that comes again takes the place of the first
	td = a.repeats.without(td)
	a.advice.Traces(td)
	a.observed.traces(td)
	a.recommended.traces(td)
	return nil
}

// ConsumeLogs implements [consumer.Logs].
func (a logsComponent) ConsumeLogs(_ context.Context, ld plog.Logs) error {
	a.state.Logs(ld)
	return nil
}

// Start starts the advisor with the first of its components.
func (a *advisor) Start(ctx context.Context, host component.Host) error {
	a.running.Lock()
	defer a.running.Unlock()
	a.users++
	if a.users > 1 {
		return nil
	}
	if err := a.begin(ctx, host); err != nil {
		return errors.Join(err, a.end(ctx))
	}
	return nil
}

func (a *advisor) begin(ctx context.Context, host component.Host) (err error) {
	if a.telemetry, err = metadata.NewTelemetryBuilder(a.settings.TelemetrySettings); err != nil {
		return err
	}
	if a.state, err = a.newState(); err != nil {
		return err
	}
	a.advice = advice.NewAdvisor(a.cfg.adviceSettings(), &a.bus.Servers, a.now, messages)
	a.recommended = newRecommender(a.cfg, a.advice, a.now)
	if a.saved, err = a.openSaved(ctx, host); err != nil {
		return err
	}
	if a.saved != nil {
		a.saved.load(ctx)
	}
	if err := a.listen(ctx, host); err != nil {
		return err
	}
	if err := a.alerts.Start(ctx, host); err != nil {
		return fmt.Errorf("alerts: %w", err)
	}
	running, cancel := context.WithCancel(context.Background())
	a.cancel, a.began = cancel, a.now()
	a.advise(running)
	a.state.Evaluate() // before the first second is over, too, there is a verdict
	a.work.Go(func() { a.run(running) })
	// A goroutine of its own: a next consumer that blocks does not stop the conditions.
	a.work.Go(func() { every(running, a.cfg.CollectionInterval, func() { a.emit(running) }) })
	if a.saved != nil {
		a.work.Go(func() { every(running, saveInterval, func() { a.saved.save(running) }) })
	}
	return nil
}

// newState makes what is known of GPUs, servers and prompts. The names of XIDs are read from the
// product.
func (a *advisor) newState() (*state.Store, error) {
	l := a.cfg.Limits
	links := make([]view.Link, len(a.cfg.Links))
	for i, link := range a.cfg.Links {
		links[i] = view.Link(link)
	}
	host, err := os.Hostname()
	if err != nil {
		a.log.Warn("Cannot read the host name; the page has none until the first sample", zap.Error(err))
	}
	return state.New(state.Settings{
		Host:    host,
		Machine: machine.Limits{GPUs: l.GPUs, Processes: l.Processes, Servers: l.Servers, Events: l.Events, History: a.cfg.History},
		Prompts: prompts.Limits{Prompts: l.Prompts, Bytes: l.PromptBytes},
		Servers: &a.bus.Servers, Alerts: a.alerts, Links: links, After: a.cfg.Conditions.After, BusyFor: a.cfg.Advice.BusyFor, Rush: a.cfg.Rush.Endpoint, Now: a.now,
	})
}

// evaluationInterval is how often conditions are evaluated, whether anybody looks or not:
// since when one holds is known no more precisely.
const evaluationInterval = time.Second

// run evaluates the conditions. Meanwhile it follows the samplers of the process.
func (a *advisor) run(ctx context.Context) {
	defer a.followMemory()()
	checked := false
	every(ctx, evaluationInterval, func() {
		a.state.Evaluate()
		gpus := a.state.GPUs()
		a.advice.Refresh(gpus)
		a.state.SetLoads(a.advice.Loads(idsOf(gpus)))
		checked = checked || a.checkClasses()
	})
}

// advise has the components of the process find the advisor, until ctx ends.
func (a *advisor) advise(ctx context.Context) {
	a.advice.Refresh(a.state.GPUs())
	context.AfterFunc(ctx, a.advice.Follow())
	context.AfterFunc(ctx, a.advisors.Add(a.settings.ID, a.advice))
}

// every calls f at each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			f()
		}
	}
}

// Shutdown ends the advisor with the last of its components.
func (a *advisor) Shutdown(ctx context.Context) error {
	a.running.Lock()
	defer a.running.Unlock()
	if a.users == 0 {
		return nil // it never started
	}
	a.users--
	if a.users > 0 {
		return nil
	}
	a.release()
	return a.end(ctx)
}

// shutdownTimeout bounds how long requests of the page may still take at shutdown. Streams end
// at once.
const shutdownTimeout = time.Second

// end ends the parts that exist.
func (a *advisor) end(ctx context.Context) (err error) {
	if a.cancel != nil {
		a.cancel()
	}
	if a.page != nil {
		a.page.Close() // http.Server.Shutdown waits for its streams
	}
	if a.server != nil {
		within, cancel := context.WithTimeout(ctx, shutdownTimeout)
		defer cancel()
		if err = a.server.Shutdown(within); err != nil {
			err = a.server.Close()
		}
	}
	a.alerts.Shutdown()
	a.work.Wait()
	if a.saved != nil {
		err = errors.Join(err, a.saved.close(ctx))
		a.saved = nil // a start that fails is followed by a shutdown
	}
	if a.telemetry != nil {
		a.telemetry.Shutdown()
	}
	return err
}

// listen serves the page.
func (a *advisor) listen(ctx context.Context, host component.Host) (err error) {
	settings := a.cfg.Page
	p := page.New(a.state, page.Settings{Endpoint: settings.NetAddr.Endpoint, AllowedHosts: a.cfg.AllowedHosts, Advisor: a.advice, Recommender: a.recommended, Claims: a.cfg.Advice.Claims, Free: a.bus.Servers.Free, MaxViewers: a.cfg.Limits.Viewers})
	server, err := settings.ToServer(ctx, host.GetExtensions(), withoutTelemetry(a.settings.TelemetrySettings), p)
	if err != nil {
		return fmt.Errorf("page: %w", err)
	}
	if settings.Auth.HasValue() {
		server.Handler = p.SignIn(server.Handler)
	}
	listener, err := settings.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("page::endpoint: %w; set it to an address that is free", err)
	}
	a.page, a.server, a.address = p, server, listener.Addr().String()
	a.log.Info("Page is listening", zap.String("endpoint", a.address))
	a.work.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("Page has stopped", zap.String("endpoint", a.address), zap.Error(err))
		}
	})
	return nil
}
