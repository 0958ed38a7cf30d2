// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package comfyuireceiver

import (
	"context"
	"net/http/httptest"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
)

const (
	elasticContext = 700 << 20
	elasticTorch   = 1 << 30
	elasticWeights = 12 << 30
)

// dynamic is a GPU's work of which Dynamic VRAM holds weights.
type dynamic struct {
	fakecomfyui.Work
	weights atomic.Int64
	// working, if it is not nil, is closed when a photo may end.
	working chan struct{}
	// restless has the allocator reserve another amount for each question.
	restless atomic.Bool
	asked    atomic.Int64
}

func (d *dynamic) Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error {
	if d.working != nil {
		select {
		case <-d.working:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return d.Work.Colorize(ctx, side, checkpoint, step)
}

func (d *dynamic) Memory() fakecomfyui.Memory {
	if d.restless.Load() {
		less := d.asked.Add(1) % 7 * 100 << 20
		return fakecomfyui.Memory{Total: 16 << 30, Free: 16<<30 - elasticContext - elasticTorch + less - d.weights.Load(), TorchTotal: elasticTorch - less}
	}
	return fakecomfyui.Memory{Total: 16 << 30, Free: 16<<30 - elasticContext - elasticTorch - d.weights.Load(), TorchTotal: elasticTorch}
}

// elasticRig is a receiver in front of a server of which this process is the GPU's.
type elasticRig struct {
	*rig
	work *dynamic
	gpu  *fakenvml.GPU
}

// holds has the server hold weights, and NVML list them next time.
func (r *elasticRig) holds(weights int64) {
	r.work.weights.Store(weights)
	r.gpu.SetProcesses(fakenvml.Process{PID: os.Getpid(), Memory: elasticContext + elasticTorch + weights})
}

// points are those of a scrape, right after NVML's.
func (r *elasticRig) points(list bool) (all []pmetric.NumberDataPoint) {
	r.t.Helper()
	if list {
		r.device.readProcesses(r.t.Context())
	}
	m, err := r.scrape(r.t.Context())
	require.NoError(r.t, err)
	for _, metric := range m.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if metric.Name() == "comfyui.memory.elastic" {
			for _, p := range metric.Gauge().DataPoints().All() {
				all = append(all, p)
			}
		}
	}
	return all
}

func (r *elasticRig) elastic(list bool) float64 {
	r.t.Helper()
	points := r.points(list)
	require.Len(r.t, points, 1)
	require.False(r.t, points[0].Flags().NoRecordedValue())
	id, _ := points[0].Attributes().Get("hw.id")
	require.Equal(r.t, r.gpu.UUID(), id.Str())
	return points[0].DoubleValue()
}

// outside is what the receiver saw last outside of the allocator.
func (r *elasticRig) outside() float64 {
	m := r.following.memory
	m.mu.Lock()
	defer m.mu.Unlock()
	seen, _ := m.outside.Seen()
	return seen
}

// works has a prompt run until work.working is closed.
func (r *elasticRig) works(t *testing.T) {
	t.Helper()
	r.work.working = make(chan struct{})
	upload(t, r.base)
	photo(t, r.base, "c", 256)
}

// ask has the receiver ask the server again, between two lists.
func (r *elasticRig) ask() {
	r.t.Helper()
	m := r.following.memory
	m.restarted()
	require.Eventually(r.t, func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return !m.starts && m.unmatched == nil
	}, 10*time.Second, time.Millisecond)
}

