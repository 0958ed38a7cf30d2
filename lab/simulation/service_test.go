// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func service(t *testing.T, profile string) (*Service, *fakenvml.GPU, *fakenvml.Profile) {
	t.Helper()
	state, err := fakenvml.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, state.Close()) })
	p, err := fakenvml.LoadProfile(profile)
	require.NoError(t, err)
	gpu := state.AddGPU(p)
	return NewService(gpu, p, 1), gpu, p
}

// TestPhotosOfUsersWorkOnTheGPU has users and a rush at a ComfyUI, until the GPU
// has felt the largest photo.
func TestPhotosOfUsersWorkOnTheGPU(t *testing.T) {
	s, gpu, p := service(t, "l40s")
	rest := gpu.Get("memory_used")
	server := fakecomfyui.NewServer(s)
	h := httptest.NewServer(server)
	ctx, cancel := context.WithCancel(t.Context())
	users := NewUsers(h.URL)
	var all sync.WaitGroup
	all.Go(func() { server.Run(ctx) })
	all.Go(func() { users.Run(ctx, 2, 1) })
	users.Rush()
	need, _ := demand(rushSide, modelOf(""))
	require.Eventually(t, func() bool { return gpu.Get("memory_used") >= (p.Values["memory_used"]+s.context+need)*mib }, 30*time.Second, 10*time.Millisecond)
	assert.Greater(t, gpu.Get("memory_used"), rest)
	cancel()
	h.CloseClientConnections()
	all.Wait()
	h.Close()
}

// TestAPhotoThatDoesNotFitFails asks for more than the GPU has.
func TestAPhotoThatDoesNotFitFails(t *testing.T) {
	s, gpu, _ := service(t, "rtx-2080-super") // 8 GiB
	none := func(int, int) error { return nil }
	before := s.Memory()
	err := s.Colorize(t.Context(), 2048, "", none)
	var f *fakecomfyui.Failure
	require.ErrorAs(t, err, &f)
	assert.Equal(t, "torch.cuda.OutOfMemoryError", f.Type)
	assert.Greater(t, s.Memory().TorchTotal, int64(5<<30), "it failed once it had used what there was")
	s.Free()
	assert.Equal(t, before, s.Memory())
	steps := 0
	require.NoError(t, s.Colorize(t.Context(), 256, "", func(int, int) error { steps++; return nil }))
	assert.Zero(t, steps, "DDColor's node sends no progress")
	after := s.Memory()
	assert.Greater(t, after.TorchFree, int64(500<<20), "the allocator keeps what the photo used")
	assert.InDelta(t, modelOf("").weights*mib, after.TorchTotal-after.TorchFree, 10*mib, "and the model stays")
	used := gpu.Get("memory_used")
	s.Free()
	assert.Less(t, gpu.Get("memory_used"), used)
	assert.Equal(t, before, s.Memory())
}

// TestHistoryKnowsWhatThePhotoDid compares the history with what the library shows
// while two services share the GPU.
func TestHistoryKnowsWhatThePhotoDid(t *testing.T) {
	a, gpu, p := service(t, "l40s")
	b := a.Another(2)
	history := a.Remember()
	from := time.Now()
	var both sync.WaitGroup
	for _, s := range []*Service{a, b} {
		both.Go(func() { assert.NoError(t, s.Colorize(t.Context(), 512, "", func(int, int) error { return nil })) })
	}
	both.Wait()
	to := time.Now()
	whole := history.Between(from, to, nil)
	most := (p.Values["memory_used"] + a.context + b.context) * mib
	need, lasts := demand(512, modelOf(""))
	assert.Greater(t, whole.Peak, most+need*mib, "both hold memory")
	assert.Equal(t, whole.Peak, gpu.Get("memory_used"), "the allocators keep it")
	rest := float64(p.Series["power"]) / 1000
	assert.Greater(t, whole.Energy, rest*to.Sub(from).Seconds())
	assert.Greater(t, whole.Throttled, time.Duration(0), "together they reach the power limit")
	assert.Greater(t, whole.Busy, 0.5*lasts.Seconds())
	half := history.Between(from, to, func(int64) (int, int64) { return 2, to.UnixNano() })
	assert.InDelta(t, whole.Energy/2, half.Energy, 1e-6)
	parts := 0.0
	for at := from; at.Before(to); at = at.Add(100 * time.Millisecond) {
		end := at.Add(100 * time.Millisecond)
		if end.After(to) {
			end = to
		}
		parts += history.Between(at, end, nil).Energy
	}
	assert.InDelta(t, whole.Energy, parts, 1e-6, "the parts make the whole")
}
