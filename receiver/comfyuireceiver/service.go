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
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// service is one comfyui receiver: the traces, the metrics and the logs side of a
// component id share it. It follows one server.
type service struct {
	cfg      *Config
	settings receiver.Settings
	log      *zap.Logger
	now      func() time.Time
	forget   func() // called when the last side has ended

	traces consumer.Traces
	logs   consumer.Logs

	telemetry *metadata.TelemetryBuilder
	metrics   *meter
	tracker   *prompt.Tracker
	spans     *spanBuilder
	upstream  *upstream
	device    *deviceFinder
	store     *store
	proxy     *proxy
	server    *http.Server
	address   string // of the proxy's listener

	away   atomic.Bool // the server was not there, and may have lost its queue
	users  int
	mu     sync.Mutex
	ended  chan *prompt.Prompt
	begun  chan prompt.Begun
	poke   chan struct{} // look at the queue now
	cancel context.CancelFunc
	work   sync.WaitGroup
	out    sync.WaitGroup
}

func newService(settings receiver.Settings, cfg *Config) *service {
	return &service{
		cfg: cfg, settings: settings, log: settings.Logger, now: time.Now,
		forget: func() {}, ended: make(chan *prompt.Prompt, cfg.Limits.Queue), begun: make(chan prompt.Begun, cfg.Limits.Queue), poke: make(chan struct{}, 1),
	}
}

// start starts the service with the first of its sides.
func (s *service) start(ctx context.Context, host component.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
	if s.users > 1 {
		return nil
	}
	err := s.build(ctx, host)
	if err != nil {
		return errors.Join(err, s.stop(ctx))
	}
	return nil
}

func (s *service) build(ctx context.Context, host component.Host) (err error) {
	if s.telemetry, err = metadata.NewTelemetryBuilder(s.settings.TelemetrySettings); err != nil {
		return err
	}
	base, err := url.Parse(strings.TrimSuffix(s.cfg.Upstream.Endpoint, "/"))
	if err != nil {
		return fmt.Errorf("upstream::endpoint: %w", err)
	}
	client, err := s.cfg.Upstream.ToClient(ctx, host.GetExtensions(), s.settings.TelemetrySettings)
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	if s.store, err = openStore(ctx, host, s.cfg.Storage, s.settings.ID); err != nil {
		return err
	}
	running, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.upstream = &upstream{base: base, client: client, failed: func() { s.telemetry.ReceiverComfyuiUpstreamErrors.Add(running, 1) }}
	s.device = newDeviceFinder(s.cfg.Device, base, newGPUsOf(s.cfg.LibraryPath, s.log))
	s.metrics = newMeter(s.cfg.Limits, func(what string) { s.folded(what) })
	s.spans = &spanBuilder{
		sizer: newSizer(s.cfg.Sizing, s.cfg.TaskClasses), capture: s.cfg.Capture, version: s.settings.BuildInfo.Version,
		resource: s.resource, device: s.device.id, pid: s.device.process, simulated: s.device.simulated,
	}
	s.tracker = prompt.NewTracker(prompt.Limits{Open: s.cfg.Limits.Prompts, Early: 30 * time.Second}, s.take, s.unfollowed)
	if s.cfg.ExecutionEvents && s.logs != nil {
		s.tracker.Began = s.announce
	}
	s.out.Go(s.emit)
	s.device.begin()
	s.restore(running)
	if s.cfg.Mode == modePoll {
		s.work.Go(func() { s.poll(running) })
	} else {
		if err := s.listen(ctx, host, running, base); err != nil {
			s.device.end()
			return err
		}
		s.work.Go(func() { s.watch(running) })
		s.work.Go(func() { s.reconcileLoop(running) })
	}
	s.work.Go(func() { s.device.run(running) })
	return nil
}

// listen opens the proxy.
func (s *service) listen(ctx context.Context, host component.Host, running context.Context, base *url.URL) error {
	transport, err := s.passing(ctx)
	if err != nil {
		return err
	}
	s.proxy = newProxy(&proxy{
		ctx: running, upstream: base, transport: transport, asking: s.upstream.client, tracker: s.tracker, limits: s.cfg.Limits, sockets: newSockets(s.cfg.Limits.KeptSockets), ownSockets: s.cfg.OwnSockets,
		log: s.log, now: s.now,
		unparsed:   func() { s.telemetry.ReceiverComfyuiFramesUnparsed.Add(running, 1) },
		unfollowed: s.unfollowed, removed: s.lookNow, observe: s.metrics,
		accepted: func(sub *protocol.Submission) {
			z := s.spans.sizer.of(sub)
			s.metrics.accepted(sub, &z)
		},
	})
	handler := asItIs(s.proxy)
	if s.cfg.Proxy.Auth.HasValue() {
		handler = withoutCredentials(handler)
	}
	server, err := s.cfg.Proxy.ToServer(ctx, host.GetExtensions(), s.settings.TelemetrySettings, handler)
	if err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	server.Handler = hideEncoding(server.Handler)
	s.server = server
	listener, err := s.cfg.Proxy.ToListener(ctx)
	if err != nil {
		return fmt.Errorf("proxy::endpoint: %w", err)
	}
	s.address = listener.Addr().String()
	s.log.Info("the proxy listens", zap.String("endpoint", s.address), zap.String("upstream", base.Redacted()))
	s.work.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("the proxy has stopped", zap.Error(err))
		}
	})
	return nil
}

