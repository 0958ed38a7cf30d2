// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

const tiny = "ddcolor_paper_tiny.pth"

// TestPhotosCostWhatTheLawSays compares prompts with what the law draws for them.
func TestPhotosCostWhatTheLawSays(t *testing.T) {
	s, _, _ := service(t, "l40s")
	s.Law = law.New(quickToLoad())
	memory := s.RememberMemory()
	loading := s.Law.Checkpoint(tiny).Loading
	seen := map[time.Duration]bool{}
	for i := range 4 {
		id := fmt.Sprint("prompt ", i)
		d := s.Law.Draw(id, law.Load{Side: 384, Batch: 1, Checkpoint: tiny})
		from := time.Now()
		require.NoError(t, s.Colorize(fakecomfyui.ContextOf(t.Context(), id), 384, tiny, noSteps))
		lasted := time.Since(from)
		if i == 0 {
			lasted -= loading.Truncate(stretch)
		}
		assert.GreaterOrEqual(t, lasted, d.Exclusive-time.Millisecond)
		assert.InDelta(t, d.Need, memory.Between(from, time.Now()).Need, 0.01*float64(d.Need))
		seen[d.Exclusive] = true
	}
	assert.Len(t, seen, 4, "no two of a size cost the same")
}

// TestServicesShareASlicedGPU has two work at once.
func TestServicesShareASlicedGPU(t *testing.T) {
	a, _, _ := service(t, "l40s")
	a.Slice()
	b := a.Another(2)
	for _, s := range []*Service{a, b} {
		require.NoError(t, s.Colorize(t.Context(), 256, "", noSteps)) // the model is loaded
	}
	_, alone := demand(960, modelOf(""))
	from := time.Now()
	var both sync.WaitGroup
	for _, s := range []*Service{a, b} {
		both.Go(func() { assert.NoError(t, s.Colorize(t.Context(), 960, "", noSteps)) })
	}
	both.Wait()
	assert.Greater(t, time.Since(from), 16*alone/10, "a fifth of a photo's time uses little of the GPU")
}
