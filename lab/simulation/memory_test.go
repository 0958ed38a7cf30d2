// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func noSteps(int, int) error { return nil }

func TestSmallPhotoAfterALargeOneHoldsAsMuchAndNeedsLess(t *testing.T) {
	s, gpu, _ := service(t, "l40s")
	s.EmptyCache = time.Hour
	s.emptied = time.Now()
	memory := s.RememberMemory()
	work := func(side int) (MemoryTruth, int64) {
		from := time.Now()
		require.NoError(t, s.Colorize(t.Context(), side, "", noSteps))
		s.Collect()
		return memory.Between(from, time.Now()), gpu.Get("memory_used")
	}
	large, held := work(960)
	small, after := work(320)
	assert.True(t, large.HighWater)
	assert.InDelta(t, held, after, 32*mib, "the allocator kept it, but for fragments")
	assert.Less(t, small.Need, large.Need*2/3)
	need, _ := demand(960, modelOf(""))
	assert.InDelta(t, need*mib, large.Need, 0.01*float64(need*mib), "rounding is all that is added")
	assert.Greater(t, large.Lasts, 150*time.Millisecond)
}

func TestManagedModelsStayUntilTheirMemoryIsWanted(t *testing.T) {
	s, _, _ := service(t, "rtx-2080-super") // 8 GiB
	work := func(checkpoint string, side int) {
		require.NoError(t, s.Sample(t.Context(), checkpoint, side, 1, 2, noSteps))
		require.NoError(t, s.Decode(t.Context(), checkpoint, side, 1))
	}
	const small, other = "v1-5-pruned-emaonly-fp16.safetensors", "other.safetensors"
	work(small, 256)
	work(other, 256)
	assert.Len(t, s.managed, 2, "both fit")
	active := s.Memory().TorchTotal - s.Memory().TorchFree
	assert.InDelta(t, 2*2034*mib, active, 20*mib, "without Dynamic VRAM weights are tensors")
	work(other, 1280)
	assert.Len(t, s.managed, 1, "the one that was not used made room")
	assert.Equal(t, other, s.managed[0].checkpoint)
}

func TestDynamicVRAMFillsTheGPUAndEvictsUnderPressure(t *testing.T) {
	s, gpu, p := service(t, "rtx-4080-super") // 16 GiB
	s.Dynamic = true
	memory := s.RememberMemory()
	from := time.Now()
	for _, checkpoint := range []string{"sd_xl_base_1.0.safetensors", "another.safetensors", "a third.safetensors", "v1-5-pruned-emaonly-fp16.safetensors", "a fifth.safetensors"} {
		require.NoError(t, s.Sample(t.Context(), checkpoint, 512, 1, 1, noSteps))
	}
	full := gpu.Get("memory_used")
	room := (p.Values["memory_total"] - p.Values["memory_reserved"]) * mib
	assert.Greater(t, full, room*9/10, "in good health")
	m := s.Memory()
	assert.Less(t, m.TorchTotal, int64(2<<30), "its weights are not PyTorch's")
	assert.Less(t, memory.Between(from, time.Now()).Need, int64(2<<30), "and not what the prompts needed")
	elastic := s.elastic
	require.NoError(t, s.Colorize(t.Context(), 1280, "", noSteps), "the weights made room")
	assert.Less(t, s.elastic, elastic-2<<30)
	assert.LessOrEqual(t, gpu.Get("memory_used"), room)
	s.Free()
	assert.Zero(t, s.elastic)
	assert.Equal(t, s.context, s.worker.held)
}
