// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
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
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/isolation"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// storedRig is a receiver with a storage.
type storedRig struct {
	*comfyuiReceiver
	base      string
	telemetry *componenttest.Telemetry
	logged    *observer.ObservedLogs
}

func startStored(t *testing.T, upstream string, kept storage.Extension, next consumer.Traces) *storedRig {
	t.Helper()
	return startStoredWith(t, upstream, kept, next, func(*Config) {})
}

func startStoredWith(t *testing.T, upstream string, kept storage.Extension, next consumer.Traces, change func(*Config)) *storedRig {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.Upstream.Endpoint, cfg.Device, cfg.PollInterval = upstream, "", 100*time.Millisecond
	cfg.Proxy.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.DrainTimeout = 100 * time.Millisecond
	cfg.Storage = &storageID
	change(cfg)
	r := &storedRig{telemetry: componenttest.NewTelemetry()}
	settings := receivertest.NewNopSettings(metadata.Type)
	settings.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	core, logged := observer.New(zap.InfoLevel)
	settings.Logger, r.logged = zap.New(core), logged
	r.comfyuiReceiver = newReceiver(settings, cfg)
	r.traces = next
	host := hostWith{componenttest.NewNopHost(), map[component.ID]component.Component{storageID: kept}}
	require.NoError(t, r.Start(context.Background(), host))
	r.base = "http://" + r.address
	return r
}

// snapshot is what a kill leaves at this moment.
func (m *memoryStorage) snapshot() *memoryStorage {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &memoryStorage{data: maps.Clone(m.data)}
}

func (m *memoryStorage) prompts() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.data {
		if strings.HasPrefix(key, "prompt/") {
			n++
		}
	}
	return n
}

func newMemoryStorage() *memoryStorage { return &memoryStorage{data: map[string][]byte{}} }

// holding is a next consumer that holds traces until they are released, as a connector does.
type holding struct {
	mu   sync.Mutex
	held []comfyevents.Handover
	consumertest.TracesSink
}

func (*holding) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (h *holding) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	for _, rs := range td.ResourceSpans().All() {
		root := rs.ScopeSpans().At(0).Spans().At(0)
		e := comfyevents.Handover{Trace: root.TraceID(), Root: root.SpanID(), Custody: comfyevents.Held}
		h.mu.Lock()
		h.held = append(h.held, e)
		h.mu.Unlock()
		comfyevents.OfProcess().Handovers.Publish(e)
	}
	return h.TracesSink.ConsumeTraces(ctx, td)
}

func (h *holding) release(c comfyevents.Custody) {
	h.mu.Lock()
	held := h.held
	h.held = nil
	h.mu.Unlock()
	for _, e := range held {
		e.Custody = c
		comfyevents.OfProcess().Handovers.Publish(e)
	}
}

func send(t *testing.T, base, body string) (status int) {
	t.Helper()
	response, err := http.Post(base+"/prompt", "application/json", strings.NewReader(body))
	require.NoError(t, err)
	_, _ = io.Copy(io.Discard, response.Body)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

const smallPrompt = `{"client_id": "c", "prompt": {"1": {"class_type": "A", "inputs": {"x": 1}}}}`

func TestAPromptIsStoredBeforeItsRequestIsPassedOn(t *testing.T) {
	kept := newMemoryStorage()
	var stored atomic.Int64
	server := newTap(t, func(w http.ResponseWriter, _ *http.Request) {
		stored.Store(int64(kept.prompts()))
		w.WriteHeader(http.StatusBadRequest)
	})
	r := startStored(t, server.URL, kept, new(consumertest.TracesSink))
	send(t, r.base, smallPrompt)
	assert.EqualValues(t, 1, stored.Load())
	require.Eventually(t, func() bool { return kept.prompts() == 0 }, 10*time.Second, time.Millisecond, "its trace was accepted")
	require.NoError(t, r.Shutdown(t.Context()))
}

func TestAPromptIsKeptUntilItsTraceIsWithTheExporters(t *testing.T) {
	for name, test := range map[string]struct {
		custody comfyevents.Custody
		lost    int64
	}{"accepted": {comfyevents.Accepted, 0}, "refused": {comfyevents.Refused, 1}} {
		t.Run(name, func(t *testing.T) {
			kept, next := newMemoryStorage(), &holding{}
			server := newTap(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) })
			r := startStored(t, server.URL, kept, next)
			send(t, r.base, smallPrompt)
			require.Eventually(t, func() bool { return len(next.AllTraces()) == 1 }, 10*time.Second, time.Millisecond)
			assert.Equal(t, 1, kept.prompts(), "a connector holds the trace")
			next.release(test.custody)
			require.Eventually(t, func() bool { return kept.prompts() == 0 }, 10*time.Second, time.Millisecond)
			assert.Equal(t, test.lost, counted(t, r.telemetry, "traces.lost")[""])
			require.NoError(t, r.Shutdown(t.Context()))
		})
	}
}

