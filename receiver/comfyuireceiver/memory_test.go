// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// watched is a memoryWatcher that is stepped by a test, with a clock that stands still
// meanwhile, and the server that it asks.
type watched struct {
	*memoryWatcher
	rig *rig

	mu      sync.Mutex
	clock   time.Time
	lasts   time.Duration // how long an answer takes
	silent  bool
	kind    string          // of the device; empty: cuda
	asked   []time.Duration // after the start
	active  int
	logs    int         // how often its log was asked for
	hangs   atomic.Bool // it does not answer for its log
	running atomic.Int64
}

func (w *watched) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/system_stats":
		w.mu.Lock()
		w.asked = append(w.asked, w.clock.Sub(begin))
		w.clock = w.clock.Add(w.lasts)
		active, silent, kind := w.active, w.silent, cmp.Or(w.kind, "cuda")
		w.mu.Unlock()
		if silent {
			<-r.Context().Done()
			return
		}
		_, _ = fmt.Fprintf(rw, `{"system":{"comfyui_version":"0.3.64"},"devices":[{"name":"0","type":%q,"index":0,"vram_total":8000,"vram_free":5000,"torch_vram_total":%d,"torch_vram_free":100}]}`, kind, active+100)
	case "/prompt", "/queue":
		_, _ = rw.Write([]byte(`{"queue_running":[],"queue_pending":[],"exec_info":{"queue_remaining":0}}`))
	case "/internal/logs/raw":
		w.set(func() { w.logs++ })
		if w.hangs.Load() {
			<-r.Context().Done()
			return
		}
		rw.WriteHeader(http.StatusNotFound)
	case "/history":
		_, _ = rw.Write([]byte(`{}`))
	default:
		rw.WriteHeader(http.StatusNotFound)
	}
}

var begin = time.Unix(1_700_000_000, 0)

func (w *watched) time() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *watched) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func newWatched(t *testing.T, interval time.Duration) *watched {
	t.Helper()
	w := &watched{clock: begin, lasts: 2 * time.Millisecond, active: 1000}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.rig = newRig(t, server.URL, nil)
	w.memoryWatcher = newMemoryWatcher(interval, w.rig.following.server, w.rig.following, w.rig.device, w.rig.export)
	w.now, w.open = w.time, w
	return w
}

// OpenCount implements [openPrompts].
func (w *watched) OpenCount() int { return int(w.running.Load()) }

// until steps until a time after the start, and returns when the server was asked meanwhile.
func (w *watched) until(after time.Duration) (asked []time.Duration) {
	w.set(func() { w.asked = nil })
	for {
		wait := w.step(context.Background())
		if w.time().Add(wait).Sub(begin) >= after {
			w.set(func() { w.clock, asked = begin.Add(after), w.asked })
			return asked
		}
		w.set(func() { w.clock = w.clock.Add(wait) })
	}
}

// answered is how many of the questions were answered before a time after the start.
func (w *watched) answered(asked []time.Duration, before time.Duration) (n int) {
	for _, at := range asked {
		if at+w.lasts < before {
			n++
		}
	}
	return n
}

// run is a prompt that ran since a time after the start.
func (w *watched) run(id byte, since time.Duration) *prompt.Prompt {
	w.running.Add(1)
	from := begin.Add(since)
	return &prompt.Prompt{
		Request: promptRequest(), ID: string(id), Received: from, Answered: from, Started: from, Outcome: prompt.Success,
		Context: trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{id}, SpanID: trace.SpanID{id}}),
	}
}

func (w *watched) end(p *prompt.Prompt) bool {
	p.Ended = w.time()
	w.running.Add(-1)
	return w.ended(p)
}

// execution is the span of the only execution whose trace was exported.
func (w *watched) execution(t *testing.T) span {
	t.Helper()
	require.Eventually(t, func() bool { return len(w.rig.byPrompt()) == 1 }, 10*time.Second, time.Millisecond)
	for _, s := range spansOf(t, w.rig.byPrompt()[0]) {
		if s.Name == "comfyui.execution" {
			return s
		}
	}
	require.Fail(t, "no span of an execution")
	return span{}
}

