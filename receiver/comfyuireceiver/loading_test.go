// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/loading"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

const (
	loads  = 500 * time.Millisecond
	works  = 150 * time.Millisecond
	weighs = 2 << 30
)

// loader is a GPU's work that loads a model before it is first used. DDColor's node sends no
// step, the sampler does.
type loader struct {
	fakecomfyui.Work
	loaded atomic.Pointer[string]
	stalls atomic.Bool // before the first step, without loading
}

func (l *loader) load(ctx context.Context, model string) {
	if at := l.loaded.Load(); at == nil || *at != model {
		l.loaded.Store(&model) // its memory grows first
		select {
		case <-time.After(loads):
		case <-ctx.Done():
		}
	}
}

func (l *loader) Colorize(ctx context.Context, _ int, checkpoint string, _ func(done, all int) error) error {
	l.load(ctx, checkpoint)
	select {
	case <-time.After(works):
	case <-ctx.Done():
	}
	return ctx.Err()
}

func (l *loader) Sample(ctx context.Context, checkpoint string, _, _, steps int, step func(done, all int) error) error {
	l.load(ctx, checkpoint)
	if l.stalls.Load() {
		select {
		case <-time.After(loads):
		case <-ctx.Done():
		}
	}
	for i := range steps {
		select {
		case <-time.After(works):
		case <-ctx.Done():
		}
		if err := step(i+1, steps); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) Decode(context.Context, string, int, int) error { return nil }
func (l *loader) Free()                                          { l.loaded.Store(nil) }

func (l *loader) Memory() fakecomfyui.Memory {
	m := fakecomfyui.Memory{Total: 8 << 30, Free: 7 << 30, TorchTotal: 1 << 30, TorchFree: 0}
	if l.loaded.Load() != nil {
		m.Free, m.TorchTotal = m.Free-weighs, m.TorchTotal+weighs
	}
	return m
}

// loadingRig is a receiver in front of a server that loads models.
func loadingRig(t *testing.T, change func(*Config)) (*rig, *loader) {
	t.Helper()
	work := &loader{Work: fakecomfyui.NewTimedWork()}
	fake := fakecomfyui.NewServer(work)
	server := httptest.NewServer(fake)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.CloseClientConnections(); server.Close() })
	r := newRig(t, server.URL, func(c *Config) {
		c.OwnSockets = ownAlways
		if change != nil {
			change(c)
		}
	})
	upload(t, r.base)
	return r, work
}

// loadingOf waits for the trace of the n-th prompt, and returns the loading times of its
// spans. On a busy machine they may be longer than what the work waits: they are less than
// their spans, by what else these do. Of a loader's, the whole is loading.
func loadingOf(t *testing.T, r *rig, n int) (times map[string]float64, estimated bool) {
	t.Helper()
	require.Eventually(t, func() bool { return len(r.byPrompt()) == n }, 20*time.Second, time.Millisecond)
	times = map[string]float64{}
	for _, s := range spansOf(t, r.byPrompt()[n-1]) {
		if v, ok := s.Attributes["comfyui.loading.duration"]; ok && !strings.Contains(s.Name, "Loader") {
			assert.Less(t, v, time.Duration(s.to-s.from).Seconds()-0.5*works.Seconds(), s.Name)
		}
		if v, ok := s.Attributes["comfyui.loading.duration"]; ok {
			times[s.Name] = v.(float64)
			estimated = estimated || s.Attributes["comfyui.loading.estimated"] == true
		}
	}
	return times, estimated
}

func loadingTotals(t *testing.T, r *rig) map[string]float64 {
	t.Helper()
	m, err := r.scrape(context.Background())
	require.NoError(t, err)
	totals := map[string]float64{}
	for _, metric := range m.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if metric.Name() == "comfyui.loading.time" {
			for _, p := range metric.Sum().DataPoints().All() {
				model, _ := p.Attributes().Get("comfyui.model")
				totals[model.Str()] = p.DoubleValue()
			}
		}
	}
	return totals
}