// A connector whose next consumers do not accept a trace before its shutdown ends gives it up:
// the next process exports it.
func TestAbandonedTracesStayInTheStore(t *testing.T) {
	kept, next := newMemoryStorage(), &holding{}
	server := newTap(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) })
	first := startStored(t, server.URL, kept, next)
	send(t, first.base, smallPrompt)
	require.Eventually(t, func() bool { return len(next.AllTraces()) == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, first.Shutdown(t.Context()))
	next.release(comfyevents.Abandoned)
	assert.Equal(t, 1, kept.prompts())
	sink := new(consumertest.TracesSink)
	second := startStored(t, server.URL, kept, sink)
	waitFor(t, func() bool { return len(sink.AllTraces()) == 1 && kept.prompts() == 0 })
	assert.Equal(t, rootOf(next.AllTraces()[0]).SpanID(), rootOf(sink.AllTraces()[0]).SpanID())
	require.NoError(t, second.Shutdown(t.Context()))
}

// A connector delivers what it holds in its own shutdown, which follows the receiver's.
func TestTracesThatAreDeliveredAfterShutdownLeaveTheStore(t *testing.T) {
	kept, next := newMemoryStorage(), &holding{}
	server := newTap(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) })
	r := startStored(t, server.URL, kept, next)
	for range 3 {
		send(t, r.base, smallPrompt)
	}
	require.Eventually(t, func() bool { return len(next.AllTraces()) == 3 }, 10*time.Second, time.Millisecond)
	require.NoError(t, r.Shutdown(t.Context()))
	assert.Equal(t, 3, kept.prompts())
	next.release(comfyevents.Accepted)
	assert.Zero(t, kept.prompts())
	assert.False(t, comfyevents.OfProcess().Handovers.HasSubscribers())
}

// acceptingServer accepts prompts, and runs them with runAll.
type acceptingServer struct {
	*httptest.Server
	mu      sync.Mutex
	queue   []json.RawMessage
	history map[string]any
	ids     []string
	silent  bool // it accepts, and never answers
}

func newAcceptingServer(t *testing.T) *acceptingServer {
	s := &acceptingServer{history: map[string]any{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	return s
}

func (s *acceptingServer) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, single := strings.CutPrefix(r.URL.Path, "/history/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/prompt":
		var body struct {
			Prompt json.RawMessage `json:"prompt"`
			Client string          `json:"client_id"`
			ID     string          `json:"prompt_id"`
		}
		raw, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(bytes.ReplaceAll(raw, []byte("NaN"), []byte("null")), &body) // Python reads it
		if body.ID == "" {
			body.ID = fmt.Sprint("p", len(s.ids))
		}
		s.ids = append(s.ids, body.ID)
		item, _ := json.Marshal([]any{len(s.ids), body.ID, body.Prompt, map[string]any{"client_id": body.Client}, []any{}})
		s.queue = append(s.queue, item)
		if s.silent {
			s.mu.Unlock()
			<-r.Context().Done()
			s.mu.Lock()
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"prompt_id": body.ID, "number": 1, "node_errors": map[string]any{}})
	case r.URL.Path == "/queue":
		_ = json.NewEncoder(w).Encode(map[string]any{"queue_running": []any{}, "queue_pending": append([]json.RawMessage{}, s.queue...)})
	case single:
		all := map[string]any{}
		if e, ok := s.history[id]; ok {
			all[id] = e
		}
		_ = json.NewEncoder(w).Encode(all)
	case r.URL.Path == "/history":
		_ = json.NewEncoder(w).Encode(s.history)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *acceptingServer) accepted() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ids)
}

