// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/frames"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// proxy stands between the clients and one server. Bodies and frames pass
// unchanged; what it reads on the way it reads from copies.
type proxy struct {
	ctx       context.Context // ends with the receiver
	upstream  *url.URL
	transport http.RoundTripper
	asking    *http.Client // for what the proxy asks by itself
	tracker   *prompt.Tracker
	limits    LimitsConfig
	sockets   *sockets
	// ownSockets are opened for prompts whose client has none here.
	ownSockets bool
	log        *zap.Logger
	now        func() time.Time

	unparsed   func() // a text frame that cannot be read
	unfollowed func() // a prompt that cannot be read
	removed    func() // prompts were taken out of the queue
	accepted   func(*protocol.Submission)
	observe    observations

	work sync.WaitGroup
	http *httputil.ReverseProxy
}

// observations is what the proxy tells of itself.
type observations interface {
	request(route, method string, status int, d time.Duration)
	addBytes(d direction, kind string, n int)
}

// direction is where bytes go.
type direction string

const (
	up   direction = "up"
	down direction = "down"
)

func (p *proxy) addBytes(d direction, kind string, n int) { p.observe.addBytes(d, kind, n) }

func binaryOrText(h *frames.Header) string {
	switch {
	case h.Control():
		return "control"
	case h.Opcode == 2:
		return "binary"
	}
	return "text"
}

// newProxy makes the handler; tracker and the functions must be set.
func newProxy(p *proxy) *proxy {
	p.http = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { p.rewrite(r.In, r.Out) },
		Transport:      p.transport,
		FlushInterval:  -1, // streams pass as they come
		ModifyResponse: p.answered,
		ErrorHandler:   p.unreachable,
		ErrorLog:       zap.NewStdLog(p.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	return p
}

// rewrite sends a request to the server as the client meant it: the server
// compares Host with Origin, so Host stays.
func (p *proxy) rewrite(in, out *http.Request) {
	out.Header["X-Forwarded-For"] = in.Header["X-Forwarded-For"]
	out.Header["X-Forwarded-Host"] = in.Header["X-Forwarded-Host"]
	out.Header["X-Forwarded-Proto"] = in.Header["X-Forwarded-Proto"]
	out.URL.RawQuery = in.URL.RawQuery // as it is, odd parts too
	p.forward(out)
	if s, ok := in.Context().Value(submissionKey{}).(*prompt.Prompt); ok {
		ctx := trace.ContextWithRemoteSpanContext(context.Background(), s.Context)
		propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(out.Header))
	}
}

// forward turns a request to the server.
func (p *proxy) forward(out *http.Request) {
	host := out.Host
	out.URL.Scheme, out.URL.Host = p.upstream.Scheme, p.upstream.Host
	if base := strings.TrimSuffix(p.upstream.Path, "/"); base != "" {
		out.URL.Path = base + out.URL.Path
		if out.URL.RawPath != "" {
			out.URL.RawPath = base + out.URL.RawPath
		}
	}
	out.Host = host
	if address, _, err := net.SplitHostPort(out.RemoteAddr); err == nil {
		if before := strings.Join(out.Header["X-Forwarded-For"], ", "); before != "" {
			address = before + ", " + address
		}
		out.Header.Set("X-Forwarded-For", address)
	}
	if len(out.Header["X-Forwarded-Host"]) == 0 {
		out.Header.Set("X-Forwarded-Host", host)
	}
	if len(out.Header["X-Forwarded-Proto"]) == 0 {
		proto := "http"
		if out.TLS != nil {
			proto = "https"
		}
		out.Header.Set("X-Forwarded-Proto", proto)
	}
}

// ServeHTTP passes a request on.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isUpgrade(r) {
		p.serveSocket(w, r)
		return
	}
	begin := p.now()
	counted := &countingWriter{ResponseWriter: w}
	if r.Body != nil {
		r.Body = &countingBody{ReadCloser: r.Body, proxy: p}
	}
	switch path := strings.TrimPrefix(r.URL.Path, "/api"); {
	case r.Method == http.MethodPost && path == "/prompt":
		p.servePrompt(counted, r)
	case r.Method == http.MethodPost && path == "/queue":
		p.serveRemoval(counted, r)
	default:
		p.http.ServeHTTP(counted, r)
	}
	p.observe.request(route(r.URL.Path), r.Method, counted.status, p.now().Sub(begin))
	p.addBytes(down, "http", counted.n)
}

// routes are the paths that are told apart in metrics; custom nodes add others.
var routes = map[string]bool{
	"/prompt": true, "/queue": true, "/history": true, "/view": true, "/upload": true, "/interrupt": true, "/free": true,
	"/system_stats": true, "/object_info": true, "/": true, "/features": true, "/ws": true, "/userdata": true, "/settings": true, "/models": true,
}

func route(path string) string {
	path = strings.TrimPrefix(path, "/api")
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if routes["/"+first] {
		return "/" + first
	}
	return other
}

func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

type submissionKey struct{}