func TestLoadingOfANodeWithoutStepsIsEstimatedFromColdExecutions(t *testing.T) {
	r, work := loadingRig(t, nil)
	n := 0
	colour := func() (map[string]float64, bool) {
		n++
		photo(t, r.base, "c", 480+n) // one size class
		return loadingOf(t, r, n)
	}
	n++
	photo(t, r.base, "c", 480)
	assert.Equal(t, map[string]float64{"ddcolor_paper.pth": 0}, loadingTotals(t, r), "initialised to 0 while the first one runs")
	loadingOf(t, r, n)
	for range 3 { // warm ones
		times, _ := colour()
		assert.Empty(t, times, "nothing is known to compare with, or nothing was loaded")
	}
	assert.Equal(t, map[string]float64{"ddcolor_paper.pth": 0}, loadingTotals(t, r))
	response, err := http.Post(r.base+"/free", "application/json", strings.NewReader(`{"unload_models": true, "free_memory": true}`))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	times, estimated := colour()
	assert.True(t, estimated)
	require.Contains(t, times, "comfyui.node DDColor_Colorize #2")
	assert.Greater(t, times["comfyui.node DDColor_Colorize #2"], 0.6*loads.Seconds())
	assert.InDelta(t, times["comfyui.node DDColor_Colorize #2"], times["comfyui.execution"], 1e-9)
	assert.InDelta(t, times["comfyui.execution"], loadingTotals(t, r)["ddcolor_paper.pth"], 1e-9)
	times, _ = colour()
	assert.Empty(t, times, "it is loaded")
	r.following.restarted()
	times, _ = colour()
	assert.Less(t, times["comfyui.execution"], 0.6*loads.Seconds(), "a restart that kept the models took no longer")
	work.Free()
	r.following.restarted()
	times, estimated = colour()
	assert.True(t, estimated)
	assert.Greater(t, times["comfyui.execution"], 0.6*loads.Seconds(), "and one that did not, as long as /free")
}

// TestLoadingBeforeTheFirstStep asks for images of two steps.
func TestLoadingBeforeTheFirstStep(t *testing.T) {
	r, work := loadingRig(t, func(c *Config) { c.Memory.Interval, c.OwnSockets = minMemoryInterval, ownNever })
	image := func(seed int) {
		body := fmt.Sprintf(`{"client_id": "c", "prompt": {
			"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
			"2": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["1", 1]}},
			"4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
			"5": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["4", 0],
				"seed": %d, "steps": 3, "cfg": 7, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}},
			"6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
			"7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "x"}}}}`, seed)
		response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(body))
		require.NoError(t, err)
		raw, err := io.ReadAll(response.Body)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode, string(raw))
	}
	require.Eventually(t, func() bool { // the answer after the start
		r.following.memory.mu.Lock()
		defer r.following.memory.mu.Unlock()
		return r.following.memory.history.Has(time.Time{})
	}, 10*time.Second, time.Millisecond)
	// The start of the first node is only seen by a socket that is open before.
	conn, response, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(r.base, "http")+"/ws?clientId=c", nil)
	require.NoError(t, err)
	if response.Body != nil {
		_ = response.Body.Close()
	}
	conn.SetReadLimit(-1)
	_, greeting, err := conn.Read(t.Context())
	require.NoError(t, err)
	require.Contains(t, string(greeting), `"sid"`)
	var reading sync.WaitGroup
	defer reading.Wait()
	defer func() { _ = conn.CloseNow() }()
	reading.Go(func() {
		for err := error(nil); err == nil; {
			_, _, err = conn.Read(t.Context())
		}
	})
	image(1)
	times, estimated := loadingOf(t, r, 1)
	assert.False(t, estimated)
	assert.Greater(t, times["comfyui.node KSampler #5"], 0.8*loads.Seconds(), "and less than the node without its steps")
	assert.InDelta(t, times["comfyui.node KSampler #5"], times["comfyui.execution"], 0.02, "the loader of the fake server takes no time")
	assert.InDelta(t, times["comfyui.execution"], loadingTotals(t, r)["sd_xl_base_1.0.safetensors"], 1e-9)
	work.stalls.Store(true)
	image(2)
	times, _ = loadingOf(t, r, 2)
	assert.NotContains(t, times, "comfyui.node KSampler #5", "the memory did not grow")
	assert.Empty(t, firstStepsOf(t, r, 2), "and the server had worked before")
	r.following.loading.restarted(time.Now())
	image(3)
	loadingOf(t, r, 3)
	prepared := firstStepsOf(t, r, 3)
	assert.Greater(t, prepared["comfyui.node KSampler #5"], 0.8*loads.Seconds(), "the first execution of a server that was started")
	assert.InDelta(t, prepared["comfyui.node KSampler #5"], prepared["comfyui.execution"], 1e-9)
	image(4)
	loadingOf(t, r, 4)
	assert.Empty(t, firstStepsOf(t, r, 4))
}

// firstStepsOf are for how long the spans of the n-th prompt prepared their first steps.
func firstStepsOf(t *testing.T, r *rig, n int) map[string]float64 {
	t.Helper()
	times := map[string]float64{}
	for _, s := range spansOf(t, r.byPrompt()[n-1]) {
		if v, ok := s.Attributes["comfyui.first_steps.duration"]; ok {
			times[s.Name] = v.(float64)
		}
	}
	return times
}