// runAll ends all queued prompts.
func (s *acceptingServer) runAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, item := range s.queue {
		var parts []json.RawMessage
		_ = json.Unmarshal(item, &parts)
		var id string
		_ = json.Unmarshal(parts[1], &id)
		s.history[id] = map[string]any{"prompt": item, "outputs": map[string]any{}, "status": map[string]any{"status_str": "success", "messages": []any{
			[]any{"execution_start", map[string]any{"prompt_id": id, "timestamp": time.Now().UnixMilli()}},
			[]any{"execution_success", map[string]any{"prompt_id": id, "timestamp": time.Now().UnixMilli()}},
		}}}
	}
	s.queue = nil
}

// rootsOf are the root spans by the prompts' ids: the span ids, each once.
func rootsOf(sinks ...*consumertest.TracesSink) map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for _, sink := range sinks {
		for _, td := range sink.AllTraces() {
			for _, rs := range td.ResourceSpans().All() {
				root := rs.ScopeSpans().At(0).Spans().At(0)
				id, _ := root.Attributes().Get("comfyui.prompt.id")
				if all[id.Str()] == nil {
					all[id.Str()] = map[string]bool{}
				}
				all[id.Str()][root.SpanID().String()] = true
			}
		}
	}
	return all
}

// A kill at any moment leaves what is stored at that moment: each prompt that the server
// accepted has one trace afterwards, whatever the first process had sent of it.
func TestEveryAcceptedPromptHasOneTraceAfterAKill(t *testing.T) {
	for name, kill := range map[string]func(s *acceptingServer, first *storedRig, next *holding){
		"while they are queued": func(*acceptingServer, *storedRig, *holding) {},
		"while a connector holds the ends": func(s *acceptingServer, _ *storedRig, next *holding) {
			s.runAll()
			waitFor(t, func() bool { return len(next.AllTraces()) == 20 })
		},
		"when all were delivered": func(s *acceptingServer, _ *storedRig, next *holding) {
			s.runAll()
			waitFor(t, func() bool { return len(next.AllTraces()) == 20 })
			next.release(comfyevents.Accepted)
		},
		"while some were delivered": func(s *acceptingServer, _ *storedRig, next *holding) {
			s.runAll()
			waitFor(t, func() bool { return len(next.AllTraces()) == 20 })
			next.mu.Lock()
			rest := next.held[10:]
			next.held = next.held[:10]
			next.mu.Unlock()
			next.release(comfyevents.Accepted)
			next.mu.Lock()
			next.held = rest
			next.mu.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, kept, next := newAcceptingServer(t), newMemoryStorage(), &holding{}
			first := startStored(t, s.URL, kept, next)
			for i := range 20 {
				require.Equal(t, http.StatusOK, send(t, first.base, fmt.Sprintf(`{"client_id": "c", "prompt": {"1": {"class_type": "A", "inputs": {"x": %d}}}}`, i)))
			}
			kill(s, first, next)
			left := kept.snapshot()
			s.runAll()
			sink := new(consumertest.TracesSink)
			// What was killed lives on here, with the same traces: it says so to others of its process.
			second := startStoredWith(t, s.URL, left, sink, func(c *Config) { c.Isolate(otherProcess(t)) })
			waitFor(t, func() bool { return left.prompts() == 0 })
			require.NoError(t, second.Shutdown(t.Context()))
			roots := rootsOf(&next.TracesSink, sink)
			assert.Len(t, roots, 20)
			for id, spans := range roots {
				assert.Len(t, spans, 1, id)
			}
			for _, td := range sink.AllTraces() {
				outcome, _ := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().Get("comfyui.prompt.outcome")
				assert.Equal(t, "success", outcome.Str())
			}
			require.NoError(t, first.Shutdown(t.Context()))
			next.release(comfyevents.Accepted)
		})
	}
}

