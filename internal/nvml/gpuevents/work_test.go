// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package gpuevents

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// without is the work without its times, which are the clock's.
func without(g GPUWork) GPUWork {
	g.Since = time.Time{}
	return g
}

func TestWorkIsCountedByGPU(t *testing.T) {
	var w Work
	assert.Equal(t, GPUWork{}, without(w.On("GPU-a")), "nobody says when there is work")
	first, second, anywhere := w.AddServer(), w.AddServer(), w.AddServer()
	assert.Equal(t, GPUWork{Known: true}, without(w.On("GPU-a")))
	first.Set(true, Place{GPUs: []string{"GPU-a"}, PID: 7})
	second.Set(true, Place{GPUs: []string{"GPU-b"}})
	assert.Equal(t, GPUWork{Known: true, Open: 1, PIDs: []int{7}}, without(w.On("GPU-a")))
	anywhere.Set(true, Place{})
	assert.Equal(t, 2, w.On("GPU-a").Open, "the GPU of one server is not known")
	assert.Equal(t, 1, w.On("GPU-c").Open)
	assert.Equal(t, 2, w.On("GPU-c", "MIG-1", "GPU-b").Open)
	first.Ended(false, Place{GPUs: []string{"GPU-a"}}, epoch)
	assert.Equal(t, GPUWork{Known: true, Open: 1, LastEnded: epoch}, without(w.On("GPU-a")))
	assert.True(t, w.On("GPU-b").LastEnded.IsZero())
	for _, s := range []*Server{first, second, anywhere} {
		s.Close()
	}
	assert.Equal(t, GPUWork{}, without(w.On("GPU-a")))
}

func TestServerWithSeveralGPUsMayWorkOnEach(t *testing.T) {
	var w Work
	s := w.AddServer()
	s.Set(true, Place{GPUs: []string{"GPU-a", "MIG-1"}, PID: 7})
	assert.Equal(t, 1, w.On("GPU-a").Open)
	assert.True(t, w.On("GPU-a").Spread)
	assert.Equal(t, 1, w.On("GPU-b", "MIG-1").Open)
	assert.Zero(t, w.On("GPU-c").Open)
	s.Set(true, Place{GPUs: make([]string, maxGPUs+1)})
	assert.Equal(t, 1, w.On("GPU-c").Open, "beyond the bound it may be any")
	s.Close()
}

func TestChangesOfWorkArePublished(t *testing.T) {
	var w Work
	var changes []WorkChange
	w.Changes.Subscribe(func(c WorkChange) { changes = append(changes, c) })
	s := w.AddServer()
	s.Set(true, Place{GPUs: []string{"GPU-a"}})
	s.Set(true, Place{GPUs: []string{"GPU-a"}}) // a second prompt
	s.Ended(true, Place{GPUs: []string{"GPU-a"}}, epoch)
	s.Ended(false, Place{GPUs: []string{"GPU-a"}}, epoch.Add(time.Second))
	s.Close()
	assert.Equal(t, []WorkChange{{Open: true}, {Open: true, Ended: true}, {Ended: true}}, changes)
}

func TestServersAreBounded(t *testing.T) {
	var w Work
	for range maxServers + 10 {
		w.AddServer().Set(true, Place{GPUs: []string{"GPU-a"}})
		require.NoError(t, growth.Within(w.Bounds()))
	}
	assert.Equal(t, maxServers, w.On("GPU-a").Open)
}
