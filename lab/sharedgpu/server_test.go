// SPDX-License-Identifier: Apache-2.0

package sharedgpu

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

func noSteps(int, int) error { return nil }

// peaks is a [Screen] that keeps how full the GPU was at most.
type peaks struct {
	Latest
	fullest atomic.Int64
}

// Show implements [Screen].
func (p *peaks) Show(r Readings) {
	p.fullest.Store(max(p.fullest.Load(), r.Used)) // one Show at a time
	p.Latest.Show(r)
}

// ended is an [Observer] that keeps the last prompt's work.
type ended struct{ last Worked }

// Began implements [Observer].
func (*ended) Began(*Server, string) {}

// Ended implements [Observer].
func (e *ended) Ended(_ *Server, _ string, w Worked) { e.last = w }

type rig struct {
	*Server
	law    *law.Law
	screen *peaks
	seen   *ended
	number int
}

func newRig(t *testing.T, total int64) *rig {
	t.Helper()
	r := &rig{law: law.New(1), screen: &peaks{}, seen: &ended{}}
	var err error
	r.Server, err = NewServer(New(total, 0, r.screen), 1, r.law, rand.New(rand.NewPCG(1, 1)), r.seen)
	require.NoError(t, err)
	return r
}

// colour works on a photo, and returns what it costs, how long it lasted and how it failed.
func (r *rig) colour(ctx context.Context, side int, checkpoint string) (law.Drawn, time.Duration, error) {
	r.number++
	id := fmt.Sprint("prompt ", r.number)
	begin := time.Now()
	err := r.Colorize(fakecomfyui.ContextOf(ctx, id), side, checkpoint, noSteps)
	r.Collect()
	return r.law.Draw(id, law.Load{Side: side, Batch: 1, Checkpoint: checkpoint}), time.Since(begin), err
}

func TestAPromptCostsWhatTheLawSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 24*law.GiB)
		defer r.Close()
		context := r.screen.Readings().Used
		assert.GreaterOrEqual(t, context, int64(600*law.MiB))
		assert.LessOrEqual(t, context, int64(840*law.MiB))
		cold, lasted, err := r.colour(t.Context(), 1280, law.DefaultCheckpoint)
		require.NoError(t, err)
		loading := r.law.Checkpoint(law.DefaultCheckpoint).Loading
		assert.InDelta(t, cold.Exclusive+cold.Host+loading, lasted, 1e6)
		assert.Equal(t, Worked{Exclusive: cold.Exclusive, Made: true, Loaded: true, Peak: cold.Need, HeldBefore: context, HeldAfter: context + cold.Need}, r.seen.last)
		assert.Equal(t, context+cold.Need, r.screen.fullest.Load())
		assert.Equal(t, context+cold.Need, r.screen.Readings().Used, "the allocator keeps the high-water mark")

		warm, lasted, err := r.colour(t.Context(), 512, law.DefaultCheckpoint)
		require.NoError(t, err)
		assert.InDelta(t, warm.Exclusive+warm.Host, lasted, 1e6, "the model is there")
		assert.Less(t, warm.Need, cold.Need)
		assert.Equal(t, Worked{
			Exclusive: warm.Exclusive, Made: true, Start: r.law.Checkpoint(law.DefaultCheckpoint).Weights, Peak: warm.Need,
			HeldBefore: context + cold.Need, HeldAfter: context + cold.Need,
		}, r.seen.last, "only the first has set a high-water mark")
		assert.Equal(t, context+cold.Need, r.screen.fullest.Load(), "which is free for the server's own prompt")

		_, lasted, err = r.colour(t.Context(), 512, "ddcolor_artistic.pth")
		require.NoError(t, err)
		assert.Greater(t, lasted, r.law.Checkpoint("ddcolor_artistic.pth").Loading, "another checkpoint is loaded")
	})
}

func TestWhatDoesNotFitGrowsUntilTheGPUIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 4*law.GiB)
		defer r.Close()
		_, _, err := r.colour(t.Context(), 256, law.DefaultCheckpoint)
		require.NoError(t, err)
		d, lasted, err := r.colour(t.Context(), 1280, law.DefaultCheckpoint)
		var failure *fakecomfyui.Failure
		require.ErrorAs(t, err, &failure)
		assert.Equal(t, "torch.cuda.OutOfMemoryError", failure.Type)
		assert.Greater(t, r.screen.fullest.Load(), 4*int64(law.GiB)-law.NeedStep, "VRAM is seen near 100 %")
		assert.Greater(t, lasted-d.Host, d.Exclusive/10, "the time is spent")
		assert.Less(t, r.seen.last.Exclusive, d.Exclusive/2)
		assert.Less(t, r.seen.last.Peak, d.Need)
		assert.Greater(t, r.seen.last.Peak+law.NeedStep, int64(4*law.GiB)-840*law.MiB)
		assert.True(t, r.seen.last.OutOfMemory)
		assert.False(t, r.seen.last.Made)
		_, _, err = r.colour(t.Context(), 256, law.DefaultCheckpoint)
		assert.NoError(t, err, "what fits goes on")
	})
}

