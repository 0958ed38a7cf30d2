// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
)

// floodingServer is a server that answers with few ids, and sends messages about any of
// them, and unknown ones.
type floodingServer struct {
	t    testing.TB
	mu   sync.Mutex
	all  map[net.Conn]bool
	next atomic.Int64
}

const floodedIDs = 200

func (s *floodingServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := s.next.Add(1)
	switch {
	case r.Header.Get("Upgrade") != "":
		conn := upgrade(s.t, w)
		s.mu.Lock()
		s.all[conn] = true
		s.mu.Unlock()
		_, _ = conn.Write(text(`{"type":"status","data":{"status":{"exec_info":{"queue_remaining":1}}}}`))
		_, _ = io.Copy(io.Discard, conn)
		s.mu.Lock()
		delete(s.all, conn)
		s.mu.Unlock()
		_ = conn.Close()
	case r.Method == http.MethodPost && n%7 == 0:
		http.Error(w, `{"error":{"type":"invalid","message":"no"},"node_errors":{}}`, http.StatusBadRequest)
	case r.Method == http.MethodPost:
		_, _ = io.WriteString(w, fmt.Sprintf(`{"prompt_id":"id%d","number":1,"node_errors":{}}`, n%floodedIDs))
	case r.URL.Path == "/queue":
		_, _ = io.WriteString(w, `{"queue_running":[],"queue_pending":[]}`)
	default:
		w.WriteHeader([]int{http.StatusNotFound, http.StatusTeapot, 599}[n%3])
	}
}

// broadcast sends a message to all sockets.
func (s *floodingServer) broadcast(message string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.all {
		_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = conn.Write(text(message))
	}
}

func (s *floodingServer) flood(ctx context.Context) {
	ticks := time.Tick(5 * time.Millisecond)
	for i := 0; ctx.Err() == nil; i++ {
		<-ticks
		id := fmt.Sprintf("id%d", rand.IntN(2*floodedIDs))
		s.broadcast(fmt.Sprintf(`{"type":"unknown_%d","data":{}}`, i))
		s.broadcast(fmt.Sprintf(`{"type":"execution_start","data":{"prompt_id":%q}}`, id))
		s.broadcast(fmt.Sprintf(`{"type":"executing","data":{"prompt_id":%q,"node":"%d"}}`, id, rand.IntN(50)))
		if i%2 == 0 {
			s.broadcast(fmt.Sprintf(`{"type":"execution_success","data":{"prompt_id":%q}}`, id))
		}
	}
}

// TestSizesOfTheReceiverStayWithinItsBounds drives a receiver with more than its limits of
// everything, in front of a next consumer that refuses most of it.
func TestSizesOfTheReceiverStayWithinItsBounds(t *testing.T) {
	server := &floodingServer{t: t, all: map[net.Conn]bool{}}
	h := httptest.NewServer(server)
	defer h.Close()
	cfg := createDefaultConfig().(*Config)
	cfg.Upstream.Endpoint, cfg.Device, cfg.PollInterval, cfg.OwnSockets = h.URL, "", 100*time.Millisecond, ownPollers
	cfg.Proxy.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.DrainTimeout = 100 * time.Millisecond
	cfg.Storage = &storageID
	l := &cfg.Limits
	l.Prompts, l.Nodes, l.Queue, l.Sockets, l.KeptSockets = 40, 4, 10, 6, 3
	l.Workflows, l.Models, l.NodeClasses, l.TaskClasses = 3, 3, 3, 3
	var exports atomic.Int64
	next, err := consumer.NewTraces(func(context.Context, ptrace.Traces) error {
		if exports.Add(1)%3 > 0 {
			return errors.New("refused")
		}
		return nil
	})
	require.NoError(t, err)
	telemetry := componenttest.NewTelemetry()
	settings := receivertest.NewNopSettings(metadata.Type)
	settings.TelemetrySettings = telemetry.NewTelemetrySettings()
	r := newReceiver(settings, cfg)
	r.traces, r.logs = next, new(consumertest.LogsSink)
	assert.Empty(t, r.Bounds(), "before the start")
	host := hostWith{componenttest.NewNopHost(), map[component.ID]component.Component{storageID: &memoryStorage{data: map[string][]byte{}}}}
	require.NoError(t, r.Start(t.Context(), host))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	const enough = 2000 // prompts
	var work sync.WaitGroup
	work.Go(func() { server.flood(ctx) })
	var posts atomic.Int64
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range 4 {
		work.Go(func() {
			for ctx.Err() == nil {
				n := posts.Add(1)
				if n >= enough {
					cancel()
				}
				body := fmt.Sprintf(`{"client_id": "c%d", "prompt": {"1": {"class_type": "Class%d", "inputs": {"ckpt_name": "m%d"}}}, "extra_data": {"extra_pnginfo": {"workflow": {"id": "w%d"}}}}`, n%20, n, n, n)
				request(ctx, client, http.MethodPost, "http://"+r.address+"/prompt", body)
				request(ctx, client, http.MethodGet, fmt.Sprintf("http://%s/history/id%d", r.address, n%floodedIDs), "")
			}
		})
	}
	for i := range 12 { // twice as many sockets as are read
		work.Go(func() {
			for ctx.Err() == nil {
				holdSocket(ctx, r.address, []string{"", "c1", fmt.Sprint("c", i)}[i%3])
			}
		})
	}
	checks, used, ticks := 0, map[string]bool{}, time.Tick(500*time.Microsecond)
	for ctx.Err() == nil {
		<-ticks
		all := r.Bounds()
		require.NoError(t, growth.Within(all))
		for name := range growth.Used(all) {
			used[name] = true
		}
		checks++
	}
	work.Wait()
	began := time.Now()
	require.NoError(t, r.Shutdown(context.Background()))
	assert.Less(t, time.Since(began), 3*time.Second)
	require.NoError(t, growth.Within(r.Bounds()))
	for _, name := range []string{
		"comfyuireceiver.exporter.traceItems", "comfyuireceiver.handovers.open", "comfyuireceiver.labels.byUse", "comfyuireceiver.optionCache.options",
		"comfyuireceiver.store.free", "prompt.Recent.ring", "prompt.Tracker.inFlightOf", "prompt.Tracker.ofClient", "prompt.Tracker.open",
		"sockets.Hub.clients", "sockets.client.sockets", "logonce.Tracker.states",
	} {
		assert.True(t, used[name], "%s held something", name)
	}
	assert.Greater(t, checks, 100)
	t.Logf("%d prompts, %d checks", posts.Load(), checks)
	assert.GreaterOrEqual(t, posts.Load(), int64(enough))
	beyond := counted(t, telemetry, "beyond_limit")
	assert.Positive(t, beyond["socket"])
	assert.Positive(t, counted(t, telemetry, "prompts.unfollowed")["limit"])
	assert.Positive(t, counted(t, telemetry, "folded")["event"])
	require.NoError(t, telemetry.Shutdown(context.Background()))
	assert.False(t, comfyevents.OfProcess().Handovers.HasSubscribers(), "no subscription is left")
}

