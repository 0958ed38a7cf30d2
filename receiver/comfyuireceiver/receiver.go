// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/receiver"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission/overhttp"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/storageclient"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// earlyMessages is how long messages are kept about prompts that were not submitted here.
const earlyMessages = 30 * time.Second

// comfyuiReceiver is the lifecycle of one component: it follows one ComfyUI server. The
// traces, metrics and logs of a component id share it; it runs from the first start to
// the last shutdown.
type comfyuiReceiver struct {
	cfg      *Config
	settings receiver.Settings
	log      *zap.Logger
	now      func() time.Time
	// made is the factory's list of receivers, from which the last shutdown removes this one, so
	// that a configuration that is loaded again gets a new one; nil without a factory.
	made *instances

	// Set by the factory before the first start; nil without a pipeline.
	traces consumer.Traces
	logs   consumer.Logs

	// mu guards everything declared below during start and shutdown.
	mu    sync.Mutex
	users int

	resource  pcommon.Resource
	telemetry *metadata.TelemetryBuilder
	following *follower
	export    *exporter
	device    *deviceFinder
	store     *store
	proxy     *proxy
	hub       *sockets.Hub
	transport *http.Transport // of clients' requests
	server    *http.Server
	address   string           // of the proxy's listener
	remote    *overhttp.Client // nil without an advisor in another collector

	cancel context.CancelFunc
	work   sync.WaitGroup
}

func newReceiver(settings receiver.Settings, cfg *Config) *comfyuiReceiver {
	return &comfyuiReceiver{cfg: cfg, settings: settings, log: settings.Logger, now: time.Now, resource: pcommon.NewResource()}
}

// Start starts the receiver with the first of its signals.
func (r *comfyuiReceiver) Start(ctx context.Context, host component.Host) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	if r.users > 1 {
		return nil
	}
	if err := r.build(ctx, host); err != nil {
		return errors.Join(err, r.stop(ctx))
	}
	return nil
}

// build makes the parts and starts their goroutines. After an error, stop ends what has
// been started.
func (r *comfyuiReceiver) build(ctx context.Context, host component.Host) (err error) {
	if ignored := r.cfg.ignoredKeys(); len(ignored) > 0 {
		r.log.Warn("These settings have no effect in poll mode; remove them, or set mode: proxy", zap.Strings("keys", ignored))
	}
	if r.telemetry, err = metadata.NewTelemetryBuilder(r.settings.TelemetrySettings); err != nil {
		return err
	}
	base, err := url.Parse(strings.TrimSuffix(r.cfg.Upstream.Endpoint, "/"))
	if err != nil {
		return fmt.Errorf("upstream::endpoint: %w", err)
	}
	client, err := r.client(ctx, host)
	if err != nil {
		return err
	}
	stored, err := storageclient.Open(ctx, host, r.cfg.Storage, component.KindReceiver, r.settings.ID)
	if err != nil {
		return err
	}
	if err := r.assemble(base, client, stored); err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	r.device.begin()
	r.work.Go(func() { r.device.run(running) })
	if err := r.watchMemory(ctx, host, running); err != nil {
		return err
	}
	ended, exported := r.following.restore(running)
	if len(ended) > 0 {
		r.work.Go(func() { r.export.exportRestored(running, ended) })
	}
	r.following.memory.notify()
	if r.cfg.Mode == modePoll {
		r.list(running)
		r.work.Go(func() { r.following.poll(running, exported) })
		return nil
	}
	if err := r.makeRemote(ctx, host); err != nil {
		return err
	}
	if err := r.listen(ctx, host, running); err != nil {
		return err
	}
	r.list(running)
	r.work.Go(func() { r.following.watch(running, r.hub) })
	r.work.Go(func() { r.following.reconcileLoop(running) })
	r.work.Go(func() { every(running, sweepInterval, r.sweep) })
	return nil
}

// client makes a client for the receiver's own requests.
func (r *comfyuiReceiver) client(ctx context.Context, host component.Host) (*http.Client, error) {
	if p := r.cfg.place; p != nil {
		return &http.Client{Transport: p.Transport}, nil
	}
	client, err := r.cfg.Upstream.ToClient(ctx, host.GetExtensions(), r.settings.TelemetrySettings)
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	return client, nil
}

// assemble makes the parts that follow the server at base, with the client for the
// receiver's own requests.
func (r *comfyuiReceiver) assemble(base *url.URL, client *http.Client, stored storage.Client) error {
	r.store = newStore(stored, 2*r.cfg.Limits.Prompts, r.log, r.telemetry)
	observed, err := newInstruments(r.cfg.Limits, r.telemetry, r.now)
	if err != nil {
		return err
	}
	bounds := r.cfg.Limits.parsing()
	server := &comfyServer{base: base, client: client, telemetry: r.telemetry, bounds: bounds}
	r.describe(base)
	r.device = newDeviceFinder(r.cfg.Device, base, newGPUProcesses(r.cfg.LibraryPath, r.log), r.now)
	if r.cfg.place != nil {
		r.device.isolate(r.cfg.place.PID)
	}
	classes := newAPIClasses(r.cfg.Limits.NodeClasses)
	builder, err := spans.NewBuilder(r.cfg.Capture, r.cfg.Limits.bounds(), r.resource, r.settings.BuildInfo.Version, r.device, classes)
	if err != nil {
		return err
	}
	sizer, err := sizing.NewSizer(r.cfg.Sizing, r.cfg.TaskClasses)
	if err != nil {
		return err
	}
	r.following = &follower{
		instruments: observed, server: server, store: r.store, bounds: bounds, log: r.log, now: r.now, trustsPolled: r.cfg.Admission.TrustRequestClass,
		interval: r.cfg.PollInterval, changed: make(chan struct{}, 1), classes: classes, ownSocket: newOwnSockets(r.cfg.OwnSockets),
		loading: newLoadingTimes(r.device, classes), bus: r.cfg.bus(), name: pdataread.Text(r.resource.Attributes(), "service.instance.id"),
	}
	r.export = &exporter{
		grace:           max(stopGrace, r.cfg.atLeast),
		traces:          r.traces,
		logs:            r.logs,
		executionEvents: r.cfg.ExecutionEvents,
		spans:           builder,
		instruments:     observed,
		handovers:       newHandovers(r.cfg.bus(), r.following, r.store.maxSlots+r.cfg.Limits.Queue),
		log:             r.log,
		now:             r.now,
	}
	r.export.start(r.cfg.Limits.Queue)
	r.following.export = r.export
	limits := prompt.Limits{Open: r.cfg.Limits.Prompts, Bytes: r.cfg.Limits.OpenBytes, Nodes: r.cfg.Limits.Nodes, Early: earlyMessages}
	r.following.tracker = prompt.NewTracker(limits, sizer, r.following)
	r.following.work = newWorkSignal(r.device, r.following.tracker)
	return nil
}