// TestAnotherProcessHasNoModelLoaded: a server that is polled may restart between two polls.
func TestAnotherProcessHasNoModelLoaded(t *testing.T) {
	w := newWatched(t, time.Second)
	executed := func(lasts time.Duration) loading.Loaded {
		p := w.run('a', 0)
		p.Submission.Nodes = []protocol.Node{{ID: "1", Class: "X"}}
		p.Started = w.time()
		p.Ended = p.Started.Add(lasts)
		w.loading.ended(p)
		return p.Loading
	}
	is := func(p memory.Process) {
		w.memoryWatcher.mu.Lock()
		defer w.memoryWatcher.mu.Unlock()
		w.is(p)
	}
	is(memory.Process{PID: 1, Started: 5})
	for range 5 {
		assert.Zero(t, executed(time.Second))
	}
	is(memory.Process{PID: 1, Started: 5})
	assert.Zero(t, executed(3*time.Second), "the same process")
	is(memory.Process{PID: 1, Started: 9})
	assert.Equal(t, loading.Loaded{Time: 2 * time.Second, Estimated: true}, executed(3*time.Second))
}

func TestLoadersLoadAndAPINodesDoNot(t *testing.T) {
	r := newRig(t, "http://127.0.0.1:1", nil)
	l := r.following.loading
	l.classes.learned("RemoteLoader", true)
	begin := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	p := &prompt.Prompt{
		Request: prompt.Request{Submission: protocol.Submission{Nodes: []protocol.Node{
			{ID: "1", Class: "CheckpointLoaderSimple"}, {ID: "2", Class: "VAELoader"}, {ID: "3", Class: "RemoteLoader"}, {ID: "4", Class: "LoadImage"},
		}}},
		Context: trace.SpanContext{}, Started: at(0), Ended: at(10), Outcome: prompt.Success,
		Nodes: []*prompt.Node{
			{ID: "1", Start: at(0), End: at(2)},
			{ID: "2", Start: at(2), End: at(2.5)},
			{ID: "3", Start: at(3), End: at(4)},
			{ID: "4", Start: at(4), End: at(10)},
		},
	}
	l.ended(p)
	assert.Equal(t, loading.Loaded{Time: 2500 * time.Millisecond}, p.Loading)
	assert.Equal(t, 2*time.Second, p.Nodes[0].Loading.Time)
	assert.Equal(t, 500*time.Millisecond, p.Nodes[1].Loading.Time)
	assert.Zero(t, p.Nodes[2].Loading)
	assert.Zero(t, p.Nodes[3].Loading)
	l.grew(p, &memory.History{})
	assert.Equal(t, 2500*time.Millisecond, p.Loading.Time, "no node has steps")
	saved := p.Save()
	assert.Equal(t, p.Loading, saved.Prompt().Loading, "it survives a kill")
	assert.Equal(t, p.Nodes[0].Loading, saved.Prompt().Nodes[0].Loading)

	both := &prompt.Prompt{Request: p.Request, Started: at(0), Ended: at(2), Outcome: prompt.Success, Nodes: []*prompt.Node{
		{ID: "1", Start: at(0), End: at(2)}, {ID: "2", Start: at(0), End: at(2)},
	}}
	l.ended(both)
	assert.Equal(t, 2*time.Second, both.Loading.Time, "not more than the execution")
}

// TestPromptsWithoutNodesAreComparedAsAWhole: they are polled.
func TestPromptsWithoutNodesAreComparedAsAWhole(t *testing.T) {
	r := newRig(t, "http://127.0.0.1:1", nil)
	begin := time.Unix(1000, 0)
	run := func(second int, lasts time.Duration, outcome prompt.Outcome, cached ...string) *prompt.Prompt {
		from := begin.Add(time.Duration(second) * time.Second)
		p := &prompt.Prompt{
			Request: prompt.Request{Submission: protocol.Submission{Nodes: []protocol.Node{{ID: "1", Class: "X"}}}},
			Started: from, Ended: from.Add(lasts), Outcome: outcome, Cached: cached,
		}
		r.following.loading.ended(p)
		return p
	}
	for i := range 5 {
		assert.Zero(t, run(10*i, time.Second, prompt.Success).Loading)
	}
	for i := range 5 {
		run(100+10*i, time.Millisecond, prompt.Success, "1") // all of it cached: it says nothing
	}
	assert.Zero(t, run(200, 9*time.Second, prompt.Error).Loading)
	assert.Equal(t, loading.Loaded{Time: 3 * time.Second, Estimated: true}, run(300, 4*time.Second, prompt.Success).Loading, "ComfyUI unloads after failures")
	assert.Zero(t, run(400, 4*time.Second, prompt.Success).Loading)
}