func request(ctx context.Context, client *http.Client, method, url, body string) {
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return
	}
	if response, err := client.Do(request); err == nil {
		_, _ = io.Copy(io.Discard, response.Body)
		_ = response.Body.Close()
	}
}

// holdSocket opens a socket of a client, reads from it for a moment, and leaves.
func holdSocket(ctx context.Context, address, id string) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Duration(20+rand.IntN(100)) * time.Millisecond))
	_, _ = fmt.Fprintf(conn, "GET /ws?clientId=%s HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", id)
	_, _ = io.Copy(io.Discard, conn)
}

// A socket beyond the limit is relayed in both directions, and does not delay shutdown.
func TestASocketBeyondTheLimitIsRelayedUnread(t *testing.T) {
	s := newRawServer(t)
	r := newRig(t, s.URL, func(c *Config) { c.Limits.Sockets = 1 })
	_, _ = rawClient(t, r, "clientId=a")
	<-s.conns
	conn, from := rawClient(t, r, "clientId=b")
	server := <-s.conns
	message := strings.Repeat("x", 100)
	_, err := conn.Write([]byte(message))
	require.NoError(t, err)
	got := make([]byte, len(message))
	_, err = io.ReadFull(server, got)
	require.NoError(t, err)
	assert.Equal(t, message, string(got))
	_, err = server.Write(text(`{"type":"unknown_one","data":{}}`))
	require.NoError(t, err)
	_, err = io.ReadFull(from, got[:10])
	require.NoError(t, err)
	withClient, _ := r.hub.Counts()
	assert.Equal(t, 1, withClient)
	assert.Equal(t, map[string]int64{"socket": 1}, counted(t, r.telemetry, "beyond_limit"))
	assert.Empty(t, counted(t, r.telemetry, "events.unknown"), "it is not read")
	began := time.Now()
	r.stopNow()
	assert.Less(t, time.Since(began), 4*time.Second)
}

func TestAReceiverThatHasShutDownIsForgotten(t *testing.T) {
	f := &factory{}
	cfg := createDefaultConfig().(*Config)
	cfg.Proxy.NetAddr.Endpoint, cfg.Device = "127.0.0.1:0", ""
	settings := receivertest.NewNopSettings(metadata.Type)
	first := f.of(settings, cfg)
	assert.Same(t, first, f.of(settings, cfg))
	require.NoError(t, first.Start(t.Context(), componenttest.NewNopHost()))
	require.NoError(t, first.Shutdown(t.Context()))
	assert.NotSame(t, first, f.of(settings, cfg))
}
