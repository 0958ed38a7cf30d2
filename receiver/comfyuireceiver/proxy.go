// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"github.com/felixge/httpsnoop"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
)

// proxy relays requests between clients and one server. Bodies and frames pass
// unchanged: what the proxy reads, it reads from copies.
type proxy struct {
	*follower
	*admitter
	ctx       context.Context // ends with the receiver
	transport http.RoundTripper
	hub       *sockets.Hub
	maxPrompt int // bytes of a body that is read
	bodies    budget
	parsing   sync.Mutex // held while a large body is parsed, so that only one is at a time
	// authenticates is true if clients send credentials for the proxy, which are removed.
	authenticates bool

	relay   httputil.ReverseProxy
	serving serving
}

// serving counts the requests that are being served, until it is closed. The zero value is
// ready for use.
type serving struct {
	mu     sync.Mutex
	count  int           // guarded by mu
	closed chan struct{} // set by close; closed when count is 0; guarded by mu
}

// begin reports whether a request may be served; then end must be called.
func (s *serving) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed != nil {
		return false
	}
	s.count++
	return true
}

func (s *serving) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count--; s.count == 0 && s.closed != nil {
		close(s.closed)
	}
}

// close refuses further requests and waits for those that are being served.
func (s *serving) close() {
	s.mu.Lock()
	s.closed = make(chan struct{})
	if s.count == 0 {
		close(s.closed)
	}
	s.mu.Unlock()
	<-s.closed
}

// newProxy completes a proxy whose other fields are set.
func newProxy(p *proxy) *proxy {
	p.relay = httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     p.transport,
		FlushInterval: -1, // streams pass without delay
		BufferPool:    copyBuffers{},
		ErrorHandler:  p.badGateway,
		ErrorLog:      zap.NewStdLog(p.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	return p
}

// copyBuffers implements [httputil.BufferPool]: without one, each response takes a buffer of
// its own.
type copyBuffers struct{}

var copyBufferPool = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// Get implements [httputil.BufferPool].
func (copyBuffers) Get() []byte { return *copyBufferPool.Get().(*[]byte) }

// Put implements [httputil.BufferPool].
func (copyBuffers) Put(b []byte) { copyBufferPool.Put(&b) }

// rewrite directs a request to the server as the client meant it. Host remains, since the
// server compares it with Origin.
func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(p.server.base)
	r.Out.Host, r.Out.URL.RawQuery = r.In.Host, r.In.URL.RawQuery // invalid parts of the query, too
	if p.authenticates {
		r.Out.Header.Del("Authorization")
	}
	// The proxy's own server has asked the client to continue.
	r.Out.Header.Del("Expect")
	r.Out.Header["X-Forwarded-For"] = r.In.Header["X-Forwarded-For"]
	r.SetXForwarded()
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		appended := name == "X-Forwarded-For" && r.Out.Header[name] != nil // else the client has no IP address
		if given := r.In.Header[name]; len(given) > 0 && !appended {
			r.Out.Header[name] = given
		}
	}
}

// ServeHTTP relays a request.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.serving.begin() {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	defer p.serving.end()
	if isUpgrade(r) {
		p.serveSocket(w, r)
		return
	}
	if r.Body != nil {
		r.Body = &countingBody{r.Body, p.instruments}
	}
	m := httpsnoop.CaptureMetricsFn(w, func(w http.ResponseWriter) { p.serve(w, r) })
	p.RequestServed(route(r.URL.Path), r.Method, m.Code, m.Duration)
	p.Bytes(sockets.FromServer, "http", int(m.Written))
}

// serve relays a request that is not a WebSocket's. Some say something about prompts.
func (p *proxy) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/api")
	folder, id, hasID := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch {
	case r.Method == http.MethodPost && path == "/prompt":
		p.servePrompt(w, r)
	case r.Method == http.MethodPost && path == "/upload/image" && p.inputs != nil:
		p.serveUpload(w, r)
	case r.Method == http.MethodPost && (path == "/queue" || path == "/jobs/cancel"):
		p.serveRemoval(w, r)
	case r.Method == http.MethodPost && path == "/free":
		p.serveFree(w, r)
	case r.Method == http.MethodPost && path == "/history":
		p.serveForgetting(w, r)
	case r.Method == http.MethodPost && folder == "jobs" && strings.HasSuffix(id, "/cancel"):
		p.relayRemoval(w, r, protocol.Removal{Delete: []string{unescaped(strings.TrimSuffix(id, "/cancel"))}})
	case r.Method == http.MethodGet && hasID && (folder == "history" || folder == "jobs"):
		p.ownSocket.polled(p.tracker.ClientOf(unescaped(id)))
		p.relay.ServeHTTP(w, r)
	default:
		p.relay.ServeHTTP(w, r)
	}
}