// otherProcess is where a receiver runs that hears nothing of those of this process.
func otherProcess(t *testing.T) *isolation.Place {
	transport := new(http.Transport)
	t.Cleanup(transport.CloseIdleConnections)
	return &isolation.Place{Transport: transport, Listener: unserved{}, Bus: new(comfyevents.Bus), Advisors: new(admission.Advisors)}
}

type unserved struct{}

func (unserved) Serve(http.Handler) {}

func waitFor(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, 20*time.Second, time.Millisecond)
}

// The answers of these prompts never came: they are found by their client and content, two
// equal ones as two.
func TestPromptsWhoseAnswerNeverCameAreFound(t *testing.T) {
	s, kept := newAcceptingServer(t), newMemoryStorage()
	s.silent = true
	first := startStored(t, s.URL, kept, new(consumertest.TracesSink))
	bodies := []string{
		`{"client_id": "c", "prompt": {"1": {"class_type": "A", "inputs": {"x": 1e0}}}}`,
		`{"client_id": "c", "prompt": {"1": {"class_type": "A", "inputs": {"x": 1}}}}`,
		`{"client_id": "c", "prompt": {"1": {"class_type": "A", "inputs": {"x": 2}}}}`,
		`{"client_id": "d", "prompt": {"1": {"class_type": "A", "inputs": {"x": 1}}}}`,
		`{"client_id": "d", "prompt_id": "chosen", "prompt": {"1": {"class_type": "A", "inputs": {"x": 1}}}}`,
	}
	var clients sync.WaitGroup
	for _, body := range bodies {
		clients.Go(func() {
			response, err := http.Post(first.base+"/prompt", "application/json", strings.NewReader(body))
			if err == nil {
				_ = response.Body.Close()
			}
		})
	}
	waitFor(t, func() bool { return s.accepted() == len(bodies) })
	left := kept.snapshot()
	// one more was stored, and the kill came before it was passed on
	unsent := first.following.tracker.Submit(time.Now(), prompt.Request{Submission: protocol.Submission{ClientID: "never", Content: 1}})
	unsent.Slot = 60
	raw, err := json.Marshal(unsent.Save())
	require.NoError(t, err)
	left.data["prompt/60"] = raw
	require.NoError(t, first.Shutdown(t.Context()))
	clients.Wait()

	s.silent = false
	sink := new(consumertest.TracesSink)
	second := startStored(t, s.URL, left, sink)
	waitFor(t, func() bool { return second.following.tracker.OpenCount() == len(bodies) })
	s.runAll()
	waitFor(t, func() bool { return left.prompts() == 0 })
	require.NoError(t, second.Shutdown(t.Context()))
	roots := rootsOf(sink)
	assert.Len(t, roots, len(bodies))
	assert.Contains(t, roots, "chosen")
	assert.Equal(t, int64(1), counted(t, second.telemetry, "prompts.unfollowed")["unanswered"], "the server never accepted it")
}

