// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // the exporter compresses
	"google.golang.org/grpc/status"
)

// What a gate does instead of passing a request on; other values are a status to return.
const (
	pass    = 0
	silence = -1
	slow    = -2 // pass it on after 4 s
)

// slowness is how long a slow store needs for each response.
const slowness = 4 * time.Second

// poisonName marks batches that the gate refuses with 400 as a store would.
const poisonName = "poisoned"

// gate is a proxy in front of a store that can refuse in its place.
type gate struct {
	url     string
	mode    atomic.Int64
	passed  atomic.Int64 // requests that reached the store
	denied  atomic.Int64 // requests that got a status or silence instead
	busy    atomic.Int64 // requests that wait for a response now
	cut     atomic.Int64 // requests that the client gave up while they waited
	poison  atomic.Int64 // requests that carried a poisoned batch
	largest atomic.Int64 // bytes of the largest request, uncompressed
	kind    atomic.Value // the newest request's content type
	closed  chan struct{}

	address string
	proxy   *httputil.ReverseProxy
	server  *http.Server // nil while connections are refused
}

func newGate(t testing.TB, store string) *gate {
	t.Helper()
	target, err := url.Parse(store)
	require.NoError(t, err)
	g := &gate{closed: make(chan struct{}), proxy: httputil.NewSingleHostReverseProxy(target), address: "127.0.0.1:0"}
	g.proxy.ErrorLog = nil
	g.proxy.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	g.listen(t)
	g.url = "http://" + g.address
	t.Cleanup(func() {
		close(g.closed)
		g.refuse()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	})
	return g
}

// listen accepts connections, again at the same address after refuse.
func (g *gate) listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", g.address)
	require.NoError(t, err)
	g.address = l.Addr().String()
	server := &http.Server{ReadHeaderTimeout: time.Second, Handler: g}
	go func() { _ = server.Serve(l) }()
	g.server = server
}

// refuse closes the port and every connection.
func (g *gate) refuse() {
	if g.server != nil {
		_ = g.server.Close()
		g.server = nil
	}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	g.kind.Store(r.Header.Get("Content-Type"))
	switch mode := g.mode.Load(); mode {
	case pass, slow:
		plain, err := snappy.Decode(nil, body)
		if err == nil && bytes.Contains(plain, []byte(poisonName)) {
			g.poison.Add(1)
			http.Error(w, "this batch is poisoned", http.StatusBadRequest)
			return
		}
		if mode == slow && !g.wait(r.Context(), slowness) {
			return
		}
		if n := int64(len(plain)); n > g.largest.Load() {
			g.largest.Store(n)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		g.proxy.ServeHTTP(w, r)
		g.passed.Add(1)
	case silence:
		g.denied.Add(1)
		g.wait(r.Context(), time.Hour)
	default:
		g.denied.Add(1)
		w.WriteHeader(int(mode))
	}
}

// wait reports whether the time passed before the client or the gate was gone.
func (g *gate) wait(ctx context.Context, d time.Duration) bool {
	g.busy.Add(1)
	defer g.busy.Add(-1)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		g.cut.Add(1)
	case <-g.closed:
	}
	return false
}

// spanStore is a store for spans over OTLP/gRPC that remembers their ids.
type spanStore struct {
	ptraceotlp.UnimplementedGRPCServer
	address string
	mode    atomic.Int64 // as a gate's; a status is Unavailable, what a proxy makes of 503
	denied  atomic.Int64
	largest atomic.Int64 // bytes of the largest request
	closed  chan struct{}
	server  *grpc.Server

	mu   sync.Mutex
	held map[string]int // how often each span arrived; guarded by mu
}

func newSpanStore(t testing.TB) *spanStore {
	t.Helper()
	s := &spanStore{address: "127.0.0.1:0", closed: make(chan struct{}), held: map[string]int{}}
	s.listen(t)
	t.Cleanup(func() {
		close(s.closed)
		s.refuse()
	})
	return s
}

func (s *spanStore) listen(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.address)
	require.NoError(t, err)
	s.address = l.Addr().String()
	server := grpc.NewServer()
	ptraceotlp.RegisterGRPCServer(server, s)
	go func() { _ = server.Serve(l) }()
	s.server = server
}

func (s *spanStore) refuse() {
	if s.server != nil {
		s.server.Stop()
		s.server = nil
	}
}

// Export implements ptraceotlp.GRPCServer.
func (s *spanStore) Export(ctx context.Context, request ptraceotlp.ExportRequest) (ptraceotlp.ExportResponse, error) {
	if raw, err := request.MarshalProto(); err == nil && int64(len(raw)) > s.largest.Load() {
		s.largest.Store(int64(len(raw)))
	}
	wait := time.Duration(0)
	switch s.mode.Load() {
	case pass:
	case slow:
		wait = slowness
	case silence:
		wait = time.Hour
	default:
		s.denied.Add(1)
		return ptraceotlp.NewExportResponse(), status.Error(codes.Unavailable, "the store is away")
	}
	if wait > 0 {
		s.denied.Add(1)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ptraceotlp.NewExportResponse(), ctx.Err()
		case <-s.closed:
			return ptraceotlp.NewExportResponse(), status.Error(codes.Unavailable, "the test is over")
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range request.Traces().ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				s.held[span.SpanID().String()]++
			}
		}
	}
	return ptraceotlp.NewExportResponse(), nil
}
