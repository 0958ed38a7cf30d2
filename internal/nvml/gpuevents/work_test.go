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
	first.Set(true, Place{GPU: "GPU-a", PID: 7})
	second.Set(true, Place{GPU: "GPU-b"})
	assert.Equal(t, GPUWork{Known: true, Open: 1, PIDs: []int{7}}, without(w.On("GPU-a")))
	anywhere.Set(true, Place{GPU: ""})
	assert.Equal(t, 2, w.On("GPU-a").Open, "the GPU of one server is not known")
	assert.Equal(t, 1, w.On("GPU-c").Open)
	assert.Equal(t, 2, w.On("GPU-c", "MIG-1", "GPU-b").Open)
	first.Ended(false, Place{GPU: "GPU-a"}, epoch)
	assert.Equal(t, GPUWork{Known: true, Open: 1, LastEnded: epoch}, without(w.On("GPU-a")))
	assert.True(t, w.On("GPU-b").LastEnded.IsZero())
	for _, s := range []*Server{first, second, anywhere} {
		s.Close()
	}
	assert.Equal(t, GPUWork{}, without(w.On("GPU-a")))
}

func TestChangesOfWorkArePublished(t *testing.T) {
	var w Work
	var changes []WorkChange
	w.Changes.Subscribe(func(c WorkChange) { changes = append(changes, c) })
	s := w.AddServer()
	s.Set(true, Place{GPU: "GPU-a"})
	s.Set(true, Place{GPU: "GPU-a"}) // a second prompt
	s.Ended(true, Place{GPU: "GPU-a"}, epoch)
	s.Ended(false, Place{GPU: "GPU-a"}, epoch.Add(time.Second))
	s.Close()
	assert.Equal(t, []WorkChange{{Open: true}, {Open: true, Ended: true}, {Ended: true}}, changes)
}

func TestServersAreBounded(t *testing.T) {
	var w Work
	for range maxServers + 10 {
		w.AddServer().Set(true, Place{GPU: "GPU-a"})
		require.NoError(t, growth.Within(w.Bounds()))
	}
	assert.Equal(t, maxServers, w.On("GPU-a").Open)
}
