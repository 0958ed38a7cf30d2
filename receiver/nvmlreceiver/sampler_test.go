// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// waitUntil lets wall-clock time pass: what is measured here are averages of
// the driver, which runs on the machine's clock.
func waitUntil(t *testing.T, at time.Time) {
	t.Helper()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	<-timer.C
}

func TestPeakBetweenTwoCollectionsIsSeen(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 10 * time.Millisecond }).ready(1)
	r.collectNow()
	calls := gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
	gpus[0].Set("memory_used", 40000*mib)
	require.Eventually(t, func() bool { return gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2") > calls+1 }, 5*time.Second, time.Millisecond)
	gpus[0].Set("memory_used", 1000*mib)
	m := r.collectNow()
	p, ok := point(m, "hw.gpu.memory.usage.max", nil)
	require.True(t, ok)
	assert.EqualValues(t, 40000*mib, p.IntValue())
	p, _ = point(m, "hw.gpu.memory.usage", nil)
	assert.EqualValues(t, 1000*mib, p.IntValue(), "a plain reader sees nothing of it")
	p, _ = point(r.collectNow(), "hw.gpu.memory.usage.max", nil)
	assert.EqualValues(t, 1000*mib, p.IntValue(), "the peak belongs to one scrape")
}

const mib = 1 << 20

func TestActiveTimeIsTheIntegralOfTheDriversSamples(t *testing.T) {
	for _, buffers := range []bool{true, false} {
		t.Run("buffers="+strconv.FormatBool(buffers), func(t *testing.T) {
			_, gpus := library.Machine(t, "l40s")
			gpus[0].SetSamplingPeriods(20*time.Millisecond, time.Second)
			gpus[0].Step("gpu", 0)
			if !buffers {
				gpus[0].SetReturn("nvmlDeviceGetSamples", fakenvml.NotSupported)
			}
			r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 10 * time.Millisecond }).ready(1)
			general := map[string]string{"hw.gpu.task": "general"}
			r.until("samples are there", func(m pmetric.Metrics) bool { _, ok := point(m, "hw.gpu.active.time", general); return ok })
			p, _ := point(r.collectNow(), "hw.gpu.active.time", general)
			before := p.DoubleValue()
			gpus[0].Step("gpu", 80)
			begin := time.Now()
			waitUntil(t, begin.Add(500*time.Millisecond))
			gpus[0].Step("gpu", 0)
			busy := time.Since(begin)
			waitUntil(t, time.Now().Add(60*time.Millisecond))
			m := r.collectNow()
			p, _ = point(m, "hw.gpu.active.time", general)
			assert.InDelta(t, 0.8*busy.Seconds(), p.DoubleValue()-before, 0.06)
			p, ok := point(m, "hw.gpu.utilization.max", general)
			require.True(t, ok)
			assert.InDelta(t, 0.8, p.DoubleValue(), 0.01)
			p, _ = point(m, "hw.gpu.utilization.mean", general)
			assert.Greater(t, p.DoubleValue(), 0.3)
			assert.Less(t, p.DoubleValue(), 0.8)
		})
	}
}

func TestSamplerIsOffAtZeroAndRefusesTooShort(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 0 }).ready(1)
	m := r.collectNow()
	for _, name := range []string{"hw.gpu.memory.usage.max", "hw.gpu.utilization.max", "hw.gpu.active.time"} {
		_, ok := point(m, name, nil)
		assert.False(t, ok, name)
	}
	assert.Zero(t, gpus[0].Calls("nvmlDeviceGetSamples"))
	assert.Nil(t, r.sampler)
	_, err := load(t, map[string]any{"sampling_interval": "1ms"})
	require.ErrorContains(t, err, "sampling_interval: 1ms is shorter than 10ms")
}

