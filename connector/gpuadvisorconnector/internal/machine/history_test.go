// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
)

func TestTheHistoryHasOneRowASecond(t *testing.T) {
	m := newMachine(t)
	for i := range 40 { // four a second
		scrape(m, float64(i)/4, fmt.Sprintf("hw.gpu.memory.usage{} %d\nhw.power{hw.gpu.power.scope=instant} 100.25", i))
	}
	m.MemoryRead("GPU-a", 1000, at(5.1)) // late, but a peak
	m.MemoryRead("GPU-a", 900, at(5.2))
	scrape(m, 10, "hw.gpu.memory.usage.max{} 500")
	h, ok := m.History("GPU-a", at(11))
	require.True(t, ok)
	require.Len(t, h.Times, 11)
	assert.InDelta(t, at(0).Unix(), h.Times[0], 0)
	assert.InDelta(t, 3.0, *h.Memory[0], 1e-9, "the last of the second")
	assert.InDelta(t, 39.0, *h.Memory[9], 1e-9)
	assert.Nil(t, h.Memory[10])
	assert.InDelta(t, 500.0, *h.MemoryPeak[10], 1e-9)
	assert.Nil(t, h.MemoryPeak[0])
	assert.InDelta(t, 1000, *h.MemoryPeak[5], 0)
	assert.InDelta(t, 23, *h.Memory[5], 0)
	assert.Nil(t, h.Temperature[0])
	assert.InDelta(t, 100.3, *h.Power[0], 0.051)
	for _, column := range [][]*float64{h.Memory, h.MemoryPeak, h.Utilization, h.Temperature, h.Power} {
		assert.Len(t, column, len(h.Times))
	}
	_, ok = m.History("GPU-unknown", at(11))
	assert.False(t, ok)
}

func TestTheHistoryReachesHalfAnHour(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.limit{} 100\nhw.gpu.memory.usage{} 90")
	for i := 1; i <= 200; i++ {
		scrape(m, float64(15*i), "hw.gpu.memory.limit{} 100\nhw.gpu.memory.usage{} 10")
	}
	h, _ := m.History("GPU-a", at(3000))
	assert.Len(t, h.Times, 120)
	assert.InDelta(t, at(3000).Unix(), h.Times[119], 0)
	assert.Equal(t, int64(10), m.View(m.GPU("GPU-a"), texts.English, at(3000)).Memory.Peak, "the peak is over")
	h, _ = m.History("GPU-a", at(3000+1790))
	assert.Len(t, h.Times, 1, "and so is the rest, if nothing comes")
}

func TestTheHistoryIsNeverEmpty(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{0: 30 * time.Minute, time.Second: time.Minute, time.Hour: time.Hour} {
		m := newMachine(t, func(l *Limits) { l.History = given })
		scrape(m, 0, "hw.gpu.memory.usage{} 1")
		assert.Equal(t, int(want.Seconds()), m.Bounds()[6].Size)
		require.NoError(t, growth.Within(m.Bounds()))
	}
}

func TestSamplesThatComeLateFillTheirPlace(t *testing.T) {
	m := newMachine(t)
	scrape(m, 100, "hw.gpu.memory.usage{} 10")
	m.Metrics(sampletext.Metrics(at(90), node, "hw.gpu.memory.usage{hw.id=GPU-a} 5"), at(101))
	m.Metrics(sampletext.Metrics(at(100), node, "hw.gpu.memory.usage{hw.id=GPU-a} 7"), at(101))
	m.Metrics(sampletext.Metrics(at(99-1800), node, "hw.gpu.memory.usage{hw.id=GPU-a} 7"), at(101))
	h, _ := m.History("GPU-a", at(101))
	require.Len(t, h.Times, 2)
	assert.InDelta(t, 5.0, *h.Memory[0], 1e-9)
	assert.InDelta(t, 10.0, *h.Memory[1], 1e-9)
}

// The driver's mean since the scrape before is known for all of that time.
func TestAMeanFillsTheTimeSinceTheScrapeBefore(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.utilization.mean{hw.gpu.task=general} 0.1")
	scrape(m, 7, "hw.gpu.utilization{hw.gpu.task=general} 1")
	scrape(m, 15, "hw.gpu.utilization.mean{hw.gpu.task=general} 0.5")
	h, _ := m.History("GPU-a", at(15))
	require.Len(t, h.Times, 15)
	assert.InDelta(t, 0.5, *h.Utilization[0], 1e-9)
	assert.InDelta(t, 1.0, *h.Utilization[6], 1e-9)
	r := m.View(m.GPU("GPU-a"), texts.English, at(15)).Recent
	require.Len(t, r.Utilization, 60)
	assert.InDelta(t, 5.0, r.Step, 1e-9)
	assert.InDelta(t, 0.5, r.Utilization[59], 1e-9)
	assert.InDelta(t, 0.6, r.Utilization[58], 1e-9, "four of 0.5, one of 1")
	assert.InDelta(t, -1.0, r.Utilization[56], 1e-9)
}