// passing is the transport of what clients ask: unlike that of the receiver's own
// questions it adds nothing, and passes bodies on as they are.
func (s *service) passing(ctx context.Context) (*http.Transport, error) {
	up := &s.cfg.Upstream
	tls, err := up.TLS.LoadTLSConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("upstream::tls: %w", err)
	}
	t := &http.Transport{
		TLSClientConfig: tls, DisableCompression: true, MaxIdleConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
		DialContext: (&net.Dialer{Timeout: askTimeout, KeepAlive: 30 * time.Second}).DialContext,
	}
	if up.ProxyURL != "" {
		through, err := url.Parse(up.ProxyURL)
		if err != nil {
			return nil, fmt.Errorf("upstream::proxy_url: %w", err)
		}
		t.Proxy = http.ProxyURL(through)
	}
	return t, nil
}

// encodingKey carries a request's Content-Encoding past confighttp, which would
// unpack the body.
type encodingKey struct{}

func hideEncoding(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if encoding, ok := r.Header["Content-Encoding"]; ok {
			r = r.WithContext(context.WithValue(r.Context(), encodingKey{}, encoding))
			r.Header = r.Header.Clone()
			r.Header.Del("Content-Encoding")
		}
		next.ServeHTTP(w, r)
	})
}

// withoutCredentials keeps from the server what was meant for the proxy.
func withoutCredentials(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	})
}

func asItIs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if encoding, ok := r.Context().Value(encodingKey{}).([]string); ok {
			r.Header["Content-Encoding"] = encoding
		}
		next.ServeHTTP(w, r)
	})
}

// shutdown stops the service with the last of its sides: requests under way have
// drain_timeout, and open prompts end as unfinished.
func (s *service) shutdown(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users > 0 {
		return nil
	}
	s.forget()
	if s.cancel == nil {
		return nil
	}
	return s.stop(ctx)
}

func (s *service) stop(ctx context.Context) (err error) {
	if s.server != nil {
		drain, cancel := context.WithTimeout(ctx, s.cfg.DrainTimeout)
		if s.server.Shutdown(drain) != nil {
			err = s.server.Close()
		}
		cancel()
	}
	if s.cancel != nil {
		s.cancel()
	}
	if s.proxy != nil {
		s.proxy.sockets.closeAll()
		s.proxy.work.Wait()
	}
	s.work.Wait()
	if s.tracker != nil {
		s.tracker.Shutdown(s.now())
		close(s.ended)
		s.out.Wait()
		s.store.save(ctx, s.tracker)
	}
	if s.store != nil {
		err = errors.Join(err, s.store.close(ctx))
	}
	if s.upstream != nil {
		s.upstream.client.CloseIdleConnections()
	}
	if s.proxy != nil {
		if t, ok := s.proxy.transport.(interface{ CloseIdleConnections() }); ok {
			t.CloseIdleConnections()
		}
	}
	if s.telemetry != nil {
		s.telemetry.Shutdown()
	}
	s.cancel = nil
	return err
}

// take takes a prompt that has ended; it never waits.
func (s *service) take(p *prompt.Prompt) {
	z := s.spans.sizer.of(&p.Submission)
	s.metrics.prompt(p, &z)
	select {
	case s.ended <- p:
	default:
		s.dropped("traces")
	}
}

// announce takes the beginning of an execution; it never waits.
func (s *service) announce(b prompt.Begun) {
	select {
	case s.begun <- b:
	default:
		s.dropped("logs")
	}
}

// emit hands traces and log records on. What comes next may be slow: prompts wait
// in bounded queues, and the proxy does not.
func (s *service) emit() {
	for {
		select {
		case b := <-s.begun:
			if s.logs.ConsumeLogs(context.Background(), s.spans.started(b, s.now())) != nil {
				s.dropped("logs")
			}
		case p, ok := <-s.ended:
			if !ok {
				return
			}
			s.emitPrompt(p)
		}
	}
}

func (s *service) emitPrompt(p *prompt.Prompt) {
	if s.traces != nil {
		if err := s.traces.ConsumeTraces(context.Background(), s.spans.build(p)); err != nil {
			s.dropped("traces")
			s.log.Debug("a prompt's trace was refused by the next consumer", zap.Error(err))
		}
	}
	if s.logs != nil && failed(p) {
		if err := s.logs.ConsumeLogs(context.Background(), s.spans.record(p, s.now())); err != nil {
			s.dropped("logs")
		}
	}
}

// resource puts the host and the service on a resource. The instance tells several
// ComfyUIs apart: their series would be the same.
func (s *service) resource(r pcommon.Resource) {
	host, err := os.Hostname()
	if err == nil {
		r.Attributes().PutStr("host.name", host)
	}
	r.Attributes().PutStr("service.name", "comfyui")
	server, port := s.upstream.base.Hostname(), s.upstream.base.Port()
	if host != "" && onThisHost(s.upstream.base) {
		server = host
	}
	if port != "" {
		server = net.JoinHostPort(server, port)
	}
	r.Attributes().PutStr("service.instance.id", server)
}

func (s *service) lookNow() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}