// A prompt whose answer never came is not one of the same content that had run before.
func TestAPromptIsNotFoundInOneThatRanBefore(t *testing.T) {
	s := &comfyServer{base: &url.URL{Host: "127.0.0.1:8188"}}
	now := time.Now()
	sub := &protocol.Submission{PromptID: "x", ClientID: "c", Content: 7}
	sent := &prompt.Prompt{Request: prompt.Request{Submission: protocol.Submission{ClientID: "c", Content: 7}}, Received: now}
	assert.True(t, s.is(sent, candidate{sub, now}))
	assert.True(t, s.is(sent, candidate{sub, now.Truncate(time.Millisecond)}))
	assert.True(t, s.is(sent, candidate{sub, time.Time{}}), "it is in the queue")
	assert.False(t, s.is(sent, candidate{sub, now.Add(-100 * time.Millisecond)}))
	s.base.Host = "gpu1:8188"
	assert.True(t, s.is(sent, candidate{sub, now.Add(-100 * time.Millisecond)}), "the clocks of two hosts differ")
	assert.False(t, s.is(sent, candidate{sub, now.Add(-time.Minute)}))
	assert.False(t, s.is(sent, candidate{&protocol.Submission{PromptID: "x", ClientID: "d", Content: 7}, now}))
	assert.False(t, s.is(sent, candidate{&protocol.Submission{PromptID: "x", ClientID: "c", Content: 8}, now}))
}

// A request whose answer never came, and which the server never accepted, is not the one with the
// same content that has ended, though that one's trace was not exported before the kill.
func TestAPromptThatHasEndedIsNotOneWithoutAnAnswer(t *testing.T) {
	s, kept := newAcceptingServer(t), newMemoryStorage()
	next := &holding{}
	first := startStored(t, s.URL, kept, next)
	submission, err := first.following.bounds.ParseSubmission(strings.NewReader(smallPrompt))
	require.NoError(t, err)
	unsent := first.following.tracker.Submit(time.Now(), prompt.Request{Submission: submission})
	unsent.Slot = 60
	raw, err := json.Marshal(unsent.Save())
	require.NoError(t, err)
	send(t, first.base, smallPrompt)
	s.runAll()
	waitFor(t, func() bool { // it has ended, and its trace is on its way
		kept.mu.Lock()
		defer kept.mu.Unlock()
		return len(next.AllTraces()) == 1 && strings.Contains(string(kept.data[slotKey(1)]), `"outcome":"success"`)
	})
	left := kept.snapshot()
	left.data[slotKey(60)] = raw
	require.NoError(t, first.Shutdown(t.Context()))
	next.release(comfyevents.Accepted)

	sink := new(consumertest.TracesSink)
	second := startStored(t, s.URL, left, sink)
	waitFor(t, func() bool { return left.prompts() == 0 })
	require.NoError(t, second.Shutdown(t.Context()))
	for id, spans := range rootsOf(&next.TracesSink, sink) {
		assert.Len(t, spans, 1, id)
	}
	assert.Equal(t, int64(1), counted(t, second.telemetry, "prompts.unfollowed")["unanswered"])
}

func TestOpenPromptsStayInTheStoreAtShutdown(t *testing.T) {
	s, kept := newAcceptingServer(t), newMemoryStorage()
	sink := new(consumertest.TracesSink)
	first := startStored(t, s.URL, kept, sink)
	for range 5 {
		send(t, first.base, smallPrompt)
	}
	require.NoError(t, first.Shutdown(t.Context()))
	assert.Empty(t, sink.AllTraces())
	assert.Equal(t, 5, kept.prompts())
	s.runAll()
	second := startStored(t, s.URL, kept, sink)
	waitFor(t, func() bool { return len(sink.AllTraces()) == 5 })
	require.NoError(t, second.Shutdown(t.Context()))
	assert.Zero(t, kept.prompts())
	for _, td := range sink.AllTraces() {
		assert.Equal(t, "success", spansOf(t, td)[0].Attributes["comfyui.prompt.outcome"])
	}
}

// fullDisk is a storage that accepts nothing while it is full.
type fullDisk struct {
	*memoryStorage
	full atomic.Bool
}

func (d *fullDisk) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return &fullDiskClient{memoryClient{d.memoryStorage}, d}, nil
}

type fullDiskClient struct {
	memoryClient
	disk *fullDisk
}

