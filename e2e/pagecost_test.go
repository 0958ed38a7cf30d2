// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var pageTime = flag.Duration("page-time", 4*time.Second, "for how long TestTwentyViewersCostLittle measures the CPU time of each state; make bench-page takes 10s")

// TestTwentyViewersCostLittle measures the CPU time of a collector of eight GPUs, which holds
// thousands of prompts, and of a server at which 50 wait for one that does not end, while 20 viewers look,
// less that before or after, whichever is less. While nobody looks, nothing is encoded.
func TestTwentyViewersCostLittle(t *testing.T) {
	beside(t, working)
	const lookers, held, queued, goal = 20, 4000, 51, 0.05 // of a core
	m := newMachine(t, fakenvml.Current, slices.Repeat([]string{"l40s", "h100"}, 4)...)
	p := newLivePage(t)
	traces := fmt.Sprintf("127.0.0.1:%d", port(t))
	server := fakecomfyui.NewServer(endless{fakecomfyui.NewTimedWork()})
	proxy := fmt.Sprintf("127.0.0.1:%d", port(t))
	c := collect(t, "comfyui.yaml", append(m.environment, p.environment(), "OTELCOL_GPU_COLLECTION_INTERVAL=1s", "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI="+serveComfyUI(t, server, server)), append(receivesPrompts(traces), "--config=yaml:connectors::gpuadvisor::collection_interval: 1s")...)
	p.wait(t, patience, "GPUs", func(s *pageState) bool { return len(s.GPUs) == len(m.gpus) })
	require.Eventually(t, func() bool { return p.counter(c, "viewers") == 0 }, patience, 50*time.Millisecond)
	var ids []string
	for _, g := range m.gpus {
		ids = append(ids, g.UUID())
	}
	p.hold(t, traces, held, ids)
	for range queued {
		require.Equal(t, http.StatusOK, submitPhoto(t, proxy, 512))
	}
	p.wait(t, patience, "the queue", func(s *pageState) bool { return len(s.Servers) == 1 && s.Servers[0].Waiting == queued-1 })
	work(t, m)

	before := m.count(t, c, *pageTime)
	assert.Zero(t, p.counter(c, "messages"), "encoded before anybody looks")
	v := p.watch(t, lookers)
	during := m.count(t, c, *pageTime)
	assert.GreaterOrEqual(t, v.changes.Load(), int64(lookers*pageTime.Seconds()), "changes that came: two a second and viewer, or one where the machine is busy")
	v.close()
	require.Eventually(t, func() bool { return p.counter(c, "viewers") == 0 }, patience, 50*time.Millisecond)
	encoded := p.counter(c, "messages")
	assert.Positive(t, encoded)
	assert.LessOrEqual(t, encoded, 2*int(time.Since(v.began).Seconds()+1), "one message for all viewers")
	after := m.count(t, c, *pageTime)
	assert.Equal(t, encoded, p.counter(c, "messages"), "encoded while nobody looks any longer")

	cost := max(during.cpu-min(before.cpu, after.cpu), 0) // the machine is shared: the cautious side
	figure.AtMost("page.cpu.viewers", 100*cost, "%", 100*goal)
	figure.Print("page.cpu.held", held, "prompts")
	figure.Print("page.cpu.whole", 100*during.cpu, "%")
	require.Positive(t, during.cpu)
	assert.Less(t, cost, 2*goal, "of a core")
}

// endless is work of which nothing ends.
type endless struct{ fakecomfyui.Work }

// Colorize implements [fakecomfyui.Work].
func (endless) Colorize(ctx context.Context, _ int, _ string, _ func(done, all int) error) error {
	<-ctx.Done()
	return ctx.Err()
}

// work has the figures of all GPUs change several times a second, until the test ends.
func work(t *testing.T, m *machine) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	working.Go(func() {
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for n := int64(0); ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			for _, g := range m.gpus {
				g.Set("memory_used", (10+n%10)<<30)
				g.Set("temperature_gpu", 50+n%10)
				g.Step("gpu", 50+n%40)
				g.Step("power", 100_000+1000*(n%100))
			}
		}
	})
}