func TestAClockThatJumpsAheadLeavesAGap(t *testing.T) {
	m := newMachine(t)
	scrape(m, 0, "hw.gpu.memory.usage{} 1")
	scrape(m, 1000, "hw.gpu.memory.usage{} 2")
	h, _ := m.History("GPU-a", at(1000))
	assert.Len(t, h.Times, 2)
	scrape(m, 1e6, "hw.gpu.memory.usage{} 3")
	h, _ = m.History("GPU-a", at(1e6))
	assert.Len(t, h.Times, 1)
}

// fullGPU are the series of a GPU with 18 links and 16 processes.
func fullGPU(gpu int) string {
	text := "hw.gpu.memory.limit{ID} 1e11\nhw.gpu.memory.usage{ID} 5\nhw.gpu.memory.usage.max{ID} 6\nhw.gpu.utilization{ID,hw.gpu.task=general} 0.5\nhw.temperature{ID,hw.sensor_location=gpu} 70\nhw.power{ID,hw.gpu.power.scope=instant} 7\n"
	for _, task := range []string{"general", "encoder", "decoder"} {
		text += fmt.Sprintf("hw.gpu.active.time{ID,hw.gpu.task=%s} 1\n", task)
	}
	for _, reason := range throttleReasons {
		text += fmt.Sprintf("hw.gpu.throttle.time{ID,hw.gpu.throttle.reason=%s} 1\n", reason)
	}
	for n := range 16 {
		text += fmt.Sprintf("hw.gpu.xid.errors{ID,hw.gpu.xid=%d} 0\nhw.gpu.process.memory.usage{ID,process.pid=%d,process.executable.name=python3.12} 5\n", n+40, gpu*100+n)
	}
	for link := range 18 {
		text += fmt.Sprintf("hw.gpu.nvlink.state{ID,hw.gpu.nvlink.id=%d} 1\n", link)
		for _, kind := range []string{"crc_flit", "crc_data", "replay", "recovery", "ecc"} {
			text += fmt.Sprintf("hw.gpu.nvlink.errors{ID,hw.gpu.nvlink.id=%d,error.type=%s} 1\n", link, kind)
		}
	}
	return text
}

// timed sets the time of all points of gauges, and raises them.
func timed(md pmetric.Metrics, seconds, by float64) {
	for _, metric := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		for _, p := range metric.Gauge().DataPoints().All() {
			p.SetTimestamp(pcommon.NewTimestampFromTime(at(seconds)))
			p.SetDoubleValue(p.DoubleValue() + by)
		}
	}
}

// heap is the live heap.
func heap() int64 {
	var stats runtime.MemStats
	for range 3 {
		runtime.GC()
	}
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestHalfAnHourOf64GPUsIsSmall(t *testing.T) {
	const gpus = 64
	before := heap()
	m := newMachine(t)
	var whole strings.Builder
	for gpu := range gpus {
		whole.WriteString(sampleOf(fullGPU(gpu), gpu))
	}
	md := copied(t, sampletext.Metrics(at(0), node, whole.String()))
	for i := range 122 { // every 15 s
		timed(md, float64(15*i), 1) // everything rises, which needs the most points
		m.Metrics(md, at(float64(15*i)))
		for second := range 15 { // the fast receiver
			for gpu := range gpus {
				m.MemoryRead(fmt.Sprintf("GPU-%d", gpu), int64(i), at(float64(15*i+second)))
			}
		}
	}
	require.Len(t, m.GPUs(), gpus)
	h, _ := m.History("GPU-3", at(15*122))
	require.Greater(t, len(h.Times), 1790)
	used := heap() - before
	figure.AtMost("page.history.heap", float64(used)/(1<<20), "MiB", 6.8)
	assert.LessOrEqual(t, float64(used), 6.8*(1<<20), "the prompts have 25.2 of the page's 32 MiB")
	assert.Greater(t, used, int64(64*1800*20), "the columns are there")
	runtime.KeepAlive(m)
}

// copied has strings of its own: parts of one text would keep the whole of it alive.
func copied(t *testing.T, md pmetric.Metrics) pmetric.Metrics {
	t.Helper()
	raw, err := (&pmetric.ProtoMarshaler{}).MarshalMetrics(md)
	require.NoError(t, err)
	md, err = (&pmetric.ProtoUnmarshaler{}).UnmarshalMetrics(raw)
	require.NoError(t, err)
	return md
}

// sampleOf writes the attributes of a GPU into its series.
func sampleOf(text string, gpu int) string {
	return strings.ReplaceAll(text, "{ID", fmt.Sprintf("{hw.id=GPU-%d,hw.name=gpu%d", gpu, gpu))
}

// TestShowingAGPUDoesNotCopyItsHistory guards against a history that is copied to be shown.
func TestShowingAGPUDoesNotCopyItsHistory(t *testing.T) {
	m := newMachine(t)
	for i := range 1800 {
		scrape(m, float64(i), "hw.gpu.memory.limit{} 100\nhw.gpu.memory.usage{} 10\nhw.gpu.utilization{hw.gpu.task=general} 0.5")
	}
	g, now := m.GPU("GPU-a"), at(1800)
	allocated := testing.AllocsPerRun(100, func() { m.View(g, texts.English, now) })
	assert.Less(t, allocated, 50.0)
	began := time.Now()
	for range 100 {
		m.View(g, texts.English, now)
	}
	t.Logf("a GPU's view takes %v", time.Since(began)/100)
}
