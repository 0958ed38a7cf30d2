// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"encoding/json"
	"fmt"
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

// colourise has a user ask a ComfyUI of a service for photos, and returns how they ended.
func colourise(t *testing.T, s *Service, sides ...int) (success, outOfMemory int) {
	t.Helper()
	server := fakecomfyui.NewServerWith(s, s.Options(fakecomfyui.Newer))
	h := httptest.NewServer(server)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { server.Run(ctx) })
	defer func() { cancel(); running.Wait(); h.CloseClientConnections(); h.Close() }()
	photos := make([]Photo, len(sides))
	for i, side := range sides {
		photos[i] = Photo{Side: side}
	}
	require.NoError(t, NewUsers(h.URL).Order(t.Context(), "user", photos))
	response, err := http.Get(h.URL + "/history")
	require.NoError(t, err)
	defer response.Body.Close()
	var history map[string]struct {
		Status struct {
			Text     string `json:"status_str"`
			Messages json.RawMessage
		}
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&history))
	for _, entry := range history {
		if entry.Status.Text == "success" {
			success++
		}
		if strings.Contains(string(entry.Status.Messages), "OutOfMemoryError") {
			outOfMemory++
		}
	}
	return success, outOfMemory
}

// libraryFullness is used / total as the article's rule reads it from NVML.
func libraryFullness(used, total int64) float64 { return float64(used) / float64(total) }

func TestFullGPUInGoodHealthFinishesEveryPrompt(t *testing.T) {
	s, gpu, _ := service(t, "rtx-4080-super")
	s.KeepFull(0.97)
	full := func() float64 { return libraryFullness(gpu.Get("memory_used"), gpu.Get("memory_total")) }
	assert.Greater(t, full(), 0.96)
	_, elastic := s.Outside()
	assert.Greater(t, elastic, int64(14<<30), "most of it can be evicted")

	least, stop := 1.0, make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				least = min(least, full())
			}
		}
	})
	success, failed := colourise(t, s, 1280, 680, 1280, 1024)
	close(stop)
	watching.Wait()
	assert.Equal(t, 4, success)
	assert.Zero(t, failed)
	assert.Greater(t, least, 0.95, "it is full all the time")
	s.Free()
	assert.Less(t, full(), 0.2)
}

func TestFullGPUThatAnotherProgramHoldsFails(t *testing.T) {
	s, gpu, _ := service(t, "rtx-4080-super")
	const pid = 4242
	end := s.Occupy(pid, 0.955)
	full := func() float64 { return libraryFullness(gpu.Get("memory_used"), gpu.Get("memory_total")) }
	assert.Greater(t, full(), 0.95)
	assert.InDelta(t, s.Fullness(), full(), 1e-3)
	_, elastic := s.Outside()
	assert.Zero(t, elastic, "nothing can be evicted")
	success, failed := colourise(t, s, 1280, 1024)
	assert.Zero(t, success)
	assert.Equal(t, 2, failed, "they run out of memory")
	assert.Greater(t, full(), 0.95)
	end()
	assert.Less(t, full(), 0.5)
	success, failed = colourise(t, s, 680)
	assert.Equal(t, []int{1, 0}, []int{success, failed}, fmt.Sprint("there is room again: ", full()))
}

// TestGPUThatIsKeptOccupiedStaysFull: what a ComfyUI gives back is taken at once.
func TestGPUThatIsKeptOccupiedStaysFull(t *testing.T) {
	s, _, _ := service(t, "rtx-4080-super")
	success, _ := colourise(t, s, 1280)
	require.Equal(t, 1, success)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); s.KeepOccupied(ctx, 4242, 0.97) }()
	full := func() bool { return s.Fullness() >= 0.97 }
	require.Eventually(t, full, 10*time.Second, time.Millisecond)
	s.Free()
	require.Less(t, s.Fullness(), 0.97, "ComfyUI gave its models' memory back")
	require.Eventually(t, full, 10*time.Second, time.Millisecond)
	_, failed := colourise(t, s, 1280)
	assert.Equal(t, 1, failed)
	cancel()
	<-done
	assert.Less(t, s.Fullness(), 0.5)
}
