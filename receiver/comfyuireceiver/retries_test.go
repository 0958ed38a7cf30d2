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
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
)

// narrow is a GPU on which no image can be decoded at once.
type narrow struct{ fakecomfyui.Work }

const (
	failsAfter = 100 * time.Millisecond
	tileLasts  = 40 * time.Millisecond
	tilesOf    = 5
)

func (narrow) Decode(context.Context, string, int, int) error {
	time.Sleep(failsAfter) // the work
	return fakecomfyui.OutOfMemory(3<<30, 8<<30)
}

func (narrow) DecodeTiled(_ context.Context, _ string, _, _ int, step func(done, all int) error) error {
	for i := range tilesOf {
		time.Sleep(tileLasts)
		if err := step(i+1, tilesOf); err != nil {
			return err
		}
	}
	return nil
}

// retryRig is a receiver in front of a server on a narrow GPU; requests are counted by path.
func retryRig(t *testing.T, version fakecomfyui.Version, change func(*Config)) (r *rig, asked func(path string) int) {
	t.Helper()
	fake := fakecomfyui.NewServerWith(narrow{fakecomfyui.NewTimedWork()}, fakecomfyui.Options{
		Version: version,
		Now:     func() time.Time { return time.Now().In(time.FixedZone("CST", 8*60*60)) },
	})
	var mu sync.Mutex
	count := map[string]int{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		count[r.URL.Path]++
		mu.Unlock()
		fake.ServeHTTP(w, r)
	}))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.CloseClientConnections(); server.Close() })
	r = newRig(t, server.URL, func(c *Config) {
		c.OwnSockets, c.Memory.Interval = ownAlways, 500*time.Millisecond
		if change != nil {
			change(c)
		}
	})
	return r, func(path string) int {
		mu.Lock()
		defer mu.Unlock()
		return count[path]
	}
}

// generate has an image generated, and returns the attributes of the spans by name.
func generate(t *testing.T, r *rig, seed int) map[string]span {
	t.Helper()
	body := fmt.Sprintf(`{"client_id": "c", "prompt": {
		"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd_xl_base_1.0.safetensors"}},
		"2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a lighthouse", "clip": ["1", 1]}},
		"4": {"class_type": "EmptyLatentImage", "inputs": {"width": 512, "height": 512, "batch_size": 1}},
		"5": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0],
			"latent_image": ["4", 0], "seed": %d, "steps": 2, "cfg": 7.5, "sampler_name": "euler", "scheduler": "normal", "denoise": 1}},
		"6": {"class_type": "VAEDecode", "inputs": {"samples": ["5", 0], "vae": ["1", 2]}},
		"7": {"class_type": "SaveImage", "inputs": {"images": ["6", 0], "filename_prefix": "image"}}}}`, seed)
	before := len(r.byPrompt())
	response, err := http.Post(r.base+"/prompt", "application/json", strings.NewReader(body))
	require.NoError(t, err)
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode, string(text))
	require.Eventually(t, func() bool { return len(r.byPrompt()) == before+1 }, 20*time.Second, time.Millisecond)
	spans := map[string]span{}
	for _, s := range spansOf(t, r.byPrompt()[before]) {
		spans[s.Name] = s
	}
	return spans
}

// TestWorkThatRanOutOfMemoryAndWasTriedAgainIsOnTheSpans: ComfyUI only writes it to its log, with
// times of its own zone.
func TestWorkThatRanOutOfMemoryAndWasTriedAgainIsOnTheSpans(t *testing.T) {
	for _, version := range fakecomfyui.Versions {
		t.Run(string(version), func(t *testing.T) {
			r, asked := retryRig(t, version, nil)
			generate(t, r, 1)
			spans := generate(t, r, 2) // the socket is open
			decoder := spans["comfyui.node VAEDecode #6"]
			a := decoder.Attributes
			require.Contains(t, a, "comfyui.oom_retry.duration")
			again, whole := a["comfyui.oom_retry.duration"].(float64), time.Duration(decoder.to-decoder.from).Seconds()
			assert.Equal(t, int64(1), a["comfyui.oom_retry.count"])
			assert.GreaterOrEqual(t, again, (tilesOf*tileLasts).Seconds()-0.01, "all tiles")
			assert.LessOrEqual(t, again, whole-failsAfter.Seconds()+0.01, "and not the try that failed")
			assert.NotContains(t, a, "comfyui.loading.duration", "the time before the first tile was no loading")
			execution := spans["comfyui.execution"].Attributes
			assert.InDelta(t, again, execution["comfyui.oom_retry.duration"], 1e-9)
			assert.Equal(t, int64(1), execution["comfyui.oom_retry.count"])
			assert.NotContains(t, spans["comfyui.node KSampler #5"].Attributes, "comfyui.oom_retry.count")
			assert.LessOrEqual(t, asked("/internal/logs/raw"), 4, "after prompts, not with every question: once, or twice where an answer is late")
		})
	}
}

func TestLogIsNotReadWithoutRetries(t *testing.T) {
	r, asked := retryRig(t, fakecomfyui.Newer, func(c *Config) { c.Memory.Retries = false })
	generate(t, r, 1)
	spans := generate(t, r, 2)
	assert.NotContains(t, spans["comfyui.execution"].Attributes, "comfyui.oom_retry.count")
	assert.Zero(t, asked("/internal/logs/raw"))
}

// TestServerThatDoesNotShowItsLogIsAskedOnce: the log is a route of the page's own.
func TestServerThatDoesNotShowItsLogIsAskedOnce(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.retriesOn = true
	w.until(time.Minute)
	for i := range 3 {
		p := w.run('a'+byte(i), time.Duration(i+1)*time.Minute)
		w.until(time.Duration(i+1)*time.Minute + 2*time.Second)
		w.end(p)
		w.until(time.Duration(i+1)*time.Minute + 10*time.Second)
	}
	logs := func() int {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.logs
	}
	assert.Equal(t, 1, logs())
	w.restarted()
	p := w.run('d', time.Hour)
	w.until(time.Hour + 2*time.Second)
	w.end(p)
	w.until(2 * time.Hour)
	assert.Equal(t, 2, logs(), "another version may show it")
}

// TestLogThatDoesNotComeCostsNoAnswer: the memory is known, and the log is not asked for again.
func TestLogThatDoesNotComeCostsNoAnswer(t *testing.T) {
	w := newWatched(t, 500*time.Millisecond)
	w.retriesOn = true
	w.hangs.Store(true)
	w.until(time.Minute)
	p := w.run('a', time.Minute)
	seen := len(w.until(time.Minute + 1200*time.Millisecond))
	w.end(p)
	w.until(2 * time.Minute)
	a := w.execution(t).Attributes
	assert.EqualValues(t, seen, a["comfyui.memory.samples"])
	assert.EqualValues(t, 1000, a["comfyui.memory.active.peak"])
	second := w.run('b', 2*time.Minute)
	w.until(2*time.Minute + 2*time.Second)
	w.end(second)
	w.until(3 * time.Minute)
	w.mu.Lock()
	defer w.mu.Unlock()
	assert.Equal(t, 1, w.logs)
	assert.Zero(t, counted(t, w.rig.telemetry, "memory.requests")["late"])
}