// TestANeighboursCacheTakesTheRoom has two servers on 8 GiB alternate.
func TestANeighboursCacheTakesTheRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 8*law.GiB)
		defer r.Close()
		other, err := NewServer(r.gpu, 2, r.law, rand.New(rand.NewPCG(1, 2)), nil)
		require.NoError(t, err)
		defer other.Close()
		work := func(id string, side int) error {
			return other.Colorize(fakecomfyui.ContextOf(t.Context(), id), side, law.DefaultCheckpoint, noSteps)
		}
		require.NoError(t, work("loads its model", 256))
		other.FreeParts(true, false)
		for range 2 { // the loading of the first may last so long that the cache is emptied
			_, _, err = r.colour(t.Context(), 1280, law.DefaultCheckpoint)
			require.NoError(t, err)
		}
		require.Error(t, work("a", 1024), "the neighbour is idle, and its cache fills the GPU")
		room := other.Room()
		r.FreeParts(true, false)
		assert.Greater(t, other.Room(), room+2*law.GiB, "an idle server gives its cache back")
		require.NoError(t, work("b", 1024))
	})
}

func TestAnIdleServerEmptiesItsCacheAndKeepsItsModel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 24*law.GiB)
		defer r.Close()
		context := r.screen.Readings().Used
		time.Sleep(time.Minute)
		_, _, err := r.colour(t.Context(), 1280, law.DefaultCheckpoint) // the cache was emptied long ago
		require.NoError(t, err)
		weights := r.law.Checkpoint(law.DefaultCheckpoint).Weights
		assert.Equal(t, context+weights, r.screen.Readings().Used)
		d, _, err := r.colour(t.Context(), 1280, law.DefaultCheckpoint)
		require.NoError(t, err)
		assert.Equal(t, context+d.Need, r.screen.Readings().Used, "it was emptied a moment ago")
		time.Sleep(CollectAfter - d.Exclusive - d.Host - 2*time.Millisecond)
		synctest.Wait()
		assert.Equal(t, context+d.Need, r.screen.Readings().Used)
		time.Sleep(4 * time.Millisecond)
		synctest.Wait()
		assert.Equal(t, context+weights, r.screen.Readings().Used, "10 s later, though nothing came")
	})
}

func TestDDColorsWeightsGoOnlyWithTheNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 24*law.GiB)
		defer r.Close()
		context := r.screen.Readings().Used
		_, _, err := r.colour(t.Context(), 680, law.DefaultCheckpoint)
		require.NoError(t, err)
		r.FreeParts(true, false)
		assert.Equal(t, context+r.law.Checkpoint(law.DefaultCheckpoint).Weights, r.screen.Readings().Used, "unload_models leaves them, and empties the cache")
		d, lasted, err := r.colour(t.Context(), 680, law.DefaultCheckpoint)
		require.NoError(t, err)
		assert.InDelta(t, d.Exclusive+d.Host, lasted, 1e6)
		r.FreeParts(false, true)
		assert.Equal(t, context, r.screen.Readings().Used)
		_, lasted, err = r.colour(t.Context(), 680, law.DefaultCheckpoint)
		require.NoError(t, err)
		assert.Greater(t, lasted, r.law.Checkpoint(law.DefaultCheckpoint).Loading, "and each costs the next prompt its loading")

		sampled := fakecomfyui.ContextOf(t.Context(), "image")
		require.NoError(t, r.Sample(sampled, "sd_xl_base_1.0.safetensors", 512, 1, 4, noSteps))
		r.FreeParts(true, false)
		assert.Equal(t, context, r.screen.Readings().Used, "a managed model goes with unload_models")
	})
}

// TestFreeDuringAPromptWaitsForItsEnd goes through the simulated ComfyUI, whose worker reads the
// flags.
func TestFreeDuringAPromptWaitsForItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 24*law.GiB)
		defer r.Close()
		context0 := r.screen.Readings().Used
		comfy := startComfy(t, r.Server)
		defer comfy.stop()
		comfy.colour(1280)
		d := r.law.Checkpoint(law.DefaultCheckpoint).Loading + 500*time.Millisecond
		time.Sleep(d)
		held := r.screen.Readings().Used
		comfy.post("/free", `{"unload_models": true, "free_memory": true}`)
		synctest.Wait()
		assert.Equal(t, held, r.screen.Readings().Used, "nothing is freed while it runs")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		assert.True(t, r.seen.last.Made)
		assert.Equal(t, context0, r.screen.Readings().Used)
	})
}

// TestTwoServersAreAsFastAsOne has each work on as much.
func TestTwoServersAreAsFastAsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 24*law.GiB)
		defer r.Close()
		other, err := NewServer(r.gpu, 2, r.law, rand.New(rand.NewPCG(1, 2)), nil)
		require.NoError(t, err)
		defer other.Close()
		sum, begin := time.Duration(0), time.Now()
		var all sync.WaitGroup
		for i, s := range []*Server{r.Server, other} {
			for n := range 20 {
				sum += r.law.Draw(fmt.Sprint(i, " ", n), law.Load{Side: 680, Batch: 1, Checkpoint: law.DefaultCheckpoint}).Exclusive
			}
			all.Go(func() {
				for n := range 20 {
					assert.NoError(t, s.Colorize(fakecomfyui.ContextOf(t.Context(), fmt.Sprint(i, " ", n)), 680, law.DefaultCheckpoint, noSteps))
				}
			})
		}
		all.Wait()
		assert.InDelta(t, sum, r.gpu.Busy(), 1e4)
		assert.Greater(t, time.Since(begin), sum)
	})
}