var errFull = errors.New("no space left on device")

func (c *fullDiskClient) Batch(ctx context.Context, operations ...*storage.Operation) error {
	if c.disk.full.Load() {
		return errFull
	}
	return c.memoryClient.Batch(ctx, operations...)
}

func TestAFullDiskStopsNoPromptAndIsLoggedOnce(t *testing.T) {
	disk := &fullDisk{memoryStorage: newMemoryStorage()}
	s := newAcceptingServer(t)
	sink := new(consumertest.TracesSink)
	r := startStored(t, s.URL, disk, sink)
	disk.full.Store(true)
	for range 100 {
		require.Equal(t, http.StatusOK, send(t, r.base, smallPrompt))
	}
	assert.GreaterOrEqual(t, counted(t, r.telemetry, "store.errors")[""], int64(100))
	assert.Equal(t, 1, r.logged.FilterMessageSnippet("Failed to store prompts").Len())
	disk.full.Store(false)
	require.Equal(t, http.StatusOK, send(t, r.base, smallPrompt))
	assert.Equal(t, 1, r.logged.FilterMessage("The storage accepts data again").Len())
	s.runAll()
	waitFor(t, func() bool { return len(sink.AllTraces()) == 101 })
	waitFor(t, func() bool { return disk.prompts() == 0 })
	require.NoError(t, r.Shutdown(t.Context()))
}

func TestChangesThatCouldNotBeWrittenAreWrittenLater(t *testing.T) {
	disk := &fullDisk{memoryStorage: newMemoryStorage()}
	s := newAcceptingServer(t)
	sink := new(consumertest.TracesSink)
	r := startStored(t, s.URL, disk, sink)
	for range 10 {
		send(t, r.base, smallPrompt)
	}
	waitFor(t, func() bool { return disk.prompts() == 10 })
	disk.full.Store(true)
	s.runAll()
	waitFor(t, func() bool { return len(sink.AllTraces()) == 10 })
	assert.Equal(t, 10, disk.prompts())
	disk.full.Store(false)
	waitFor(t, func() bool { return disk.prompts() == 0 })
	require.NoError(t, r.Shutdown(t.Context()))
}

func testStore(t testing.TB, kept *memoryStorage, slots int) *store {
	t.Helper()
	builder, err := metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
	require.NoError(t, err)
	return newStore(&memoryClient{kept}, slots, zap.NewNop(), builder)
}

func TestSlotsAreUsedAgainAndBound(t *testing.T) {
	kept := newMemoryStorage()
	s := testStore(t, kept, 100)
	_, err := s.restore(t.Context())
	require.NoError(t, err)
	var all []*prompt.Prompt
	for range 150 {
		p := prompt.Discovered(&protocol.Submission{PromptID: "x"}, time.Now(), true)
		s.submitted(p)
		all = append(all, p)
	}
	assert.Equal(t, 100, kept.prompts())
	assert.Equal(t, noSlot, all[100].Slot)
	for range 5 {
		for _, p := range all[:100] {
			s.remove(p)
		}
		waitFor(t, func() bool { return kept.prompts() == 0 })
		for _, p := range all[:100] {
			waitFor(t, func() bool { p.Slot = noSlot; s.submitted(p); return p.Slot != noSlot }) // the worker frees the slots
		}
	}
	s.stop()
	again := testStore(t, kept, 100)
	found, err := again.restore(t.Context())
	require.NoError(t, err)
	assert.Len(t, found, 100)
	again.stop()
}