// servePrompt passes a prompt on and begins to follow it.
func (p *proxy) servePrompt(w http.ResponseWriter, r *http.Request) {
	body, whole, err := p.readBody(r)
	if err != nil {
		http.Error(w, "the request's body cannot be read", http.StatusBadRequest)
		return
	}
	var s protocol.Submission
	parsed := whole && r.Header.Get("Content-Encoding") == ""
	if parsed {
		s, err = protocol.ParseSubmission(body)
	}
	if !parsed || err != nil && len(body) == 0 {
		p.unfollowed()
		p.http.ServeHTTP(w, r)
		return
	}
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	followed := p.tracker.Submit(p.now(), s, r.URL.Path, client, parentOf(r.Header, s.Traceparent))
	answered := p.listenFor(s.ClientID)
	defer answered()
	// A client that leaves does not take its prompt along: the server has it.
	ctx, cancel := p.outlive(context.WithValue(r.Context(), submissionKey{}, followed))
	defer cancel()
	p.http.ServeHTTP(w, r.WithContext(ctx))
}

// outlive is a context that ends with the receiver and not with the client.
func (p *proxy) outlive(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(p.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// parentOf is the caller's span: from the header, else from extra_data.
func parentOf(header http.Header, traceparent string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.HeaderCarrier(header))
	if parent := trace.SpanContextFromContext(ctx); parent.IsValid() {
		return parent
	}
	ctx = propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent})
	return trace.SpanContextFromContext(ctx)
}

// readBody reads a body up to the limit and puts it back; whole tells whether
// that was all of it.
func (p *proxy) readBody(r *http.Request) (body []byte, whole bool, err error) {
	limit := int64(p.limits.PromptBytes)
	body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, false, err
	}
	whole = int64(len(body)) <= limit
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	return body, whole, nil
}

// serveRemoval passes a request on that takes prompts out of the queue.
func (p *proxy) serveRemoval(w http.ResponseWriter, r *http.Request) {
	body, whole, err := p.readBody(r)
	if err != nil {
		http.Error(w, "the request's body cannot be read", http.StatusBadRequest)
		return
	}
	if whole {
		p.tracker.Remove(protocol.ParseRemoval(body))
	}
	p.http.ServeHTTP(w, r)
	p.removed()
}

// longestPromptAnswer bounds the answer to a prompt that is read, in bytes.
const longestPromptAnswer = 4 << 20

// answered reads the answer to a prompt and puts it back.
func (p *proxy) answered(response *http.Response) error {
	followed, ok := response.Request.Context().Value(submissionKey{}).(*prompt.Prompt)
	if !ok {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, longestPromptAnswer))
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), &afterError{response.Body, err}), response.Body}
	var a protocol.Answer
	if response.Header.Get("Content-Encoding") == "" {
		a = protocol.ParseAnswer(body)
	}
	if response.StatusCode < 300 {
		p.accepted(&followed.Submission)
	}
	p.tracker.Answer(followed, p.now(), response.StatusCode, a)
	return nil
}

// afterError gives the error of a first reading, or reads on.
type afterError struct {
	io.Reader
	err error
}

func (a *afterError) Read(b []byte) (int, error) {
	if a.err != nil {
		return 0, a.err
	}
	return a.Reader.Read(b)
}

// unreachable answers for a server that does not: with 502, in ComfyUI's own
// form, which its web page shows to the user.
func (p *proxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if followed, ok := r.Context().Value(submissionKey{}).(*prompt.Prompt); ok {
		p.tracker.Answer(followed, p.now(), http.StatusBadGateway, protocol.Answer{ErrorType: unreachableType, ErrorMessage: unreachableMessage})
	}
	if errors.Is(err, context.Canceled) {
		w.WriteHeader(http.StatusBadGateway) // the client has left
		return
	}
	p.log.Debug("ComfyUI cannot be reached", zap.String("path", route(r.URL.Path)), zap.Error(err))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadGateway)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"error": map[string]any{
			"type": unreachableType, "message": unreachableMessage,
			"details": "The proxy cannot reach ComfyUI; it may be starting.", "extra_info": map[string]any{},
		},
		"node_errors": map[string]any{},
	})
}

const (
	unreachableType    = "upstream_unreachable"
	unreachableMessage = "ComfyUI does not answer"
)

// text reads one text frame.
func (p *proxy) text(text []byte) {
	m, ok := protocol.ParseMessage(text)
	if !ok {
		if !json.Valid(text) {
			p.unparsed()
		}
		return
	}
	p.tracker.Message(p.now(), &m)
}

func copyHeader(to, from http.Header) {
	for name, values := range from {
		to[name] = append(to[name], values...)
	}
}

// countingWriter notes status and size of an answer.
type countingWriter struct {
	http.ResponseWriter
	status, n int
}

func (w *countingWriter) WriteHeader(status int) {
	if status >= 200 && w.status == 0 { // not of 1xx
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *countingWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.n += n
	return n, err
}

// Unwrap lets http.ResponseController flush.
func (w *countingWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// countingBody counts a request's bytes.
type countingBody struct {
	io.ReadCloser
	proxy *proxy
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.proxy.addBytes(up, "http", n)
	return n, err
}
