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
	"time"

	"github.com/felixge/httpsnoop"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
)

// observer is informed of what passes the proxy. Its methods are called on the path of
// requests, and must not block.
type observer interface {
	sockets.Observer
	// RequestServed is called after each request but upgrades.
	RequestServed(route, method string, status int, d time.Duration)
	// PromptAccepted is called before the tracker follows a prompt.
	PromptAccepted(p *prompt.Prompt)
	// PromptUnfollowed is called for a prompt that cannot be read.
	PromptUnfollowed()
	// QueueChanged is called after a client has removed prompts from the queue.
	QueueChanged()
}

// proxy relays requests between clients and one server. Bodies and frames pass
// unchanged: what the proxy reads, it reads from copies.
type proxy struct {
	ctx       context.Context // ends with the receiver
	upstream  *url.URL
	transport http.RoundTripper
	tracker   *prompt.Tracker
	hub       *sockets.Hub
	observer  observer
	maxPrompt int // bytes of a body that is read
	log       *zap.Logger
	now       func() time.Time

	relay httputil.ReverseProxy
}

// newProxy completes a proxy whose other fields are set.
func newProxy(p *proxy) *proxy {
	p.relay = httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     p.transport,
		FlushInterval: -1, // streams pass without delay
		ErrorHandler:  p.unreachable,
		ErrorLog:      zap.NewStdLog(p.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	return p
}

// rewrite directs a request to the server as the client meant it.
func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		r.Out.Header[name] = r.In.Header[name]
	}
	r.Out.URL.RawQuery = r.In.URL.RawQuery // invalid parts too
	p.direct(r.Out)
}

// direct sets the address of a request. Host remains, since the server compares it with
// Origin.
func (p *proxy) direct(out *http.Request) {
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

// ServeHTTP relays a request.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isUpgrade(r) {
		p.serveSocket(w, r)
		return
	}
	if r.Body != nil {
		r.Body = &countingBody{ReadCloser: r.Body, observer: p.observer}
	}
	serve := p.relay.ServeHTTP
	switch path := strings.TrimPrefix(r.URL.Path, "/api"); {
	case r.Method == http.MethodPost && path == "/prompt":
		serve = p.servePrompt
	case r.Method == http.MethodPost && path == "/queue":
		serve = p.serveRemoval
	}
	m := httpsnoop.CaptureMetricsFn(w, func(w http.ResponseWriter) { serve(w, r) })
	p.observer.RequestServed(route(r.URL.Path), r.Method, m.Code, m.Duration)
	p.observer.Bytes(sockets.FromServer, "http", int(m.Written))
}

// routes are the values of http.route; paths of custom nodes are other.
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
	return sizing.Other
}

func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// serveSocket relays a WebSocket.
func (p *proxy) serveSocket(w http.ResponseWriter, r *http.Request) {
	// the connection outlives the request
	out := r.Clone(context.WithoutCancel(r.Context()))
	p.direct(out)
	out.RequestURI = ""
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, r.Header["Upgrade"]
	if err := p.hub.Serve(w, r, out); err != nil {
		p.unreachable(w, r, err)
	}
}

// serveRemoval relays a request that removes prompts from the queue.
func (p *proxy) serveRemoval(w http.ResponseWriter, r *http.Request) {
	body, whole, err := p.readBody(r)
	if err != nil {
		http.Error(w, "the request's body cannot be read", http.StatusBadRequest)
		return
	}
	if whole {
		p.tracker.Remove(protocol.ParseRemoval(body))
	}
	p.relay.ServeHTTP(w, r)
	p.observer.QueueChanged()
}

// readBody reads a body up to the limit and puts it back; whole is false if it exceeds
// the limit.
func (p *proxy) readBody(r *http.Request) (body []byte, whole bool, err error) {
	limit := int64(p.maxPrompt)
	body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, false, err
	}
	r.Body = restored{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	return body, int64(len(body)) <= limit, nil
}

// restored is a body of which a part has been read and put back.
type restored struct {
	io.Reader
	io.Closer
}

// The error of a server that cannot be reached, in ComfyUI's format: its web page shows
// it to the user.
const (
	unreachableType    = "upstream_unreachable"
	unreachableMessage = "ComfyUI does not answer"
)

// unreachable answers with 502 in place of a server that cannot be reached.
func (p *proxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) { // the client has left
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	p.log.Debug("ComfyUI is unreachable", zap.String("route", route(r.URL.Path)), zap.Error(err))
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

// withoutCredentials removes what was meant for the proxy's authenticator.
func withoutCredentials(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	})
}

// countingBody counts a request's bytes.
type countingBody struct {
	io.ReadCloser
	observer observer
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.observer.Bytes(sockets.FromClient, "http", n)
	return n, err
}
