// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// TestThePageFollowsTheGPUsInEveryConfiguration changes figures in the test library: memory is
// on the page within a second, everything else within the scrape interval. Viewers cost not
// one NVML call.
func TestThePageFollowsTheGPUsInEveryConfiguration(t *testing.T) {
	beside(t, working)
	for _, config := range []string{"default", "node", "comfyui", "no-loss"} {
		t.Run(config, func(t *testing.T) {
			t.Parallel() // they wait for scrapes
			followsGPUs(t, config+".yaml")
		})
	}
}

// scrapeInterval is that of the ready configurations.
const scrapeInterval = 15 * time.Second

// samplingRates are how often a second the receivers sample what they sample often.
var samplingRates = map[string]float64{"nvmlDeviceGetMemoryInfo_v2": 10, "nvmlDeviceGetFieldValues": 5}

func followsGPUs(t *testing.T, config string) {
	t.Helper()
	m := newMachine(t, fakenvml.Current, "l40s", "h100", "rtx-4080-super")
	const lost = 2
	for i, g := range m.gpus {
		g.Set("temperature_gpu", int64(41+i))
		g.Step("gpu", int64(23+i))
		g.Step("power", int64(101_000+1000*i)) // mW
	}
	p := newLivePage(t)
	c := collect(t, config, append(m.environment, p.environment(), "OTELCOL_GPU_COLLECTION_INTERVAL=15s", "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		fmt.Sprintf("OTELCOL_GPU_COMFYUI_PROXY=127.0.0.1:%d", port(t))))
	p.wait(t, patience, "GPUs after the first scrape", func(s *pageState) bool { return len(s.GPUs) == len(m.gpus) })

	// Between the first scrape and the second: the calls with viewers and without.
	const d = 5 * time.Second
	scrapes := m.gpus[0].Calls("nvmlDeviceGetPerformanceState")
	alone := m.count(t, c, d)
	five := p.watch(t, 5)
	seen := m.count(t, c, d)
	require.Equal(t, scrapes, m.gpus[0].Calls("nvmlDeviceGetPerformanceState"), "no scrape falls into the count")
	require.Positive(t, alone.calls["nvmlDeviceGetMemoryInfo_v2"], "memory is read between scrapes")
	for function, calls := range seen.calls {
		rate := alone.calls[function]
		if rate > 0 { // a busy test machine is late now and then
			rate = max(rate, samplingRates[function])
		}
		// A page that asked once a second would make five calls more. What falls into the time
		// differs by up to three.
		assert.LessOrEqual(t, calls, rate+4/d.Seconds(), "%s a second, with five viewers", function)
	}

	// Memory. A busy test machine is late now and then: one time of three shows it.
	inState, inStream := time.Duration(0), time.Duration(0)
	for try := range int64(3) {
		inState, inStream = m.showsMemory(t, p, five, (12_345+try)<<20)
		if max(inState, inStream) < time.Second {
			break
		}
	}
	assert.Less(t, inState, time.Second, "memory in the state")
	assert.Less(t, inStream, time.Second, "memory in the stream")

	// Everything else.
	for i, g := range m.gpus {
		g.Set("temperature_gpu", int64(61+i))
	}
	m.gpus[lost].SetLost(true)
	state := p.wait(t, scrapeInterval+2*time.Second, "temperatures, and a lost GPU", func(s *pageState) bool {
		return s.GPUs[0].Temperature.Value == 61 && s.GPUs[1].Temperature.Value == 62 && s.GPUs[lost].State == "lost"
	})
	for i, g := range state.GPUs {
		assert.Equal(t, m.gpus[i].UUID(), g.ID)
		assert.Equal(t, "gpu"+strconv.Itoa(i), g.Name)
		if i == lost {
			continue
		}
		assert.Equal(t, m.gpus[i].Text("name"), g.Model)
		assert.Equal(t, m.gpus[i].Get("memory_total"), g.Memory.Limit)
		assert.Equal(t, m.gpus[i].Get("memory_used"), g.Memory.Used)
		assert.InDelta(t, 0.23+0.01*float64(i), g.Utilization, 0.005)
		assert.InDelta(t, 101+i, g.Power.Value, 0.5)
	}
}

// showsMemory changes the memory of the first GPU, and returns how long it takes to be in the
// state and in the stream.
func (m *machine) showsMemory(t *testing.T, p livePage, v *viewers, used int64) (inState, inStream time.Duration) {
	t.Helper()
	came := v.want(`"used":` + strconv.FormatInt(used, 10))
	m.gpus[0].Set("memory_used", used)
	changed := time.Now()
	p.wait(t, patience, "memory", func(s *pageState) bool { return s.GPUs[0].Memory.Used == used })
	inState = time.Since(changed)
	select {
	case at := <-came:
		return inState, at.Sub(changed)
	case <-time.After(patience):
		require.Fail(t, "The stream does not have the memory")
		return 0, 0
	}
}
