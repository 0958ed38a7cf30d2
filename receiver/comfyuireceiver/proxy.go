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
	"slices"
	"strings"

	"github.com/felixge/httpsnoop"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
)

// proxy relays requests between clients and one server. Bodies and frames pass
// unchanged: what the proxy reads, it reads from copies.
type proxy struct {
	*follower
	ctx       context.Context // ends with the receiver
	transport http.RoundTripper
	hub       *sockets.Hub
	maxPrompt int // bytes of a body that is read
	// authenticates is true if clients send credentials for the proxy, which are removed.
	authenticates bool

	relay httputil.ReverseProxy
}

// newProxy completes a proxy whose other fields are set.
func newProxy(p *proxy) *proxy {
	p.relay = httputil.ReverseProxy{
		Rewrite:       p.rewrite,
		Transport:     p.transport,
		FlushInterval: -1, // streams pass without delay
		ErrorHandler:  p.badGateway,
		ErrorLog:      zap.NewStdLog(p.log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel))),
	}
	return p
}

// rewrite directs a request to the server as the client meant it. Host remains, since the
// server compares it with Origin.
func (p *proxy) rewrite(r *httputil.ProxyRequest) {
	r.SetURL(p.server.base)
	r.Out.Host, r.Out.URL.RawQuery = r.In.Host, r.In.URL.RawQuery // invalid parts of the query, too
	if p.authenticates {
		r.Out.Header.Del("Authorization")
	}
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
	if isUpgrade(r) {
		p.serveSocket(w, r)
		return
	}
	if r.Body != nil {
		r.Body = &countingBody{r.Body, p.instruments}
	}
	serve := p.relay.ServeHTTP
	switch path := strings.TrimPrefix(r.URL.Path, "/api"); {
	case r.Method == http.MethodPost && path == "/prompt":
		serve = p.servePrompt
	case r.Method == http.MethodPost && path == "/queue":
		serve = p.serveRemoval
	}
	m := httpsnoop.CaptureMetricsFn(w, func(w http.ResponseWriter) { serve(w, r) })
	p.RequestServed(route(r.URL.Path), r.Method, m.Code, m.Duration)
	p.Bytes(sockets.FromServer, "http", int(m.Written))
}

// routes are the values of http.route; paths of custom nodes are other.
var routes = []string{
	"/prompt", "/queue", "/history", "/view", "/upload", "/interrupt", "/free", "/system_stats", "/object_info", "/",
	"/features", "/ws", "/userdata", "/settings", "/models",
}

func route(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(path, "/api"), "/"), "/")
	if slices.Contains(routes, "/"+first) {
		return "/" + first
	}
	return other
}

func isUpgrade(r *http.Request) bool {
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket") && strings.Contains(strings.ToLower(r.Header.Get("Connection")), "upgrade")
}

// serveSocket relays a WebSocket.
func (p *proxy) serveSocket(w http.ResponseWriter, r *http.Request) {
	// the connection outlives the request
	out := r.Clone(context.WithoutCancel(r.Context()))
	p.rewrite(&httputil.ProxyRequest{In: r, Out: out})
	out.RequestURI = ""
	out.Header["Connection"], out.Header["Upgrade"] = []string{"Upgrade"}, r.Header["Upgrade"]
	if err := p.hub.Serve(w, r, out); err != nil {
		p.badGateway(w, r, err)
	}
}

// serveRemoval relays a request that removes prompts from the queue.
func (p *proxy) serveRemoval(w http.ResponseWriter, r *http.Request) {
	body, whole, err := p.readBody(w, r)
	if err != nil {
		return
	}
	if whole {
		p.tracker.Remove(protocol.ParseRemoval(body))
	}
	p.relay.ServeHTTP(w, r)
	p.QueueChanged()
}

// readBody reads a body up to the limit and puts it back; whole is false if it exceeds
// the limit. A body that cannot be read is answered here.
func (p *proxy) readBody(w http.ResponseWriter, r *http.Request) (body []byte, whole bool, err error) {
	limit := int64(p.maxPrompt)
	body, err = io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		http.Error(w, "the request's body cannot be read", http.StatusBadRequest)
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

// unreachableAnswer stands for the answer of a server that cannot be reached, in ComfyUI's
// format: its web page shows it to the user.
//
//go:embed unreachable.json
var unreachableAnswer []byte

// badGateway answers with 502 in place of a server that cannot be reached.
func (p *proxy) badGateway(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, context.Canceled) { // the client has left
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	p.log.Debug("ComfyUI is unreachable", zap.String("route", route(r.URL.Path)), zap.Error(err))
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = w.Write(unreachableAnswer)
}

// countingBody counts a request's bytes.
type countingBody struct {
	io.ReadCloser
	*instruments
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.Bytes(sockets.FromClient, "http", n)
	return n, err
}