func TestTheIDsOfExportedPromptsArePaged(t *testing.T) {
	kept := newMemoryStorage()
	s := testStore(t, kept, 10)
	const n = maxExported + 1000
	for i := range n {
		s.addExported(fmt.Sprint(i))
		if i%100 == 0 {
			s.flush()
		}
	}
	s.stop()
	assert.LessOrEqual(t, len(kept.data), pages+1)
	again := testStore(t, kept, 10)
	ids, stored, err := again.exportedIDs(t.Context())
	require.NoError(t, err)
	assert.True(t, stored)
	assert.Greater(t, len(ids), maxExported-2*pageSize)
	assert.Equal(t, fmt.Sprint(n-1), ids[len(ids)-1])
	again.addExported("next")
	again.stop()
	third := testStore(t, kept, 10)
	ids, _, err = third.exportedIDs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{fmt.Sprint(n - 1), "next"}, ids[len(ids)-2:])
	third.stop()
}

// What is stored may be damaged in any way: a start reads what it can and never fails.
func FuzzStore(f *testing.F) {
	saved, _ := json.Marshal(prompt.Saved{ID: "x", TraceID: "0af7651916cd43dd8448eb211c80319c", SpanID: "b7ad6b7169203331", Outcome: "success"})
	f.Add([]byte("3"), saved, []byte(`["a"]`), []byte("5"))
	f.Add([]byte("-1"), []byte("null"), []byte("{"), []byte("99999999999999999999"))
	f.Add([]byte("1e9"), []byte(`{"runs":[{"ID":""}],"nodes":[["a"]],"received":"x"}`), []byte("null"), []byte(""))
	f.Add([]byte("0"), []byte("0"), []byte("-"), []byte("-33"))
	f.Add([]byte("0"), []byte("0"), []byte(`["a"]`), []byte("9223372036854775807"))
	f.Fuzz(func(t *testing.T, slots, saved, page, place []byte) {
		kept := newMemoryStorage()
		kept.data[slotsKey], kept.data[slotKey(1)], kept.data[slotKey(2)] = slots, saved, saved
		kept.data[pageKey(0)], kept.data[placeKey], kept.data[formerOpenKey] = page, place, page
		s := testStore(t, kept, 100)
		all, _ := s.restore(t.Context())
		for _, p := range all {
			_ = p.Save()
		}
		_, _, _ = s.exportedIDs(t.Context())
		s.addExported("x")
		p := prompt.Discovered(&protocol.Submission{PromptID: "y"}, time.Now(), true)
		s.submitted(p)
		s.remove(p)
		s.stop()
	})
}

// A restart finds more traces than the exporter's queue holds: none is lost.
func TestMoreStoredTracesThanTheQueueHoldsAreExported(t *testing.T) {
	const n = 3000
	kept := newMemoryStorage()
	for i := range n {
		p := prompt.Discovered(&protocol.Submission{PromptID: fmt.Sprint("p", i)}, time.Now(), true)
		p.Outcome, p.Ended, p.HTTPStatus = prompt.Success, time.Now(), http.StatusOK
		raw, err := json.Marshal(p.Save())
		require.NoError(t, err)
		kept.data[slotKey(i+1)] = raw
	}
	kept.data[slotsKey] = []byte(fmt.Sprint(n))
	sink := new(consumertest.TracesSink)
	r := startStored(t, newAcceptingServer(t).URL, kept, sink)
	waitFor(t, func() bool { return len(sink.AllTraces()) == n })
	waitFor(t, func() bool { return kept.prompts() == 0 })
	assert.Zero(t, counted(t, r.telemetry, "traces.lost")[""])
	require.NoError(t, r.Shutdown(t.Context()))
}

// With a full disk open prompts are not stored: they end as unfinished, as without a store.
func TestPromptsThatAreNotStoredEndAsUnfinished(t *testing.T) {
	disk := &fullDisk{memoryStorage: newMemoryStorage()}
	sink := new(consumertest.TracesSink)
	r := startStored(t, newAcceptingServer(t).URL, disk, sink)
	send(t, r.base, smallPrompt)
	disk.full.Store(true)
	for range 5 {
		send(t, r.base, smallPrompt)
	}
	require.NoError(t, r.Shutdown(t.Context()))
	assert.Len(t, rootsOf(sink), 5)
	assert.Equal(t, 1, disk.prompts())
}

