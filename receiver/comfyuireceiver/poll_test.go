// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
)

// memoryStorage is a storage extension that outlives receivers.
type memoryStorage struct {
	component.StartFunc
	component.ShutdownFunc
	mu   sync.Mutex
	data map[string][]byte
}

func (m *memoryStorage) GetClient(context.Context, component.Kind, component.ID, string) (storage.Client, error) {
	return &memoryClient{m}, nil
}

type memoryClient struct{ *memoryStorage }

func (c *memoryClient) Get(_ context.Context, key string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data[key], nil
}

func (c *memoryClient) Set(_ context.Context, key string, value []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data[key] = append([]byte{}, value...)
	return nil
}

func (c *memoryClient) Delete(_ context.Context, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.data, key)
	return nil
}
func (c *memoryClient) Batch(ctx context.Context, operations ...*storage.Operation) (err error) {
	for _, o := range operations {
		switch o.Type {
		case storage.Get:
			o.Value, err = c.Get(ctx, o.Key)
		case storage.Set:
			err = c.Set(ctx, o.Key, o.Value)
		case storage.Delete:
			err = c.Delete(ctx, o.Key)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
func (c *memoryClient) Close(context.Context) error { return nil }

type hostWith struct {
	component.Host
	extensions map[component.ID]component.Component
}

func (h hostWith) GetExtensions() map[component.ID]component.Component { return h.extensions }

var storageID = component.MustNewID("file_storage")

// historyServer is a ComfyUI as polling sees it.
type historyServer struct {
	*httptest.Server
	mu      sync.Mutex
	running []string
	history map[string]string // by id: what ended it
	fixed   map[string]json.RawMessage
	order   []string
	reads   int // of the whole history
}

// fix finishes a prompt with an entry that stays as it is.
func (s *historyServer) fix(id string, entry json.RawMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fixed = map[string]json.RawMessage{id: entry}
	s.history[id] = ""
	s.order = append(s.order, id)
}

func (s *historyServer) entry(id, end string) any {
	if fixed := s.fixed[id]; fixed != nil {
		return fixed
	}
	return entry(id, end)
}

func newHistoryServer(t *testing.T) *historyServer {
	s := &historyServer{history: map[string]string{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		id, single := strings.CutPrefix(r.URL.Path, "/history/")
		switch {
		case r.URL.Path == "/queue":
			items := []any{}
			for _, id := range s.running {
				items = append(items, []any{1, id, map[string]any{"1": map[string]any{"class_type": "A", "inputs": map[string]any{}}}, map[string]any{}, []any{}})
			}
			_ = json.NewEncoder(w).Encode(map[string]any{"queue_running": items, "queue_pending": []any{}})
		case single:
			all := map[string]any{}
			if end, ok := s.history[id]; ok {
				all[id] = s.entry(id, end)
			}
			_ = json.NewEncoder(w).Encode(all)
		case r.URL.Path == "/history":
			var limit int
			_, _ = fmt.Sscan(r.URL.Query().Get("max_items"), &limit)
			s.reads++
			all := map[string]any{}
			for _, id := range s.order[max(0, len(s.order)-limit):] {
				all[id] = s.entry(id, s.history[id])
			}
			_ = json.NewEncoder(w).Encode(all)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func entry(id, end string) any {
	return map[string]any{
		"prompt":  []any{1, id, map[string]any{"1": map[string]any{"class_type": "A", "inputs": map[string]any{}}}, map[string]any{}, []any{}},
		"outputs": map[string]any{"1": map[string]any{"images": []any{map[string]any{}}}},
		"status": map[string]any{"status_str": "success", "completed": true, "messages": []any{
			[]any{"execution_start", map[string]any{"prompt_id": id, "timestamp": time.Now().Add(-time.Second).UnixMilli()}},
			[]any{end, map[string]any{"prompt_id": id, "timestamp": time.Now().UnixMilli()}},
		}},
	}
}

func (s *historyServer) run(ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running = ids
}

func (s *historyServer) finish(id, end string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.history[id] = end
	s.order = append(s.order, id)
}

// startWith starts a service on a storage, and returns it with its sink.
func startWith(t *testing.T, url, mode string, storage *memoryStorage) (*comfyuiReceiver, *consumertest.TracesSink) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.Mode, cfg.Upstream.Endpoint, cfg.Device, cfg.PollInterval = mode, url, "", 100*time.Millisecond
	cfg.Proxy.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Storage = &storageID
	s := newReceiver(receivertest.NewNopSettings(metadata.Type), cfg)
	sink := new(consumertest.TracesSink)
	s.traces = sink
	require.NoError(t, s.Start(context.Background(), hostWith{componenttest.NewNopHost(), map[component.ID]component.Component{storageID: storage}}))
	return s, sink
}

// exportedBy are the ids that a receiver has stored.
func exportedBy(r *comfyuiReceiver) []string {
	s := newStore(r.store.client, 0, r.log, r.telemetry)
	defer s.stop()
	ids, _, _ := s.exportedIDs(context.Background())
	return ids
}

func outcomes(t *testing.T, sink *consumertest.TracesSink) map[string]string {
	all := map[string]string{}
	for _, td := range sink.AllTraces() {
		root := spansOf(t, td)[0].Attributes
		id := root["comfyui.prompt.id"].(string)
		require.NotContains(t, all, id, "never two roots for a prompt")
		all[id] = root["comfyui.prompt.outcome"].(string)
	}
	return all
}

func TestPollingExportsEachPromptOnceAcrossRestarts(t *testing.T) {
	s := newHistoryServer(t)
	s.finish("before", "execution_success")
	kept := &memoryStorage{data: map[string][]byte{}}
	first, sink := startWith(t, s.URL, modePoll, kept)
	require.Eventually(t, func() bool { return len(exportedBy(first)) == 1 }, 10*time.Second, 5*time.Millisecond)
	s.run("seen")
	require.Eventually(t, func() bool { return first.following.tracker.OpenCount() == 1 }, 10*time.Second, 5*time.Millisecond)
	s.run()
	s.finish("seen", "execution_error")
	s.finish("between", "execution_success") // came and went between two polls
	require.Eventually(t, func() bool { return len(sink.AllTraces()) == 2 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, first.Shutdown(context.Background()))
	assert.Equal(t, map[string]string{"seen": "error", "between": "success"}, outcomes(t, sink))

	for i := range 200 { // more than a page, while no receiver runs
		s.finish(fmt.Sprint("away", i), "execution_interrupted")
	}
	second, again := startWith(t, s.URL, modePoll, kept)
	require.Eventually(t, func() bool { return len(again.AllTraces()) == 200 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, second.Shutdown(context.Background()))
	got := outcomes(t, again)
	assert.NotContains(t, got, "seen")
	assert.Equal(t, "interrupted", got["away0"])
	root := spansOf(t, again.AllTraces()[0])
	assert.Equal(t, true, root[0].Attributes["comfyui.prompt.recovered"])
	assert.EqualValues(t, 1, root[len(root)-1].Attributes["comfyui.outputs.images"])
}

// TestPolledPromptsCannotPromoteThemselves: an advisor of this collector, which other collectors may ask,
// counts them by their workflows unless requests are trusted.
func TestPolledPromptsCannotPromoteThemselves(t *testing.T) {
	const item = `[1, "x", {"2": {"class_type": "DDColor_Colorize", "inputs": {"model_input_size": 1280}}, "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}}}, {"task_class": "people"}, [], {}]`
	for trusts, class := range map[bool]string{false: "buildings", true: "people"} {
		t.Run(fmt.Sprint(trusts), func(t *testing.T) {
			var ended atomic.Bool
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/queue" && !ended.Load():
					_, _ = fmt.Fprintf(w, `{"queue_running": [], "queue_pending": [%s]}`, item)
				case r.URL.Path == "/queue":
					_, _ = io.WriteString(w, `{"queue_running": [], "queue_pending": []}`)
				case strings.HasPrefix(r.URL.Path, "/history") && ended.Load():
					_, _ = fmt.Fprintf(w, `{"x": {"prompt": %s, "outputs": {}, "status": {"status_str": "success", "messages": [["execution_start", {"prompt_id": "x", "timestamp": 1}], ["execution_success", {"prompt_id": "x", "timestamp": 2}]]}}}`, item)
				default:
					_, _ = io.WriteString(w, `{}`)
				}
			}))
			defer s.Close()
			cfg := createDefaultConfig().(*Config)
			cfg.Mode, cfg.Upstream.Endpoint, cfg.Device, cfg.PollInterval = modePoll, s.URL, "", 100*time.Millisecond
			cfg.Admission.TrustRequestClass = trusts
			r := newReceiver(receivertest.NewNopSettings(metadata.Type), cfg)
			sink := new(consumertest.TracesSink)
			r.traces = sink
			require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
			require.Eventually(t, func() bool { return r.following.tracker.OpenCount() == 1 }, 10*time.Second, 5*time.Millisecond)
			listed, _ := r.following.tracker.Queue(1)
			assert.Equal(t, class, listed[0].TaskClass)
			ended.Store(true)
			require.Eventually(t, func() bool { return len(sink.AllTraces()) == 1 }, 10*time.Second, 5*time.Millisecond)
			require.NoError(t, r.Shutdown(context.Background()))
			root := spansOf(t, sink.AllTraces()[0])[0].Attributes
			assert.Equal(t, class, root["comfyui.task_class"])
			if trusts {
				assert.NotContains(t, root, "comfyui.task_class.claimed")
			} else {
				assert.Equal(t, "people", root["comfyui.task_class.claimed"])
			}
		})
	}
}

// Servers since 2025 say when they accepted a prompt: the wait in the queue is known.
func TestPollingKnowsTheWaitInTheQueue(t *testing.T) {
	accepted := time.Now().Add(-time.Minute).Truncate(time.Millisecond)
	var ended atomic.Bool
	item := fmt.Sprintf(`[1, "x", {"1": {"class_type": "A", "inputs": {}}}, {"create_time": %d}, [], {}]`, accepted.UnixMilli())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/queue" && !ended.Load():
			_, _ = fmt.Fprintf(w, `{"queue_running": [], "queue_pending": [%s]}`, item)
		case r.URL.Path == "/queue":
			_, _ = io.WriteString(w, `{"queue_running": [], "queue_pending": []}`)
		case strings.HasPrefix(r.URL.Path, "/history") && ended.Load():
			_, _ = fmt.Fprintf(w, `{"x": {"prompt": %s, "outputs": {}, "status": {"status_str": "success", "messages": [["execution_start", {"prompt_id": "x", "timestamp": %d}], ["execution_success", {"prompt_id": "x", "timestamp": %d}]]}}}`,
				item, accepted.Add(40*time.Second).UnixMilli(), accepted.Add(50*time.Second).UnixMilli())
		default:
			_, _ = io.WriteString(w, `{}`)
		}
	}))
	defer s.Close()
	r, sink := startWith(t, s.URL, modePoll, newMemoryStorage())
	require.Eventually(t, func() bool { return r.following.tracker.OpenCount() == 1 }, 10*time.Second, 5*time.Millisecond)
	ended.Store(true)
	require.Eventually(t, func() bool { return len(sink.AllTraces()) == 1 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, r.Shutdown(context.Background()))
	spans := spansOf(t, sink.AllTraces()[0])
	require.Len(t, spans, 3)
	for i, lasts := range []time.Duration{50 * time.Second, 40 * time.Second, 10 * time.Second} {
		assert.Equal(t, lasts, time.Duration(spans[i].to-spans[i].from), spans[i].Name)
	}
}

func TestPollingExportsNoPromptAgainAfterTheSecondRestart(t *testing.T) {
	s := newHistoryServer(t)
	kept := &memoryStorage{data: map[string][]byte{}}
	s.finish("before", "execution_success")
	first, _ := startWith(t, s.URL, modePoll, kept)
	require.Eventually(t, func() bool { return len(exportedBy(first)) == 1 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, first.Shutdown(context.Background()))
	for _, id := range []string{"second", "third"} {
		s.finish(id, "execution_success")
		again, sink := startWith(t, s.URL, modePoll, kept)
		require.Eventually(t, func() bool { return len(sink.AllTraces()) > 0 }, 10*time.Second, 5*time.Millisecond)
		require.NoError(t, again.Shutdown(context.Background()))
		assert.Equal(t, map[string]string{id: "success"}, outcomes(t, sink))
	}
}

func TestPromptsThatWereOpenWhenTheCollectorWasKilledEndOnceAfterwards(t *testing.T) {
	s := newHistoryServer(t)
	kept := &memoryStorage{data: map[string][]byte{}}
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	kept.data[formerOpenKey] = []byte(fmt.Sprintf(`[{"id": "ended", "received": %q, "trace_id": %q, "span_id": %q},
		{"id": "running", "received": %q, "trace_id": %q, "span_id": %q}, {"id": "gone", "received": %q, "trace_id": %q, "span_id": %q}]`,
		time.Now().Add(-time.Minute).Format(time.RFC3339), trace, "00"+span[2:], time.Now().Add(-time.Minute).Format(time.RFC3339), trace, "01"+span[2:],
		time.Now().Add(-time.Minute).Format(time.RFC3339), trace, "02"+span[2:]))
	s.finish("ended", "execution_success")
	s.run("running")
	first, sink := startWith(t, s.URL, modeProxy, kept)
	require.Eventually(t, func() bool { return len(sink.AllTraces()) == 2 }, 10*time.Second, 5*time.Millisecond)
	s.run()
	s.finish("running", "execution_interrupted")
	require.Eventually(t, func() bool { return len(sink.AllTraces()) == 3 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, first.Shutdown(context.Background()))
	got := outcomes(t, sink)
	assert.Equal(t, "success", got["ended"])
	assert.Equal(t, "interrupted", got["running"])
	assert.Contains(t, []string{"cancelled", "lost"}, got["gone"])
	root := sink.AllTraces()[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
	assert.Equal(t, trace, root.TraceID().String(), "the trace that was begun before the kill")

	second, again := startWith(t, s.URL, modeProxy, kept)
	require.NoError(t, second.Shutdown(context.Background()))
	assert.Empty(t, again.AllTraces(), "once")
}

// Prompts of the history beyond limits::prompts are exported once there is room.
func TestPollingExportsMorePromptsThanAreFollowedAtATime(t *testing.T) {
	s := newHistoryServer(t)
	cfg := createDefaultConfig().(*Config)
	cfg.Mode, cfg.Upstream.Endpoint, cfg.Device, cfg.PollInterval = modePoll, s.URL, "", 100*time.Millisecond
	cfg.Limits.Prompts = 2
	r := newReceiver(receivertest.NewNopSettings(metadata.Type), cfg)
	sink := new(consumertest.TracesSink)
	r.traces = sink
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	// What is in the history when it is read first is from before the first run.
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.reads > 0 }, 10*time.Second, time.Millisecond)
	s.run("a", "b") // use up the limit
	require.Eventually(t, func() bool { return r.following.tracker.OpenCount() == 2 }, 10*time.Second, time.Millisecond)
	for i := range 5 {
		s.finish(fmt.Sprint("short", i), "execution_success")
	}
	s.run()
	s.finish("a", "execution_success")
	s.finish("b", "execution_success")
	require.Eventually(t, func() bool { return len(sink.AllTraces()) == 7 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, r.Shutdown(context.Background()))
}

// Servers that do not say when they accepted a prompt: its trace is the same in each process.
func TestAPromptThatIsPolledTwiceHasTheSameTrace(t *testing.T) {
	s := newHistoryServer(t)
	kept := newMemoryStorage()
	first, sink := startWith(t, s.URL, modePoll, kept)
	require.Eventually(t, func() bool { kept.mu.Lock(); defer kept.mu.Unlock(); return kept.data[placeKey] != nil }, 10*time.Second, time.Millisecond)
	before := kept.snapshot()
	s.run("x")
	require.Eventually(t, func() bool { return first.following.tracker.OpenCount() == 1 }, 10*time.Second, time.Millisecond)
	s.mu.Lock()
	fixed, err := json.Marshal(entry("x", "execution_success"))
	require.NoError(t, err)
	s.mu.Unlock()
	s.fix("x", fixed)
	s.run()
	require.Eventually(t, func() bool { return len(sink.AllTraces()) == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, first.Shutdown(context.Background()))
	second, again := startWith(t, s.URL, modePoll, before) // a kill came before the id was stored
	require.Eventually(t, func() bool { return len(again.AllTraces()) == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, second.Shutdown(context.Background()))
	assert.Equal(t, rootOf(sink.AllTraces()[0]).SpanID(), rootOf(again.AllTraces()[0]).SpanID())
	assert.Equal(t, rootOf(sink.AllTraces()[0]).TraceID(), rootOf(again.AllTraces()[0]).TraceID())
}
