// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// severalGPUs is the work of a server that has a context on each of its GPUs, and uses as many
// of them as a photo's size says.
type severalGPUs struct {
	fakecomfyui.Work // what it does not do itself

	gpus []*energyGPU
	uses map[int]int // by side
	// working is called in the middle of the work.
	working func(side int)
}

func (s *severalGPUs) Colorize(ctx context.Context, side int, _ string, _ func(int, int) error) error {
	used := s.gpus[:s.uses[side]]
	s.gpus[3].share(side == foreignSide)
	defer s.gpus[3].share(false)
	for _, g := range used {
		g.mu.Lock()
		g.base = 100
		g.mu.Unlock()
		g.set(true)
	}
	for range 2 {
		select {
		case <-ctx.Done():
		case <-time.After(700 * time.Millisecond):
		}
		s.working(side)
	}
	for _, g := range used {
		g.set(false)
	}
	return ctx.Err()
}

// foreignSide is the size of the photo during which another process uses the fourth GPU, which
// the server has open and does not use.
const foreignSide = 640

func (g *energyGPU) share(foreign bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.foreign = foreign
}

func (*severalGPUs) Free()                        {}
func (*severalGPUs) Collect()                     {}
func (s *severalGPUs) Memory() fakecomfyui.Memory { return s.gpus[0].Memory() }

// TestPromptsOnSeveralGPUsAreBilledForThoseThatTheyUsed: a server with contexts on four GPUs,
// whose prompts use one, two and four of them, one during which another process uses the
// fourth, and one on whose way a GPU is lost.
func TestPromptsOnSeveralGPUsAreBilledForThoseThatTheyUsed(t *testing.T) {
	j := startJaeger(t)
	store, _ := prometheus(t, "10m")
	m := newMachine(t, fakenvml.Current, "l40s", "l40s", "l40s", "l40s")
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	work := &severalGPUs{Work: fakecomfyui.NewTimedWork(), uses: map[int]int{256: 1, 512: 2, foreignSide: 2, 1024: 4, 1280: 4}}
	work.working = func(side int) {
		if side == 1280 {
			m.gpus[2].SetLost(true)
		}
	}
	for i, gpu := range m.gpus {
		gpu.SetEnergyKind(gpumodel.MustLoad("100ms"))
		g := &energyGPU{gpu: gpu, process: true, shape: gpumodel.Usual(), random: rand.New(rand.NewPCG(uint64(i), 10))}
		g.draw()
		work.gpus = append(work.gpus, g)
		working.Go(func() { g.run(ctx) })
	}
	server := fakecomfyui.NewServer(work)
	var mu sync.Mutex
	executed := map[string]fakecomfyui.Executed{}
	var order []string
	server.Done = func(e fakecomfyui.Executed) {
		mu.Lock()
		defer mu.Unlock()
		if e.Node == "" {
			executed[e.Prompt] = e
			order = append(order, e.Prompt)
		}
	}
	comfyui := httptest.NewServer(server)
	t.Cleanup(func() { comfyui.CloseClientConnections(); comfyui.Close() })
	working.Go(func() { server.Run(ctx) })
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	overlay := filepath.Join(t.TempDir(), "overlay.yaml")
	require.NoError(t, os.WriteFile(overlay, []byte(fmt.Sprintf("receivers:\n  comfyui: {proxy: {endpoint: %q}, upstream: {endpoint: %q}, device: auto}\n", proxy, comfyui.URL)), 0o600))
	c := collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=1s"),
		"--config", overlay)
	eventually(t, store, `hw_gpu_up`, atLeast(4))
	quiet := time.NewTimer(7 * time.Second) // the power at rest, and the server's GPUs
	<-quiet.C
	ordering, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	sides := []int{256, 512, foreignSide, 1024, 1280}
	for i, side := range sides {
		require.NoError(t, simulation.NewUsers("http://"+proxy).Order(ordering, fmt.Sprintf("client-%d", i), []simulation.Photo{{Side: side}}))
		pause := time.NewTimer(1500 * time.Millisecond)
		<-pause.C
	}
	var traces []jaegerTrace
	require.Eventually(t, func() bool {
		traces = j.traces("/api/traces?limit=20&lookback=2h&service=comfyui")
		return len(traces) >= len(sides)
	}, patience, 500*time.Millisecond)
	executions, single := map[string]*jaegerSpan{}, map[string][]*jaegerSpan{}
	for i := range traces {
		for k := range traces[i].Spans {
			s := &traces[i].Spans[k]
			switch s.OperationName {
			case "comfyui.execution":
				executions[fmt.Sprint(s.tag("comfyui.prompt.id"))] = s
			case "comfyui.execution.gpu":
				single[s.References[0].SpanID] = append(single[s.References[0].SpanID], s)
			}
		}
	}
	require.Len(t, order, len(sides))
	for i, side := range sides {
		e := executed[order[i]]
		s := executions[e.Prompt]
		require.NotNil(t, s)
		used, lost := work.uses[side], side == 1280
		truth := 0.0
		for _, g := range work.gpus[:used] {
			truth += g.truth(e.From, e.To)
		}
		energy, _ := s.tag("gpu.energy").(float64)
		children := single[s.SpanID]
		if used == 1 {
			assert.Equal(t, m.gpus[0].UUID(), s.tag("hw.id"))
			assert.Nil(t, s.tag("hw.ids"))
			assert.Empty(t, children)
		} else {
			assert.Nil(t, s.tag("hw.id"), "%v", s.Tags)
			assert.Len(t, children, used, "%v", s.Tags)
			sum := 0.0
			for k := range used {
				id := m.gpus[k].UUID()
				assert.Contains(t, s.tag("hw.ids"), id)
				at := slices.IndexFunc(children, func(child *jaegerSpan) bool { return child.tag("hw.id") == id })
				require.GreaterOrEqual(t, at, 0, "a span for %s", id)
				part, _ := children[at].tag("gpu.energy").(float64)
				sum += part
				if !lost {
					of := work.gpus[k].truth(e.From, e.To)
					assert.InDelta(t, of, part, 0.15*of, "%s's own", id)
				}
			}
			assert.InDelta(t, energy, sum, 0.01, "the sum counts each once")
		}
		if lost {
			assert.Equal(t, "card_lost", s.tag("gpu.correlation.reason"), "%v", s.Tags)
			assert.Less(t, energy, truth, "what the lost GPU drew is not known")
			continue
		}
		assert.Equal(t, "measured", s.tag("gpu.correlation"), "%v", s.Tags)
		assert.InDelta(t, truth, energy, 0.1*truth, "%d GPUs", used)
	}
	for i, n := range []int{5, 4, 2, 2} { // of the prompts on one, two, two, four and four
		eventually(t, store, fmt.Sprintf(`sum(comfyui_execution_gpu_energy_joules_count{hw_id=%q}) == %d`, m.gpus[i].UUID(), n), atLeast(1))
	}
	_, err := c.Stop(20 * time.Second)
	require.NoError(t, err)
}