// describe sets the resource of all telemetry. The instance of a server on this host has
// the host's name instead of a loopback address, which is the same on all hosts.
func (r *comfyuiReceiver) describe(base *url.URL) {
	a, instance := r.resource.Attributes(), base.Hostname()
	if host, err := os.Hostname(); err == nil {
		a.PutStr(semconv.HostName, host)
		if onThisHost(base) {
			instance = host
		}
	}
	if port := base.Port(); port != "" {
		instance = net.JoinHostPort(instance, port)
	}
	a.PutStr("service.name", "comfyui")
	a.PutStr("service.instance.id", instance)
}

// listen opens the proxy.
func (r *comfyuiReceiver) listen(ctx context.Context, host component.Host, running context.Context) (err error) {
	if p := r.cfg.place; p != nil {
		r.transport = p.Transport
		p.Listener.Serve(r.proxyHandler(running))
		return nil
	}
	if r.transport, err = clientTransport(ctx, r.cfg); err != nil {
		return err
	}
	settings := r.cfg.Proxy
	// Empty, not nil: bodies and Content-Encoding pass unchanged.
	settings.CompressionAlgorithms = []string{}
	// The proxy has metrics of its own; those of confighttp would double its costs.
	telemetry := r.settings.TelemetrySettings
	telemetry.MeterProvider, telemetry.TracerProvider = metricnoop.NewMeterProvider(), tracenoop.NewTracerProvider()
	if r.server, err = settings.ToServer(ctx, host.GetExtensions(), telemetry, r.proxyHandler(running)); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	listener, err := settings.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("proxy::endpoint: %w", err)
	}
	r.address = listener.Addr().String()
	r.log.Info("Proxy is listening", zap.String("endpoint", r.address), zap.String("upstream", r.following.server.base.Redacted()))
	r.work.Go(func() {
		if err := r.server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			r.log.Error("Proxy has stopped", zap.String("endpoint", r.address), zap.Error(err))
		}
	})
	return nil
}

// proxyHandler makes the proxy and its sockets. running ends with the receiver.
func (r *comfyuiReceiver) proxyHandler(running context.Context) http.Handler {
	server := r.following.server
	r.hub = sockets.NewHub(sockets.Config{
		Upstream: server.base, Transport: r.transport, Client: server.client,
		FrameBytes: r.cfg.Limits.FrameBytes, MaxSockets: r.cfg.Limits.Sockets, MaxRetained: r.cfg.Limits.KeptSockets, MaxRequests: r.cfg.Limits.Prompts,
		Observer: r.following, Prompts: r.following.tracker, Logger: r.log, Now: r.now,
	})
	r.following.listener = r.hub
	r.proxy = newProxy(&proxy{
		follower: r.following, ctx: running, transport: r.transport, hub: r.hub,
		maxPrompt: r.cfg.Limits.PromptBytes, bodies: budget{max: int64(r.cfg.Limits.BodyBytes)},
		authenticates: r.cfg.Proxy.Auth.HasValue(), admitter: r.newAdmitter(),
	})
	r.proxy.followQueues(running, r.following.bus)
	return r.proxy
}

// clientTransport is the transport of clients' requests. Unlike that of the receiver's
// own requests it adds nothing, and leaves bodies as they are.
func clientTransport(ctx context.Context, cfg *Config) (*http.Transport, error) {
	tls, err := cfg.Upstream.TLS.LoadTLSConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("upstream::tls: %w", err)
	}
	t := &http.Transport{
		TLSClientConfig: tls, DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
		DialContext: (&net.Dialer{Timeout: requestTimeout, KeepAlive: 30 * time.Second}).DialContext,
	}
	if cfg.Upstream.ProxyURL != "" {
		through, err := url.Parse(cfg.Upstream.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("upstream::proxy_url: %w", err)
		}
		t.Proxy = http.ProxyURL(through)
	}
	return t, nil
}

// sweepInterval is how often unused sockets are closed.
const sweepInterval = 250 * time.Millisecond

func (r *comfyuiReceiver) sweep() {
	r.hub.Sweep()
	_, withoutClient := r.hub.Counts()
	r.telemetry.ReceiverComfyuiSocketsKept.Record(context.Background(), int64(withoutClient))
}

// every calls f at once and then at each interval, until ctx ends.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticks := time.Tick(interval)
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-ticks:
		}
	}
}

// pause waits; false if done is closed before.
func pause(done <-chan struct{}, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-done:
		return false
	}
}