func TestServerIsAskedForItsMemoryWhileAPromptRunsAndOnceAfterwards(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	assert.Equal(t, []time.Duration{0}, w.until(time.Hour), "once after the collector's start")
	p := w.run('a', time.Hour)
	asked := w.until(time.Hour + 1700*time.Millisecond)
	require.GreaterOrEqual(t, len(asked), 3)
	assert.LessOrEqual(t, len(asked), 5)
	before := time.Hour
	for i, at := range asked {
		least, most := 375*time.Millisecond, 640*time.Millisecond
		if i == 0 {
			least, most = 0, 500*time.Millisecond
		}
		assert.GreaterOrEqual(t, at-before, least)
		assert.LessOrEqual(t, at-before, most)
		before = at
	}
	require.True(t, w.end(p))
	assert.Empty(t, w.rig.byPrompt(), "the trace waits for the answer after its end")
	assert.Len(t, w.until(2*time.Hour), 1, "once after its end, and never else")
	assert.EqualValues(t, w.answered(asked, time.Hour+1700*time.Millisecond), w.execution(t).Attributes["comfyui.memory.samples"])
}

func TestPromptOfAQueueIsNotFollowedByAQuestionOfItsOwn(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.until(time.Minute)
	first := w.run('a', time.Minute)
	seen := w.answered(w.until(time.Minute+1100*time.Millisecond), time.Minute+1100*time.Millisecond)
	w.end(first)
	w.run('b', time.Minute+1100*time.Millisecond)
	asked := w.until(time.Minute + 1800*time.Millisecond)
	require.NotEmpty(t, asked)
	assert.LessOrEqual(t, len(asked), 2, "the next prompt's question answers for both")
	assert.EqualValues(t, seen, w.execution(t).Attributes["comfyui.memory.samples"])
}

func TestSpanShowsWhatWasNeededAndWhatWasReserved(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.until(time.Minute)
	p := w.run('a', time.Minute)
	seen := len(w.until(time.Minute + 1200*time.Millisecond))
	w.set(func() { w.active = 4000 })
	seen += len(w.until(time.Minute + 1900*time.Millisecond))
	w.set(func() { w.active = 2000 })
	seen += w.answered(w.until(time.Minute+2600*time.Millisecond), time.Minute+2600*time.Millisecond)
	w.set(func() { w.active = 4500 })
	w.end(p)
	w.until(2 * time.Minute)
	a := w.execution(t).Attributes
	got := map[string]any{}
	for _, key := range []string{"active.peak", "active.start", "active.rise", "reserved.peak", "samples", "need", "need.executions"} {
		got[key] = a["comfyui.memory."+key]
	}
	assert.Equal(t, map[string]any{
		"active.peak": int64(4000), "active.start": int64(1000), "active.rise": int64(3000), "reserved.peak": int64(4600),
		"samples": int64(seen), "need": int64(4000), "need.executions": int64(1),
	}, got)
	assert.NotContains(t, a, "comfyui.memory.reserved.growth", "the reserve shrank meanwhile")
	assert.InDelta(t, 0.5, a["comfyui.memory.gap"], 0.14)
}

func TestSlowAnswersHalveTheRateAndTakeAFiftiethOfTheTime(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.set(func() { w.lasts = 300 * time.Millisecond })
	w.run('a', 0)
	asked := w.until(10 * time.Minute)
	assert.InDelta(t, 600*0.02/0.3, len(asked), 6)
	counts := counted(t, w.rig.telemetry, "memory.requests")
	assert.EqualValues(t, len(asked), counts[memoryAnswered])
	assert.Positive(t, counts[memorySkipped])
	w.set(func() { w.lasts = time.Millisecond })
	w.until(20 * time.Minute)
	assert.InDelta(t, 200, len(w.until(20*time.Minute+100*time.Second)), 6, "twice a second again")
}

func TestServerThatDoesNotAnswerIsAskedLessAndIsNotDown(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.until(time.Minute)
	p := w.run('a', time.Minute)
	seen := w.answered(w.until(time.Minute+1100*time.Millisecond), time.Minute+1100*time.Millisecond)
	w.set(func() { w.silent = true })
	w.end(p)
	w.set(func() { w.clock = w.clock.Add(minQuestions) })
	w.step(context.Background()) // the question goes unanswered for a second
	assert.EqualValues(t, 1, counted(t, w.rig.telemetry, "memory.requests")[memoryLate])
	assert.Equal(t, time.Second, w.pace.Interval())
	assert.EqualValues(t, seen, w.execution(t).Attributes["comfyui.memory.samples"], "the trace waits no longer")
	m, err := w.rig.scrape(context.Background())
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"map[]": 1}, values(m, "comfyui.up"))
}