func newElasticRig(t *testing.T, interval time.Duration) *elasticRig {
	t.Helper()
	library := testLibrary()
	_, gpus := library.Machine(t, "rtx-4080-super")
	r := &elasticRig{work: &dynamic{Work: fakecomfyui.NewTimedWork()}, gpu: gpus[0]}
	r.holds(0)
	fake := fakecomfyui.NewServerWith(r.work, fakecomfyui.Options{
		Version: fakecomfyui.Newer, NewerTorch: true, Torch: "2.8.0+cu128", Device: "cuda:0 NVIDIA GeForce RTX 4080 SUPER : native", Aimdo: true,
	})
	server := httptest.NewServer(fake)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { fake.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait(); server.CloseClientConnections(); server.Close() })
	r.rig = newRig(t, server.URL, func(c *Config) { c.Device, c.LibraryPath, c.Memory.Interval = deviceAuto, library.Path, interval })
	require.Eventually(t, func() bool {
		m := r.following.memory
		m.mu.Lock()
		defer m.mu.Unlock()
		context, ok := m.outside.Context()
		return ok && context == elasticContext
	}, 10*time.Second, 5*time.Millisecond, "the context of a server that has run nothing is learned")
	assert.Zero(t, r.elastic(true))
	r.holds(elasticWeights)
	r.ask()
	assert.InDelta(t, elasticWeights, r.elastic(false), 0)
	return r
}

func TestElasticMemoryIsNeverMoreThanTheProcessHolds(t *testing.T) {
	r := newElasticRig(t, time.Second)
	for range 3 {
		assert.InDelta(t, elasticWeights, r.elastic(true), 0, "the last value counts while the server rests")
	}
	r.holds(2 << 30)
	assert.InDelta(t, elasticWeights, r.elastic(false), 0, "no list says otherwise")
	assert.InDelta(t, 2<<30+elasticTorch, r.elastic(true), 0, "after /free: what it holds, less its context")
	r.holds(elasticWeights)
	assert.InDelta(t, elasticWeights, r.elastic(true), 0, "it is the last answer's at most")
	r.gpu.SetProcesses(fakenvml.Process{PID: os.Getpid() + 1, Memory: 15 << 30})
	assert.Zero(t, r.elastic(true), "another process fills the GPU")

	r.holds(elasticWeights)
	assert.InDelta(t, elasticWeights, r.elastic(true), 0)
	m := r.following.memory
	m.mu.Lock()
	m.is(memory.Process{}) // the process has ended
	m.mu.Unlock()
	points := r.points(true)
	require.Len(t, points, 1)
	assert.True(t, points[0].Flags().NoRecordedValue(), "its series is marked stale: queries would see it for another five minutes")
	id, _ := points[0].Attributes().Get("hw.id")
	assert.Equal(t, r.gpu.UUID(), id.Str())
}

// A server that works without a pause loads models: what is elastic is known soon, also where
// nobody else reads the list of processes.
func TestElasticMemoryIsKnownWhileAPromptRuns(t *testing.T) {
	const interval = 200 * time.Millisecond
	r := newElasticRig(t, interval)
	r.works(t)
	calls := func() int64 { return r.gpu.Calls("nvmlDeviceGetComputeRunningProcesses_v3") }
	for _, weights := range []int64{13 << 30, 5 << 30} {
		r.holds(weights)
		require.Eventually(t, func() bool { return r.outside() == float64(elasticContext+weights) }, 10*time.Second, 5*time.Millisecond)
		assert.InDelta(t, weights, r.elastic(false), 0)
	}
	begin, listed := time.Now(), calls()
	require.Eventually(t, func() bool { return calls() > listed+2 }, 20*time.Second, 5*time.Millisecond)
	assert.Greater(t, time.Since(begin), 2*listQuestions*interval*3/4, "the list is not read with every question")
	close(r.work.working)
	require.Eventually(t, func() bool { return len(r.byPrompt()) == 1 }, 20*time.Second, time.Millisecond)
}

// A server that loads one model after the other never has the same reserve in two answers: what is
// elastic is known nevertheless, and not as more than it is.
func TestElasticMemoryIsKnownWhileModelsAreLoadedAllTheTime(t *testing.T) {
	r := newElasticRig(t, 200*time.Millisecond)
	r.work.restless.Store(true)
	r.works(t)
	for _, weights := range []int64{13 << 30, 5 << 30} {
		r.holds(weights)
		require.Eventually(t, func() bool {
			seen := r.outside()
			return seen >= float64(elasticContext+weights) && seen <= float64(elasticContext+weights+600<<20)
		}, 20*time.Second, 5*time.Millisecond)
	}
	close(r.work.working)
	require.Eventually(t, func() bool { return len(r.byPrompt()) == 1 }, 20*time.Second, time.Millisecond)
}