func TestSamplerLeavesALateGPUAlone(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) {
		c.SamplingInterval, c.CardTimeout = 10*time.Millisecond, 50*time.Millisecond
	}).ready(2)
	r.collectNow()
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", true)
	m := r.collectNow()
	assert.InDelta(t, 0, isUp(m, "gpu0"), 0)
	hung := gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
	other := gpus[1].Calls("nvmlDeviceGetMemoryInfo_v2")
	require.Eventually(t, func() bool { return gpus[1].Calls("nvmlDeviceGetMemoryInfo_v2") > other+5 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, hung, gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2"))
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	r.until("back", func(m pmetric.Metrics) bool { return isUp(m, "gpu0") == 1 })
}

func TestStepsBeyondASamplingPeriodAreNoBusyTime(t *testing.T) {
	var e engineWindow
	e.add(1_000_000, 100)
	e.add(1_500_000, 100)
	assert.InDelta(t, 0.5, e.active, 1e-9)
	e.add(60_000_000, 100) // the GPU was away
	assert.InDelta(t, 0.5, e.active, 1e-9)
	e.add(59_000_000, 100) // a clock that jumps back
	e.add(60_500_000, 50)
	assert.InDelta(t, 0.75, e.active, 1e-9)
}

// TestPeakFigures prints how many spikes of 200 ms are seen with the right
// height, how true the busy time is, and what the sampler costs, each beside a
// plain reader at the scrapes.
func TestPeakFigures(t *testing.T) {
	if !*figures {
		t.Skip("asked for with -figures (make bench-peaks)")
	}
	const collections, interval = 12, 3 * time.Second
	profiles := make([]string, 8)
	for i := range profiles {
		profiles[i] = "l40s"
	}
	_, gpus := library.Machine(t, profiles...)
	for _, c := range gpus {
		c.SetSamplingPeriods(166*time.Millisecond, time.Second)
		c.Step("gpu", 0)
	}
	r := newRig(t, nvml.NewSessions(nvml.Timing{}), func(c *Config) {
		c.Metrics.HwGpuXidErrors.Enabled = false // the test library has to poll for events
	}).ready(8)
	general := map[string]string{"hw.gpu.task": "general", "hw.name": "gpu0"}
	random := rand.New(rand.NewPCG(3, 4))
	r.collectNow()
	seen, plain := 0, 0
	var truth, polled float64
	p, _ := point(r.collectNow(), "hw.gpu.active.time", general)
	activeBefore := p.DoubleValue()
	began, cpu := time.Now(), cpuTime(t)
	for range collections {
		end := time.Now().Add(interval)
		waitUntil(t, time.Now().Add(time.Duration(random.Int64N(int64(interval-400*time.Millisecond)))))
		height := int64(20000+random.IntN(20000)) * mib
		gpus[0].Set("memory_used", height)
		gpus[0].Step("gpu", 100)
		spike := time.Now()
		waitUntil(t, spike.Add(200*time.Millisecond))
		gpus[0].Set("memory_used", 1000*mib)
		gpus[0].Step("gpu", 0)
		truth += time.Since(spike).Seconds()
		waitUntil(t, end)
		m := r.collectNow()
		if p, ok := point(m, "hw.gpu.memory.usage.max", map[string]string{"hw.name": "gpu0"}); ok && p.IntValue() == height {
			seen++
		}
		if p, ok := point(m, "hw.gpu.memory.usage", map[string]string{"hw.name": "gpu0"}); ok && p.IntValue() == height {
			plain++
		}
		u, _ := point(m, "hw.gpu.utilization", general)
		polled += u.DoubleValue() * interval.Seconds()
	}
	used := cpuTime(t) - cpu
	waitUntil(t, time.Now().Add(200*time.Millisecond))
	p, _ = point(r.collectNow(), "hw.gpu.active.time", general)
	active := p.DoubleValue() - activeBefore
	figure.AtLeast("peaks.spikes_seen", float64(seen)/collections*100, "%", 99)
	figure.Print("peaks.spikes_seen_by_plain_reader", float64(plain)/collections*100, "%")
	figure.AtMost("peaks.busy_time_error", abs(active-truth)/truth*100, "%", 2)
	figure.Print("peaks.busy_time_error_of_plain_reader", abs(polled-truth)/truth*100, "%")
	figure.AtMost("peaks.cpu_8_cards", used.Seconds()/time.Since(began).Seconds()*100, "%", 0.5)
}

func abs(v float64) float64 { return max(v, -v) }

// cpuTime is the processor time of this process: the sampler's, a scrape
// every three seconds, and the test's own.
func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/stat")
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest)
	ticks := 0
	for _, f := range fields[11:13] { // utime, stime in ticks of 10 ms
		n, err := strconv.Atoi(f)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