func TestACallersIDThatIsOpenTwiceIsFollowedTwiceAfterAKill(t *testing.T) {
	s, kept := newAcceptingServer(t), newMemoryStorage()
	first := startStored(t, s.URL, kept, new(consumertest.TracesSink))
	for range 2 {
		send(t, first.base, `{"client_id": "c", "prompt_id": "same", "prompt": {"1": {"class_type": "A", "inputs": {}}}}`)
	}
	waitFor(t, func() bool {
		kept.mu.Lock()
		defer kept.mu.Unlock()
		n := 0
		for key, value := range kept.data {
			if strings.HasPrefix(key, "prompt/") && strings.Contains(string(value), `"status":200`) {
				n++
			}
		}
		return n == 2
	})
	left := kept.snapshot()
	require.NoError(t, first.Shutdown(t.Context()))
	sink := new(consumertest.TracesSink)
	second := startStored(t, s.URL, left, sink)
	assert.Equal(t, 2, second.following.tracker.OpenCount())
	s.runAll()
	waitFor(t, func() bool { return len(sink.AllTraces()) == 2 })
	require.NoError(t, second.Shutdown(t.Context()))
}

// Of equal prompts of a server on another host, whose clock may differ, the nearest is taken,
// and never one that was exported before.
func TestTheNearestOfEqualPromptsIsTheOneWithoutAnAnswer(t *testing.T) {
	now := time.Now()
	f := &follower{server: &comfyServer{base: &url.URL{Host: "gpu1:8188"}}}
	sent := &prompt.Prompt{Request: prompt.Request{Submission: protocol.Submission{ClientID: "c", Content: 7}}, Received: now}
	at := func(id string, d time.Duration) candidate {
		return candidate{&protocol.Submission{PromptID: id, ClientID: "c", Content: 7}, now.Add(d)}
	}
	found := []candidate{at("before", -100*time.Millisecond), at("it", 5*time.Millisecond), at("later", time.Second)}
	assert.Equal(t, "it", f.matching(sent, found, map[string]bool{}, false))
	assert.Equal(t, "before", f.matching(sent, found, map[string]bool{"it": true}, false))

	// one whose nodes the server has replaced
	changed := candidate{&protocol.Submission{PromptID: "changed", ClientID: "c", Content: 8, NodeIDs: 3}, now.Add(time.Second)}
	sent.Submission.NodeIDs = 3
	assert.Empty(t, f.matching(sent, []candidate{changed}, nil, false))
	assert.Equal(t, "changed", f.matching(sent, []candidate{changed}, nil, true))
	changed.at = now.Add(maxDelay + time.Second)
	assert.Empty(t, f.matching(sent, []candidate{changed}, nil, true), "it came later")

	kept := newMemoryStorage()
	s := newAcceptingServer(t)
	sink := new(consumertest.TracesSink)
	first := startStored(t, s.URL, kept, sink)
	send(t, first.base, smallPrompt)
	s.runAll()
	waitFor(t, func() bool { return len(sink.AllTraces()) == 1 && kept.prompts() == 0 })
	require.NoError(t, first.Shutdown(t.Context()))
	second := startStored(t, s.URL, kept, sink)
	assert.True(t, second.following.tracker.Has("p0"), "the next process knows what was exported")
	require.NoError(t, second.Shutdown(t.Context()))
}

func TestSlotsDoNotGrowWithEachStart(t *testing.T) {
	kept := newMemoryStorage()
	for range 50 {
		s := testStore(t, kept, 10_000)
		_, err := s.restore(t.Context())
		require.NoError(t, err)
		p := prompt.Discovered(&protocol.Submission{PromptID: "x"}, time.Now(), true)
		s.submitted(p)
		s.stop()
	}
	assert.LessOrEqual(t, kept.prompts(), 50)
	n, err := strconv.Atoi(string(kept.data[slotsKey]))
	require.NoError(t, err)
	assert.LessOrEqual(t, n, 50+2*slotStep)
}