func TestServerWithoutAGPUIsAskedOnce(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.set(func() { w.kind = "cpu" })
	assert.Len(t, w.until(time.Hour), 1)
	p := w.run('a', time.Hour)
	assert.Empty(t, w.until(time.Hour+5*time.Second), "a processor's memory is the host's")
	assert.False(t, w.end(p), "its trace waits for nothing")
	w.set(func() { w.kind = "" })
	w.restarted()
	assert.Len(t, w.until(2*time.Hour), 1, "it may have one now")
	p = w.run('b', 2*time.Hour)
	assert.NotEmpty(t, w.until(2*time.Hour+5*time.Second))
	assert.True(t, w.end(p))
}

func TestShutdownWaitsForNoAnswer(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	p := w.run('a', 0)
	w.until(600 * time.Millisecond)
	w.end(p)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	w.memoryWatcher.run(ctx)
	w.execution(t)
	late := w.run('b', time.Second)
	assert.False(t, w.end(late), "it exports nothing any more")
}

func TestRestartedServerForgetsWhatTheFormerNeeded(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.until(time.Minute)
	w.set(func() { w.active = 7000 })
	p := w.run('a', time.Minute)
	w.until(time.Minute + 600*time.Millisecond)
	w.set(func() { w.active = 10 })
	w.restarted()
	w.until(time.Minute + 1600*time.Millisecond)
	w.end(p)
	w.until(2 * time.Minute)
	assert.EqualValues(t, 10, w.execution(t).Attributes["comfyui.memory.active.peak"])
}

func TestGaugesRepeatTheLastAnswer(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.rig.following.memory = w.memoryWatcher
	w.until(time.Minute)
	for range 3 {
		m, err := w.rig.scrape(context.Background())
		require.NoError(t, err)
		for name, want := range map[string]float64{
			"comfyui.device.memory.limit": 8000, "comfyui.device.memory.free": 5000, "comfyui.torch.memory.limit": 1100, "comfyui.torch.memory.free": 100,
			"comfyui.memory.active": 1000, "comfyui.memory.headroom": 5000,
		} {
			for _, v := range values(m, name) {
				assert.InDelta(t, want, v, 0, name)
			}
			assert.Len(t, values(m, name), 1, name)
		}
		for _, name := range []string{"comfyui.memory.outside", "comfyui.memory.context", "comfyui.memory.elastic", "comfyui.memory.need"} {
			assert.Empty(t, values(m, name), name)
		}
	}
	assert.Empty(t, w.until(time.Hour), "a scrape asks nothing")
	for i := range memory.MinLearned {
		p := w.run(byte('a'+i), time.Hour+time.Duration(i)*time.Second)
		w.until(time.Hour + time.Duration(i)*time.Second + 700*time.Millisecond)
		w.end(p)
		w.until(time.Hour + time.Duration(i+1)*time.Second)
		m, err := w.rig.scrape(context.Background())
		require.NoError(t, err)
		assert.Len(t, values(m, "comfyui.memory.need"), max(i+2-memory.MinLearned, 0), "of fewer than three executions nothing is learned")
	}
}

// allocating is a GPU's work whose memory is larger while it works.
type allocating struct {
	fakecomfyui.Work
	working atomic.Bool
}

func (a *allocating) Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error {
	a.working.Store(true)
	defer a.working.Store(false)
	return a.Work.Colorize(ctx, side, checkpoint, step)
}

func (a *allocating) Memory() fakecomfyui.Memory {
	if a.working.Load() {
		return fakecomfyui.Memory{Total: 8 << 30, Free: 1 << 30, TorchTotal: 7 << 30, TorchFree: 1 << 30}
	}
	return fakecomfyui.Memory{Total: 8 << 30, Free: 7 << 30, TorchTotal: 1 << 30, TorchFree: 0}
}

// TestMemoryThroughTheProxy runs a prompt of 900 ms through the receiver.
func TestMemoryThroughTheProxy(t *testing.T) {
	work := &allocating{Work: fakecomfyui.NewTimedWork()}
	fake := fakecomfyui.NewServer(work)
	server := httptest.NewServer(fake)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.CloseClientConnections(); server.Close() })
	r := newRig(t, server.URL, func(c *Config) { c.Memory.Interval = 200 * time.Millisecond })
	upload(t, r.base)
	photo(t, r.base, "c", 1088)
	require.Eventually(t, func() bool { return len(r.byPrompt()) == 1 }, 20*time.Second, time.Millisecond)
	for _, s := range spansOf(t, r.byPrompt()[0]) {
		if s.Name != "comfyui.execution" {
			continue
		}
		assert.EqualValues(t, 6<<30, s.Attributes["comfyui.memory.active.peak"])
		assert.EqualValues(t, 7<<30, s.Attributes["comfyui.memory.reserved.peak"])
		return
	}
	assert.Fail(t, "no span of an execution")
}
