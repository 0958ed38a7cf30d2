// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// waitUntil waits for a time of the wall clock, on which the driver's averages depend.
func waitUntil(t *testing.T, at time.Time) {
	t.Helper()
	require.Eventually(t, func() bool { return !time.Now().Before(at) }, time.Until(at)+10*time.Second, time.Millisecond)
}

func TestPeakBetweenTwoScrapesIsSeen(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 10 * time.Millisecond }).ready(1)
	r.scrapeNow()
	calls := gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
	gpus[0].Set("memory_used", 40000*mib)
	require.Eventually(t, func() bool { return gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2") > calls+1 }, 5*time.Second, time.Millisecond)
	gpus[0].Set("memory_used", 1000*mib)
	m := r.scrapeNow()
	p, ok := point(m, "hw.gpu.memory.usage.max", nil)
	require.True(t, ok)
	assert.EqualValues(t, 40000*mib, p.IntValue())
	p, _ = point(m, "hw.gpu.memory.usage", nil)
	assert.EqualValues(t, 1000*mib, p.IntValue(), "a plain reader does not see it")
	p, _ = point(r.scrapeNow(), "hw.gpu.memory.usage.max", nil)
	assert.EqualValues(t, 1000*mib, p.IntValue(), "the peak belongs to one scrape")
}

// TestWhatTheSamplerReadsIsPublished: components of the process see a change of memory before
// the next scrape.
func TestWhatTheSamplerReadsIsPublished(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 10 * time.Millisecond }).ready(1)
	readings := make(chan gpuevents.MemoryReading, 1000)
	defer r.bus.Memory.Subscribe(func(m gpuevents.MemoryReading) {
		select {
		case readings <- m:
		default:
		}
	})()
	gpus[0].Set("memory_used", 40000*mib)
	p, _ := point(r.scrapeNow(), "hw.gpu.memory.usage", nil)
	id, _ := p.Attributes().Get("hw.id")
	deadline := time.After(10 * time.Second)
	for {
		select {
		case m := <-readings:
			if m.Used == 40000*mib {
				assert.Equal(t, id.Str(), m.ID)
				assert.WithinDuration(t, time.Now(), m.Time, 10*time.Second)
				return
			}
		case <-deadline:
			require.Fail(t, "the sampler's reading was not published")
		}
	}
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
			p, _ := point(r.scrapeNow(), "hw.gpu.active.time", general)
			before := p.DoubleValue()
			gpus[0].Step("gpu", 80)
			begin := time.Now()
			waitUntil(t, begin.Add(500*time.Millisecond))
			gpus[0].Step("gpu", 0)
			busy := time.Since(begin)
			waitUntil(t, time.Now().Add(60*time.Millisecond))
			m := r.scrapeNow()
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
	m := r.scrapeNow()
	for _, name := range []string{"hw.gpu.memory.usage.max", "hw.gpu.utilization.max", "hw.gpu.active.time"} {
		_, ok := point(m, name, nil)
		assert.False(t, ok, name)
	}
	assert.Zero(t, gpus[0].Calls("nvmlDeviceGetSamples"))
	assert.Nil(t, r.sampler)
	_, err := load(t, map[string]any{"sampling_interval": "1ms"})
	require.ErrorContains(t, err, "sampling_interval: 1ms is shorter than 10ms")
}

func TestSamplerSkipsAnUnresponsiveGPU(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	r := newRig(t, nvml.NewSessions(impatient), func(c *Config) { c.SamplingInterval = 10 * time.Millisecond }).ready(2)
	r.scrapeNow()
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", true)
	m := r.scrapeNow()
	assert.InDelta(t, 0, isUp(m, "gpu0"), 0)
	hung := gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
	other := gpus[1].Calls("nvmlDeviceGetMemoryInfo_v2")
	require.Eventually(t, func() bool { return gpus[1].Calls("nvmlDeviceGetMemoryInfo_v2") > other+5 }, 5*time.Second, time.Millisecond)
	assert.Equal(t, hung, gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2"))
	gpus[0].SetHang("nvmlDeviceGetMemoryInfo_v2", false)
	r.until("back", func(m pmetric.Metrics) bool { return isUp(m, "gpu0") == 1 })
}