// unescaped is a part of a path; the path of a request is unescaped once already.
func unescaped(id string) string {
	if plain, err := url.PathUnescape(id); err == nil {
		return plain
	}
	return id
}

// isUpgrade reports whether a request opens a WebSocket (RFC 6455, section 4.1). Others
// that ask for an upgrade are relayed as requests.
func isUpgrade(r *http.Request) bool {
	return r.Method == http.MethodGet && r.ContentLength == 0 && len(r.TransferEncoding) == 0 && r.Header.Get("Sec-Websocket-Key") != "" &&
		strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// hopByHop are headers that concern the client's connection with the proxy (RFC 9110,
// section 7.6.1, and older ones).
var hopByHop = []string{"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Connection", "Keep-Alive", "Te", "Trailer"}

// serveSocket relays a WebSocket.
func (p *proxy) serveSocket(w http.ResponseWriter, r *http.Request) {
	p.ownSocket.opened(r.URL.Query().Get("clientId"))
	out := r.Clone(r.Context())
	p.rewrite(&httputil.ProxyRequest{In: r, Out: out})
	out.RequestURI = ""
	for _, name := range hopByHop {
		out.Header.Del(name)
	}
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, r.Header["Upgrade"]
	switch err := p.hub.Serve(w, r, out); {
	case errors.Is(err, sockets.ErrFull):
		p.beyondLimit("socket", 1)
		p.relaySocket(w, r)
	case err != nil:
		p.badGateway(w, r, err)
	}
}

// relaySocket relays a WebSocket without reading it.
func (p *proxy) relaySocket(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	p.relay.ServeHTTP(w, r.WithContext(ctx))
}

// serveRemoval relays a request that removes prompts from the queue.
func (p *proxy) serveRemoval(w http.ResponseWriter, r *http.Request) {
	body, err := holdBody(r, p.maxPrompt, &p.bodies)
	defer body.release()
	if err != nil {
		badRequest(w)
		return
	}
	var removal protocol.Removal
	if body.whole {
		removal = protocol.ParseRemoval(bytes.NewReader(body.bytes))
	}
	p.relayRemoval(w, r, removal)
}

// relayRemoval relays a request that removes prompts from the queue. What it asks for is
// recorded before, and taken back if the server refuses it.
func (p *proxy) relayRemoval(w http.ResponseWriter, r *http.Request, removal protocol.Removal) {
	removed := p.tracker.Remove(removal)
	relay := p.relay
	relay.ModifyResponse = func(response *http.Response) error {
		if response.StatusCode < 300 {
			p.QueueChanged()
		} else {
			p.tracker.Retain(removed)
		}
		return nil
	}
	relay.ServeHTTP(w, r)
}

// serveFree relays a request to free memory: the server unloads its models, once no prompt runs.
func (p *proxy) serveFree(w http.ResponseWriter, r *http.Request) {
	relay := p.relay
	relay.ModifyResponse = func(response *http.Response) error {
		if response.StatusCode < 300 {
			p.loading.unloaded(p.now())
		}
		return nil
	}
	relay.ServeHTTP(w, r)
}

// serveForgetting relays a request that deletes entries of the history. Those of open
// prompts are read before.
func (p *proxy) serveForgetting(w http.ResponseWriter, r *http.Request) {
	body, err := holdBody(r, p.maxPrompt, &p.bodies)
	defer body.release()
	if err != nil {
		badRequest(w)
		return
	}
	if body.whole {
		p.beforeForgetting(r.Context(), protocol.ParseRemoval(bytes.NewReader(body.bytes)))
	}
	p.relay.ServeHTTP(w, r)
}

// badRequest answers a request whose body cannot be read: the client has left, or does not
// keep to HTTP.
func badRequest(w http.ResponseWriter) {
	http.Error(w, "the request's body cannot be read", http.StatusBadRequest)
}

// unreachableAnswer stands for the answer of a server that cannot be reached, in ComfyUI's
// format: its web page shows it to the user.
//
//go:embed unreachable.json
var unreachableAnswer []byte

// statusClientClosed is the status of a request whose client left before the answer. No
// client sees it.
const statusClientClosed = 499

// badGateway answers with 502 in place of a server that cannot be reached.
func (p *proxy) badGateway(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil || errors.Is(err, context.Canceled) || errors.Is(err, errBody) {
		w.WriteHeader(statusClientClosed)
		return
	}
	p.log.Debug("ComfyUI is unreachable", zap.String("route", route(r.URL.Path)), zap.Error(err))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = w.Write(unreachableAnswer)
}

// errBody is the error of a client that leaves before the end of its request's body.
var errBody = errors.New("the client has left")

// countingBody counts a request's bytes.
type countingBody struct {
	io.ReadCloser
	*instruments
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.Bytes(sockets.FromClient, "http", n)
	if err != nil && !errors.Is(err, io.EOF) {
		err = errors.Join(errBody, err)
	}
	return n, err
}
