// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// quickToLoad is the seed of a law whose smallest model is loaded in less than 2 s.
func quickToLoad() uint64 {
	for seed := uint64(1); ; seed++ {
		if law.New(seed).Checkpoint("ddcolor_paper_tiny.pth").Loading < 2*time.Second {
			return seed
		}
	}
}

// TestTheLibraryShowsServersThatShareAGPU has two work at once.
func TestTheLibraryShowsServersThatShareAGPU(t *testing.T) {
	state, err := fakenvml.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, state.Close()) })
	p, err := fakenvml.LoadProfile("rtx-4080-super")
	require.NoError(t, err)
	gpu := state.AddGPU(p)
	rest := gpu.Get("memory_used")
	screen := NewScreen(gpu, p)
	shared := sharedgpu.New(screen.Total(), 0, screen)
	assert.Equal(t, (p.Values["memory_total"]-p.Values["memory_reserved"]-p.Values["memory_used"])*mib, screen.Total())
	var both sync.WaitGroup
	l := law.New(quickToLoad())
	for pid := range 2 {
		s, err := sharedgpu.NewServer(shared, 41+pid, l, rand.New(rand.NewPCG(1, uint64(pid))), nil)
		require.NoError(t, err)
		defer s.Close()
		both.Go(func() {
			assert.NoError(t, s.Sample(fakecomfyui.ContextOf(t.Context(), "one"), "ddcolor_paper_tiny.pth", 256, 1, 4, func(int, int) error { return nil }))
		})
	}
	assert.Equal(t, rest+screen.Total()-shared.Free(), gpu.Get("memory_used"), "the contexts")
	assert.Eventually(t, func() bool { return gpu.Get("performance_state") == 2 }, 30*time.Second, time.Millisecond)
	both.Wait()
	assert.Equal(t, p.Values["performance_state"], gpu.Get("performance_state"), "it is at rest again")
	assert.Equal(t, rest+screen.Total()-shared.Free(), gpu.Get("memory_used"))
	assert.Greater(t, gpu.Get("memory_used"), rest+2*(600+220)*mib, "contexts and models")
}
