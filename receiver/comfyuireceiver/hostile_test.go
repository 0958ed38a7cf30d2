// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// upgrade answers a WebSocket's upgrade, and returns the connection.
func upgrade(t testing.TB, w http.ResponseWriter) net.Conn {
	t.Helper()
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\nSec-Websocket-Accept: x\r\n\r\n")
	return conn
}

// B2: with --enable-compress-response-body the server compresses for whoever offers it.
func TestACompressedAnswerIsNotARejection(t *testing.T) {
	s := newTap(t, func(w http.ResponseWriter, r *http.Request) {
		answer := []byte(`{"prompt_id": "p", "number": 1, "node_errors": {}}`)
		if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			_, _ = z.Write(answer)
			_ = z.Close()
			return
		}
		_, _ = w.Write(answer)
	})
	r := newRig(t, s.URL, nil)
	assert.Equal(t, http.StatusOK, send(t, r.base, smallPrompt)) // Go's client offers gzip
	assert.Equal(t, 1, r.following.tracker.OpenCount())
	r.stopNow()
	assert.Equal(t, "unfinished", spansOf(t, r.byPrompt()[0])[0].Attributes["comfyui.prompt.outcome"])
}

// B6: the cancel routes of jobs end a prompt as POST /queue does.
func TestCancelledJobsEnd(t *testing.T) {
	for name, cancel := range map[string]struct{ path, body string }{
		"one":  {"/api/jobs/p0/cancel", ""},
		"many": {"/api/jobs/cancel", `{"job_ids": ["p0"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newAcceptingServer(t)
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/cancel") {
					s.mu.Lock()
					s.queue = nil
					s.mu.Unlock()
					_, _ = io.WriteString(w, `{"cancelled": true}`)
					return
				}
				s.serve(w, r)
			}))
			defer h.Close()
			r := newRig(t, h.URL, nil)
			send(t, r.base, smallPrompt)
			r.following.tracker.Suspect() // without the request it would be lost
			response, err := http.Post(r.base+cancel.path, "application/json", strings.NewReader(cancel.body))
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			waitFor(t, func() bool { return len(r.traces.AllTraces()) == 1 })
			assert.Equal(t, "cancelled", spansOf(t, r.traces.AllTraces()[0])[0].Attributes["comfyui.prompt.outcome"])
		})
	}
}

// B7: a client that polls the history and deletes its entry at once.
func TestAPromptWhoseHistoryIsDeletedAtOnceHasSucceeded(t *testing.T) {
	s := newAcceptingServer(t)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/history" {
			s.mu.Lock()
			clear(s.history)
			s.mu.Unlock()
			return
		}
		s.serve(w, r)
	}))
	defer h.Close()
	for _, body := range []string{`{"delete": ["p0"]}`, `{"clear": true}`} {
		s.ids = nil
		r := newRig(t, h.URL, func(c *Config) { c.PollInterval = time.Hour })
		send(t, r.base, `{"prompt": {"1": {"class_type": "A", "inputs": {}}}}`)
		s.runAll()
		response, err := http.Post(r.base+"/history", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		waitFor(t, func() bool { return len(r.traces.AllTraces()) == 1 })
		assert.Equal(t, "success", spansOf(t, r.traces.AllTraces()[0])[0].Attributes["comfyui.prompt.outcome"], body)
		r.stopNow()
	}
}

// S3: prompts whose history cannot be read stop no other, and are given up.
func TestPromptsThatCannotBeReadStopNoOther(t *testing.T) {
	for name, entry := range map[string]string{
		"NaN":    `{%q: {"prompt": [0, "x", {"1": {"inputs": {"x": NaN}}}, {}], "status": {"status_str": "success", "messages": [["execution_success", {"timestamp": 1795489984750}]]}}}`,
		"broken": `{%q: {"prompt": [`,
	} {
		t.Run(name, func(t *testing.T) {
			s := newAcceptingServer(t)
			h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if id, ok := strings.CutPrefix(r.URL.Path, "/history/bad"); ok {
					_, _ = fmt.Fprintf(w, entry, "bad"+id)
					return
				}
				s.serve(w, r)
			}))
			defer h.Close()
			r := newRig(t, h.URL, nil)
			for i := range 200 {
				send(t, r.base, fmt.Sprintf(`{"prompt_id": "bad%d", "prompt": {"1": {"class_type": "A", "inputs": {"x": NaN}}}}`, i))
			}
			for i := range 100 {
				send(t, r.base, fmt.Sprintf(`{"prompt_id": "good%d", "prompt": {"1": {"class_type": "A", "inputs": {}}}}`, i))
			}
			s.runAll()
			waitFor(t, func() bool { return len(r.traces.AllTraces()) == 300 })
			outcomes := map[string]int{}
			for _, td := range r.traces.AllTraces() {
				root := spansOf(t, td)[0].Attributes
				outcomes[strings.TrimRight(root["comfyui.prompt.id"].(string), "0123456789")+" "+root["comfyui.prompt.outcome"].(string)]++
			}
			want := map[string]int{"good success": 100, "bad success": 200}
			if name == "broken" {
				want = map[string]int{"good success": 100, "bad lost": 200}
			}
			assert.Equal(t, want, outcomes)
		})
	}
}

// S4: bodies that are being read are bound together, and those beyond are relayed unread.
func TestBodiesThatNeverEndAreBound(t *testing.T) {
	reached := make(chan int64, 100)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		reached <- n
		w.WriteHeader(http.StatusNotFound)
	}))
	defer server.Close()
	r := newRig(t, server.URL, func(c *Config) { c.Limits.BodyBytes = 8 << 20 })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var writers []*io.PipeWriter
	var clients sync.WaitGroup
	transport := &http.Transport{}
	for range 30 {
		body, w := io.Pipe()
		writers = append(writers, w)
		clients.Go(func() {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+"/prompt", body)
			assert.NoError(t, err)
			request.ContentLength = 31 << 20
			if response, err := (&http.Client{Transport: transport}).Do(request); err == nil {
				_ = response.Body.Close()
			}
		})
	}
	chunk := make([]byte, 1<<20)
	for range 10 {
		for _, w := range writers {
			_, err := w.Write(chunk)
			require.NoError(t, err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	assert.LessOrEqual(t, r.proxy.bodies.used.Load(), int64(8<<20))
	assert.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(40<<20), "300 MiB were sent")
	for _, w := range writers {
		_ = w.CloseWithError(io.ErrUnexpectedEOF)
	}
	clients.Wait()
	transport.CloseIdleConnections()
	waitFor(t, func() bool { return r.proxy.bodies.used.Load() == 0 })
	assert.Greater(t, counted(t, r.telemetry, "prompts.unfollowed")["unread"], int64(20))
}

func attributeValues(m pmetric.Metrics, name, key string) map[string]bool {
	all := map[string]bool{}
	for _, metric := range m.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if metric.Name() != name {
			continue
		}
		for _, p := range metric.Sum().DataPoints().All() {
			if v, ok := p.Attributes().Get(key); ok {
				all[v.Str()] = true
			}
		}
	}
	return all
}

// S6: a page of another site may send requests that ComfyUI refuses with 403.
func TestRequestsThatTheServerRefusesDoNotAct(t *testing.T) {
	s := newAcceptingServer(t)
	var opened sync.Map
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/ws" && !strings.HasPrefix(r.URL.Query().Get("clientId"), "otelcol-gpu-"):
			opened.Store(r.URL.Query().Get("clientId"), true)
			conn := upgrade(t, w)
			defer conn.Close()
			_, _ = conn.Write([]byte("\x81\x02{}"))
			_, _ = io.Copy(io.Discard, conn)
		case r.Header.Get("Sec-Fetch-Site") == "cross-site":
			w.WriteHeader(http.StatusForbidden)
		default:
			s.serve(w, r)
		}
	}))
	defer h.Close()
	r := newRig(t, h.URL, func(c *Config) { c.OwnSockets = ownAlways; c.Limits.KeptSockets = 20; c.PollInterval = time.Hour })
	send(t, r.base, `{"prompt_id": "victim", "prompt": {"1": {"class_type": "A", "inputs": {}}}}`)
	crossSite := func(path, body string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+path, strings.NewReader(body))
		require.NoError(t, err)
		request.Header.Set("Sec-Fetch-Site", "cross-site")
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusForbidden, response.StatusCode)
	}
	for i := range 300 {
		crossSite("/prompt", fmt.Sprintf(`{"client_id": "evil%[1]d", "extra_data": {"task_class": "evil%[1]d\nlevel=error", "extra_pnginfo": {"workflow": {"id": "evil%[1]d"}}}, "prompt": {"1": {"class_type": "A", "inputs": {}}}}`, i))
	}
	crossSite("/queue", `{"clear": true}`)
	waitFor(t, func() bool { _, kept := r.hub.Counts(); return kept == 0 })
	send(t, r.base, `{"client_id": "good", "extra_data": {"task_class": "good", "extra_pnginfo": {"workflow": {"id": "good"}}}, "prompt": {"1": {"class_type": "A", "inputs": {}}}}`)
	waitFor(t, func() bool { _, isOpen := opened.Load("good"); return isOpen })
	m, err := r.scrape(t.Context())
	require.NoError(t, err)
	assert.Contains(t, attributeValues(m, "comfyui.prompts", "comfyui.workflow.id"), "good")
	for value := range attributeValues(m, "comfyui.prompts", "comfyui.workflow.id") {
		assert.NotContains(t, value, "evil")
	}
	s.mu.Lock()
	s.queue = nil
	s.mu.Unlock()
	r.following.tracker.Suspect()
	r.following.QueueChanged()
	waitFor(t, func() bool {
		for _, td := range r.traces.AllTraces() {
			if root := spansOf(t, td)[0].Attributes; root["comfyui.prompt.id"] == "victim" {
				assert.Equal(t, "lost", root["comfyui.prompt.outcome"], "nobody removed it")
				return true
			}
		}
		return false
	})
	for _, td := range r.traces.AllTraces() {
		class, _ := spansOf(t, td)[0].Attributes["comfyui.task_class"].(string)
		assert.NotContains(t, class, "\n")
	}
}

// S7: all prompts that are open at shutdown are reported, in little time.
func TestTenThousandOpenPromptsAreReportedAtShutdown(t *testing.T) {
	s := newAcceptingServer(t)
	r := newRig(t, s.URL, func(c *Config) { c.PollInterval, c.atLeast = time.Hour, busy })
	const n = 10_000
	for i := range n {
		p := r.following.tracker.Submit(time.Now(), promptRequest())
		require.NotNil(t, p)
		r.following.tracker.Answer(p, time.Now(), http.StatusOK, r.following.bounds.ParseAnswer(fmt.Appendf(nil, `{"prompt_id": "p%d"}`, i)))
	}
	begin := time.Now()
	r.stopNow()
	lasted := time.Since(begin)
	assert.Len(t, r.byPrompt(), n)
	assert.Less(t, lasted, 15*time.Second, "with the race detector, on a busy machine; end to end it is 5 s")
	assert.Empty(t, counted(t, r.telemetry, "dropped"))
}

// S7: clients that do not read are closed together, not one after another.
func TestClientsThatDoNotReadDoNotDelayShutdown(t *testing.T) {
	var conns []net.Conn
	var mu sync.Mutex
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ws" || strings.HasPrefix(r.URL.Query().Get("clientId"), "otelcol-gpu-") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		conn := upgrade(t, w)
		mu.Lock()
		conns = append(conns, conn)
		mu.Unlock()
	}))
	defer h.Close()
	r := newRig(t, h.URL, nil)
	for i := range 30 {
		rawClient(t, r, fmt.Sprint("clientId=", i))
	}
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(conns) == 30 })
	var writers sync.WaitGroup
	preview := append([]byte{0x82, 127, 0, 0, 0, 0, 1, 0, 0, 0}, make([]byte, 16<<20)...)
	for _, c := range conns {
		writers.Go(func() { _, _ = c.Write(preview) })
	}
	waitFor(t, func() bool { // all sockets are stuck in the middle of a frame
		m, err := r.scrape(t.Context())
		require.NoError(t, err)
		before := values(m, "comfyui.proxy.io")
		m, err = r.scrape(t.Context())
		require.NoError(t, err)
		return assert.ObjectsAreEqual(before, values(m, "comfyui.proxy.io")) && len(before) > 0
	})
	begin := time.Now()
	r.stopNow()
	assert.Less(t, time.Since(begin), 3*time.Second)
	for _, c := range conns {
		_ = c.Close()
	}
	writers.Wait()
}

// S7: requests that are under way at shutdown end before the parts that they use.
func TestShutdownUnderLoadDoesNotPanic(t *testing.T) {
	s := newAcceptingServer(t)
	for range 3 {
		r := newRig(t, s.URL, func(c *Config) { c.DrainTimeout = 10 * time.Millisecond })
		ctx, cancel := context.WithCancel(t.Context())
		var clients sync.WaitGroup
		transport := &http.Transport{}
		for range 16 {
			clients.Go(func() {
				for ctx.Err() == nil {
					request, _ := http.NewRequestWithContext(ctx, http.MethodPost, r.base+"/prompt", strings.NewReader(smallPrompt))
					response, err := (&http.Client{Transport: transport}).Do(request)
					if err != nil {
						return
					}
					_ = response.Body.Close()
				}
			})
		}
		waitFor(t, func() bool { return r.following.tracker.OpenCount() > 200 })
		r.stopNow()
		cancel()
		clients.Wait()
		transport.CloseIdleConnections()
		assert.Zero(t, r.following.tracker.OpenCount())
	}
}

// S8: a queue of large prompts costs the scrape nothing, and the loop reads it as it comes.
func TestALargeQueueIsReadAsItComes(t *testing.T) {
	var queues int
	var queue bytes.Buffer
	queue.WriteString(`{"queue_running": [], "queue_pending": [[0, "id", {}]`)
	for i := range 19 {
		fmt.Fprintf(&queue, `,[1, "id%d", {"1": {"class_type": "A", "inputs": {"image": %q}}}, {}, []]`, i, strings.Repeat("A", 1<<19))
	}
	queue.WriteString(`]}`)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/prompt":
			_, _ = io.WriteString(w, `{"exec_info": {"queue_remaining": 20}}`)
		case "/queue":
			queues++
			_, _ = w.Write(queue.Bytes())
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer h.Close()
	r := newRig(t, h.URL, func(c *Config) { c.PollInterval = time.Hour })
	m, err := r.scrape(t.Context())
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"map[]": 1}, values(m, "comfyui.up"))
	assert.Equal(t, map[string]float64{"map[state:running]": 1, "map[state:pending]": 19}, values(m, "comfyui.queue.length"))
	assert.Zero(t, queues)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	ids, err := r.following.server.queued(t.Context())
	runtime.ReadMemStats(&after)
	require.NoError(t, err)
	assert.Len(t, ids, 20)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), "9.5 MiB were read")
}

// S12: an upgrade is a GET with a key and no body.
func TestAPromptWithUpgradeHeadersIsFollowed(t *testing.T) {
	s := newAcceptingServer(t)
	r := newRig(t, s.URL, nil)
	for range 20 {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+"/prompt", strings.NewReader(smallPrompt))
		require.NoError(t, err)
		request.Header = http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Key": {"x"}}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	assert.Equal(t, 20, r.following.tracker.OpenCount())
}

func TestCredentialsForAProxyAreNotPassedOnWithAnUpgrade(t *testing.T) {
	seen := make(chan http.Header, 10)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("clientId") == "a" {
			seen <- r.Header.Clone()
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer h.Close()
	r := newRig(t, h.URL, nil)
	conn, err := net.Dial("tcp", r.address)
	require.NoError(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /ws?clientId=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\nProxy-Authorization: Basic c2VjcmV0\r\nCookie: a=1\r\n\r\n")
	require.NoError(t, err)
	header := <-seen
	assert.Empty(t, header.Get("Proxy-Authorization"))
	assert.Equal(t, "a=1", header.Get("Cookie"))
}

// S14: a client reconnects; its old socket closes while the new one is being upgraded. A
// server forgets an id when any of its sockets closes.
func TestAClientThatReconnectsDoesNotGoDeaf(t *testing.T) {
	var mu sync.Mutex
	registered := map[string]net.Conn{}
	upgrades, registrations := 0, 0
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Query().Get("clientId")
		if r.URL.Path != "/ws" || id != "a" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		mu.Lock()
		upgrades++
		second := upgrades == 2
		mu.Unlock()
		if second {
			time.Sleep(300 * time.Millisecond) // the answer is held back
		}
		conn := upgrade(t, w)
		mu.Lock()
		registered[id] = conn
		registrations++
		mu.Unlock()
		_, _ = io.Copy(io.Discard, conn)
		mu.Lock()
		delete(registered, id)
		mu.Unlock()
		_ = conn.Close()
	}))
	defer h.Close()
	r := newRig(t, h.URL, nil)
	old, _ := rawClient(t, r, "clientId=a")
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return registered["a"] != nil })
	var fresh *bufio.Reader
	var connected sync.WaitGroup
	connected.Go(func() { _, fresh = rawClient(t, r, "clientId=a") })
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return upgrades == 2 })
	_ = old.Close()
	connected.Wait()
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return registrations == 2 })
	r.hub.Sweep()
	mu.Lock()
	now := registered["a"]
	mu.Unlock()
	require.NotNil(t, now, "the server has forgotten the client")
	_, err := now.Write([]byte{0x81, 2, '{', '}'})
	require.NoError(t, err)
	text := make([]byte, 4)
	_, err = io.ReadFull(fresh, text)
	require.NoError(t, err, "it hears nothing")
}

func TestAClientIsAskedToContinueOnce(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // sends 100 if it was asked for
		w.WriteHeader(http.StatusNotFound)
	}))
	defer h.Close()
	r := newRig(t, h.URL, nil)
	for _, path := range []string{"/prompt", "/upload/image"} {
		conn, err := net.Dial("tcp", r.address)
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n", path)
		require.NoError(t, err)
		from := bufio.NewReader(conn)
		line, err := from.ReadString('\n')
		require.NoError(t, err)
		assert.Contains(t, line, "100 Continue")
		_, err = io.WriteString(conn, "{}")
		require.NoError(t, err)
		rest, err := io.ReadAll(from)
		require.NoError(t, err)
		assert.NotContains(t, string(rest), "100 Continue", path)
		assert.Contains(t, string(rest), "404", path)
		_ = conn.Close()
	}
}

func TestRoutesComeFromAFixedList(t *testing.T) {
	for path, want := range map[string]string{
		"/": "/", "/prompt": "/prompt", "/api/prompt": "/prompt", "/history/abc": "/history/{prompt_id}", "/api/history": "/history",
		"/api/jobs/x/cancel": "/jobs/{job_id}/cancel", "/api/jobs/cancel": "/jobs/cancel", "/api/jobs": "/jobs", "/view": "/view",
		"/object_info/KSampler": "/object_info/{node_class}", "/userdata/secret.json": "/userdata/{file}",
		"/extensions/core/a/b.js": "/extensions/{path...}", "/assets/index-Bf3.js": "/assets/{path...}",
		"/prompt/x": other, "/manager/reboot": other, "/my_node/grandmother.png": other, "/view/grandmother.png": other, "": "/",
		"/upload/grandmother.png": other, "/api": other,
	} {
		assert.Equal(t, want, route(path), path)
	}
}

func TestUnknownEventsAreCountedByName(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }))
	defer h.Close()
	r := newRig(t, h.URL, nil)
	text := func(kind string) {
		raw, err := json.Marshal(map[string]any{"type": kind, "data": map[string]any{}})
		require.NoError(t, err)
		r.following.Text(raw)
	}
	text("crystools.monitor")
	text("crystools.monitor")
	text("feature_flags")
	text("logs")
	for _, kind := range []string{"", "with space", "with/grandmother.png", strings.Repeat("x", maxEventName+1)} {
		text(kind)
	}
	for i := range 2 * maxEvents {
		text(fmt.Sprint("event", i))
	}
	got := counted(t, r.telemetry, "events.unknown")
	assert.EqualValues(t, 2, got["crystools.monitor"])
	assert.Len(t, got, maxEvents+1)
	assert.EqualValues(t, 4+2*maxEvents-(maxEvents-1), got[other])
}

// What newer servers are announced to send is counted or passed, and ends nothing.
func TestUnverifiedMessagesOfNewerServersEndNothing(t *testing.T) {
	s := newAcceptingServer(t)
	r := newRig(t, s.URL, nil)
	send(t, r.base, smallPrompt)
	for _, text := range []string{
		`{"type": "activity", "data": {"prompt_id": "p0"}}`,
		`{"type": "partial_success", "data": {"prompt_id": "p0", "timestamp": 1795489984750}}`,
		`{"type": "auth_required", "data": {"within": 5}}`,
		`{"type": "progress_state", "data": {"prompt_id": "p0", "nodes": {"1": {"state": "loading", "value": 0, "max": 1, "loading_seconds": 2.5, "activity": "load"}}}}`,
		`{"type": "progress_state", "data": {"prompt_id": "p0", "nodes": [1, 2]}}`,
	} {
		r.following.Text([]byte(text))
	}
	assert.Equal(t, 1, r.following.tracker.OpenCount())
	assert.Empty(t, r.traces.AllTraces())
	s.runAll()
	waitFor(t, func() bool { return len(r.traces.AllTraces()) == 1 })
	assert.Equal(t, "success", spansOf(t, r.traces.AllTraces()[0])[0].Attributes["comfyui.prompt.outcome"])
}

// A client that leaves is not a server that does not answer.
func TestClientsThatLeaveAreNotAServerThatFails(t *testing.T) {
	asked := make(chan struct{}, 10)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") == "" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		asked <- struct{}{}
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer h.Close()
	r := newRig(t, h.URL, nil)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan struct{})
	go func() {
		defer close(left)
		request, _ := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/view?filename=a.png", http.NoBody)
		if response, err := http.DefaultClient.Do(request); err == nil {
			_ = response.Body.Close()
		}
	}()
	<-asked
	cancel()
	<-left
	conn, err := net.Dial("tcp", r.address) // leaves in the middle of an upload
	require.NoError(t, err)
	_, err = io.WriteString(conn, "POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
	require.NoError(t, err)
	<-asked
	_ = conn.Close()
	var codes map[string]float64
	waitFor(t, func() bool {
		m, err := r.scrape(t.Context())
		require.NoError(t, err)
		codes = values(m, "comfyui.proxy.request.duration")
		return len(codes) == 2
	})
	for attributes := range codes {
		assert.Contains(t, attributes, "http.response.status_code:499")
	}
}

// A server with --tls-keyfile, and one behind a path prefix.
func TestUpstreamsWithAPrivateCAAndAPathPrefix(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, "/comfy")
		switch {
		case !ok:
			w.WriteHeader(http.StatusTeapot)
		case path == "/ws":
			c, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				return
			}
			_ = c.Write(r.Context(), websocket.MessageText, []byte(`{"type": "status", "data": {"sid": "x"}}`))
			_, _, _ = c.Read(r.Context())
		default:
			_, _ = io.WriteString(w, path)
		}
	})
	s := httptest.NewUnstartedServer(handler)
	s.TLS = &tls.Config{NextProtos: []string{"http/1.1"}}
	s.StartTLS()
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600))
	_, err := x509.ParseCertificate(s.Certificate().Raw)
	require.NoError(t, err)
	r := newRig(t, s.URL+"/comfy", func(c *Config) { c.Upstream.TLS.CAFile = ca })
	response, err := http.Get(r.base + "/queue")
	require.NoError(t, err)
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	assert.Equal(t, "/queue", string(body))
	conn, answer, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(r.base, "http")+"/ws", nil)
	require.NoError(t, err)
	if answer.Body != nil {
		_ = answer.Body.Close()
	}
	_, text, err := conn.Read(t.Context())
	require.NoError(t, err)
	assert.True(t, bytes.Contains(text, []byte("sid")))
	require.NoError(t, conn.CloseNow())
}

// own_sockets: pollers.
func TestClientsThatPollGetASocketForTheirNextPrompts(t *testing.T) {
	s := newAcceptingServer(t)
	var mu sync.Mutex
	opened := map[string]int{}
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.URL.Query().Get("clientId")
		if r.URL.Path != "/ws" || strings.HasPrefix(id, "otelcol-gpu-") {
			s.serve(w, r)
			return
		}
		mu.Lock()
		opened[id]++
		mu.Unlock()
		conn := upgrade(t, w)
		defer conn.Close()
		_, _ = conn.Write([]byte("\x81\x02{}"))
		_, _ = io.Copy(io.Discard, conn)
	}))
	defer h.Close()
	r := newRig(t, h.URL, func(c *Config) { c.OwnSockets = ownPollers; c.PollInterval = time.Hour })
	prompt := func(client string) string {
		before := s.accepted()
		send(t, r.base, fmt.Sprintf(`{"client_id": %q, "prompt": {"1": {"class_type": "A", "inputs": {}}}}`, client))
		return fmt.Sprint("p", before)
	}
	poll := func(path, id string) {
		response, err := http.Get(r.base + path + id)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
	}
	poll("/history/", prompt("history"))
	poll("/api/jobs/", prompt("jobs"))
	poll("/history/", prompt("socket"))
	conn, _ := rawClient(t, r, "clientId=socket")
	_ = conn.Close()
	prompt("silent")
	poll("/history/", "p0") // of another client's prompt: says nothing about who asks
	for _, client := range []string{"history", "jobs", "socket", "silent"} {
		prompt(client)
	}
	waitFor(t, func() bool { mu.Lock(); defer mu.Unlock(); return opened["history"] == 1 && opened["jobs"] == 1 })
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[string]int{"history": 1, "jobs": 1, "socket": 1}, opened)
}

// API nodes run elsewhere: their spans name no GPU.
func TestAPINodesNameNoGPU(t *testing.T) {
	base, _ := simulated(t)
	asked := make(chan string, 100)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if class, ok := strings.CutPrefix(r.URL.Path, "/object_info/"); ok {
			asked <- class
			_, _ = fmt.Fprintf(w, `{%q: {"input": {"required": {}}, "name": %[1]q, "api_node": %v}}`, class, class == "LoadImage")
			return
		}
		to, err := url.Parse(base)
		assert.NoError(t, err)
		(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(to); p.Out.Host = p.In.Host }}).ServeHTTP(w, r)
	}))
	defer h.Close()
	r := newRig(t, h.URL, func(c *Config) { c.Device = "GPU-aa"; c.OwnSockets = ownAlways })
	upload(t, r.base)
	photo(t, r.base, "c", 300)
	for range 3 {
		<-asked
	}
	waitFor(t, func() bool { return r.following.classes.IsAPINode("LoadImage") })
	send(t, r.base, `{"client_id": "c", "prompt": {"1": {"class_type": "LoadImage", "inputs": {"image": "people.png"}},
		"2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}, "3": {"class_type": "LoadImage", "inputs": {"image": "buildings.png"}},
		"4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "x"}}}}`)
	waitFor(t, func() bool { return len(r.traces.AllTraces()) == 2 })
	nodes := 0
	for _, s := range spansOf(t, r.traces.AllTraces()[1]) {
		class, isNode := s.Attributes["comfyui.node.class"]
		if isNode {
			nodes++
			_, named := s.Attributes["hw.id"]
			assert.Equal(t, class != "LoadImage", named, s.Name)
		}
	}
	assert.Positive(t, nodes)
	assert.Empty(t, asked, "each class once")
}

// S8: a server with a long queue of large prompts is not asked for it all the time.
func TestComparisonsTakeATenthOfTheTime(t *testing.T) {
	f := &follower{interval: 2 * time.Second}
	assert.Zero(t, f.rest(0))
	assert.Equal(t, 90*time.Millisecond, f.rest(10*time.Millisecond))
	assert.Equal(t, 9*time.Second, f.rest(time.Second))
	assert.Equal(t, 20*time.Second, f.rest(time.Minute))
}

// S1: a ComfyUI that never answers the upgrade of a WebSocket ties up nothing: not the client
// that leaves, and not the shutdown.
func TestAnUpgradeThatIsNeverAnsweredDelaysNoShutdown(t *testing.T) {
	asked := make(chan struct{}, 10)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ws" || strings.HasPrefix(r.URL.Query().Get("clientId"), "otelcol-gpu-") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer h.Close()
	r := newRig(t, h.URL, func(c *Config) { c.DrainTimeout = 100 * time.Millisecond })
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", r.address)
		require.NoError(t, err)
		_, err = io.WriteString(conn, "GET /ws?clientId=a HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
		require.NoError(t, err)
		<-asked
		return conn
	}
	left := dial()
	require.NoError(t, left.Close())
	waitFor(t, func() bool { return !r.hub.HasSocket("a") })
	waiting := dial()
	defer waiting.Close()
	begin := time.Now()
	r.stopNow()
	assert.Less(t, time.Since(begin), 3*time.Second)
}

// B7 with many open prompts.
func TestAClearedHistoryEndsOnlyWhatItHolds(t *testing.T) {
	s := newAcceptingServer(t)
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == "/history" {
			s.mu.Lock()
			clear(s.history)
			s.mu.Unlock()
			return
		}
		s.serve(w, r)
	}))
	defer h.Close()
	r := newRig(t, h.URL, func(c *Config) { c.PollInterval = time.Hour })
	for range 20 {
		send(t, r.base, smallPrompt)
	}
	s.runAll()
	for range 400 {
		send(t, r.base, smallPrompt)
	}
	response, err := http.Post(r.base+"/history", "application/json", strings.NewReader(`{"clear": true}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	waitFor(t, func() bool { return len(r.traces.AllTraces()) == 20 })
	for _, td := range r.traces.AllTraces() {
		assert.Equal(t, "success", spansOf(t, td)[0].Attributes["comfyui.prompt.outcome"])
	}
	assert.Equal(t, 400, r.following.tracker.OpenCount())
}

// --multi-user sends who the user is, and Comfy-Usage-Source what kind of caller: both reach
// the server, and neither is in telemetry.
func TestWhoTheUserIsPassesAndStaysOutOfTelemetry(t *testing.T) {
	s := accepting(t)
	r := newRig(t, s.URL, nil)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.base+"/prompt", strings.NewReader(smallPrompt))
	require.NoError(t, err)
	request.Header.Set("Comfy-User", "grandmother")
	request.Header.Set("Comfy-Usage-Source", "grandmother-app")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	seen := (<-s.seen).Header
	assert.Equal(t, "grandmother", seen.Get("Comfy-User"))
	assert.Equal(t, "grandmother-app", seen.Get("Comfy-Usage-Source"))
	m, err := r.scrape(t.Context())
	require.NoError(t, err)
	metrics, err := (&pmetric.JSONMarshaler{}).MarshalMetrics(m)
	require.NoError(t, err)
	r.stopNow()
	traces, err := (&ptrace.JSONMarshaler{}).MarshalTraces(r.traces.AllTraces()[0])
	require.NoError(t, err)
	assert.NotContains(t, string(metrics)+string(traces), "grandmother")
}
