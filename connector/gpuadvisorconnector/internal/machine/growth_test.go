// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
)

// Everything comes more often than there is room for it.
func TestSizesStayWithinTheirBounds(t *testing.T) {
	m := newMachine(t, func(l *Limits) { l.GPUs, l.Processes, l.Servers, l.Events = 3, 4, 2, 5 })
	used := map[string]bool{}
	for i := range 3000 {
		s := float64(i)
		text := fmt.Sprintf("hw.gpu.memory.usage{hw.id=GPU-%d} 1\nhw.gpu.xid.errors{hw.id=GPU-0,hw.gpu.xid=%d} 1\nhw.gpu.pcie.replays{hw.id=GPU-0} %d\nhw.gpu.process.memory.usage{hw.id=GPU-0,process.pid=%d} 1", i%7, i, i, i)
		m.Metrics(sampletext.Metrics(at(s), node, text), at(s))
		m.Metrics(sampletext.Metrics(at(s), fmt.Sprintf("service.instance.id=s%d", i%5), fmt.Sprintf("comfyui.progress.age{comfyui.task_class=c%d} 1\ncomfyui.execution.duration{comfyui.task_class=c%d} 1/1", i, i)), at(s))
		logged(m, s, fmt.Sprintf("hw.gpu.xid{hw.id=GPU-%d,hw.gpu.xid=#%d}", i%9, i))
		require.NoError(t, growth.Within(m.Bounds()))
		for name := range growth.Used(m.Bounds()) {
			used[name] = true
		}
	}
	assert.Len(t, used, len(m.Bounds()))
	for _, what := range []string{droppedGPU, droppedProcess, droppedServer, droppedSeries, droppedEvent} {
		assert.Positive(t, m.Dropped()[what], what)
	}
}

func TestADeviceWithoutSamplesMakesRoom(t *testing.T) {
	m := newMachine(t, func(l *Limits) { l.GPUs, l.Servers = 2, 1 })
	for _, gpu := range []string{"GPU-a", "GPU-b", "GPU-c"} {
		m.Metrics(sampletext.Metrics(at(0), node, "hw.power{hw.id="+gpu+"} 1"), at(0))
		m.Metrics(sampletext.Metrics(at(0), "service.instance.id="+gpu, "comfyui.up 1"), at(0))
	}
	assert.Nil(t, m.GPU("GPU-c"))
	assert.Equal(t, "GPU-a", m.Servers()[0].Name)
	m.Metrics(sampletext.Metrics(at(61), node, "hw.power{hw.id=GPU-b} 1"), at(61))
	m.Metrics(sampletext.Metrics(at(61), node, "hw.power{hw.id=GPU-c} 1"), at(61))
	m.Metrics(sampletext.Metrics(at(61), "service.instance.id=new", "comfyui.up 1"), at(61))
	assert.Nil(t, m.GPU("GPU-a"))
	assert.NotNil(t, m.GPU("GPU-c"))
	assert.Equal(t, "new", m.Servers()[0].Name)
}

// A process that no list has had for as long as a value counts makes room, too.
func TestAProcessThatIsNotListedMakesRoom(t *testing.T) {
	m := newMachine(t, func(l *Limits) { l.Processes = 1 })
	scrape(m, 0, "hw.gpu.process.memory.usage{process.pid=1} 1")
	scrape(m, 15, "hw.gpu.process.memory.usage{process.pid=2} 1")
	assert.Equal(t, int64(1), m.Dropped()[droppedProcess])
	scrape(m, 400, "hw.gpu.process.memory.usage{process.pid=3} 1")
	assert.NotNil(t, m.GPU("GPU-a").processes[3])
}

func TestAScrapeCostsTheSameHoweverMuchIsHeld(t *testing.T) {
	with := func(gpus, seconds int) func(int) {
		m := newMachine(t)
		var all strings.Builder
		for gpu := range gpus {
			all.WriteString(sampleOf("hw.gpu.memory.usage{ID} 1\nhw.gpu.pcie.replays{ID} 1\n", gpu))
		}
		md := sampletext.Metrics(at(0), node, all.String())
		for s := range seconds {
			timed(md, float64(s), 1)
			m.Metrics(md, at(float64(s)))
			logged(m, float64(s), "hw.gpu.xid{hw.id=GPU-0,hw.gpu.xid=#31}")
		}
		require.Len(t, m.GPUs(), gpus)
		return func(i int) {
			s := float64(seconds) + float64(i)/1e3
			m.Metrics(sampletext.Metrics(at(s), node, sampleOf("hw.gpu.memory.usage{ID} 1\nhw.gpu.pcie.replays{ID} 1", 0)), at(s))
		}
	}
	growth.Constant(t, "a scrape, with more GPUs and a longer history", with(6, 100), with(60, 1000))
}
