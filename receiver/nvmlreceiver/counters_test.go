// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestCounterThatGoesBackGetsANewStartAndTheOthersDoNot(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	replays := map[string]string{"hw.name": "gpu0"}
	gpus[0].Set("pcie_replays", 900)
	first := r.scrapeNow()
	before, _ := point(first, "hw.gpu.pcie.replays", replays)
	others, _ := point(first, "hw.gpu.row_remaps", replays)
	gpus[0].Set("pcie_replays", 3)
	m := r.scrapeNow()
	after, ok := point(m, "hw.gpu.pcie.replays", replays)
	require.True(t, ok)
	assert.EqualValues(t, 3, after.IntValue())
	assert.Equal(t, before.Timestamp(), after.StartTimestamp(), "it counts since it was last seen")
	still, _ := point(m, "hw.gpu.row_remaps", replays)
	assert.Equal(t, others.StartTimestamp(), still.StartTimestamp())
	again, _ := point(r.scrapeNow(), "hw.gpu.pcie.replays", replays)
	assert.Equal(t, after.StartTimestamp(), again.StartTimestamp(), "the new start stays")
	assert.Equal(t, first.ResourceMetrics().Len(), m.ResourceMetrics().Len(), "it has no resource of its own")
	count := 0
	eachPoint(m, func(pmetric.NumberDataPoint) { count++ })
	all := 0
	eachPoint(first, func(pmetric.NumberDataPoint) { all++ })
	assert.Greater(t, count, all-1, "no point is lost or doubled")
}

func TestByteCounterOf32BitsDoesNotWrap(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	set := func(v int64) {
		gpus[0].SetField(197, v, fakenvml.TypeUnsignedInt, fakenvml.Success)
		gpus[0].SetField(198, 7, fakenvml.TypeUnsignedInt, fakenvml.Success)
	}
	set(1<<32 - 100)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 0 }).ready(1)
	sent := map[string]string{"network.io.direction": "transmit"}
	p, ok := point(r.scrapeNow(), "hw.gpu.io", sent)
	require.True(t, ok)
	assert.EqualValues(t, 1<<32-100, p.IntValue())
	set(50)
	p, _ = point(r.scrapeNow(), "hw.gpu.io", sent)
	assert.EqualValues(t, 1<<32+50, p.IntValue())
}

func TestSamplerFollowsAByteCounterThatWrapsBetweenScrapes(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	set := func(v int64) { gpus[0].SetField(197, v, fakenvml.TypeUnsignedInt, fakenvml.Success) }
	gpus[0].SetField(198, 0, fakenvml.TypeUnsignedInt, fakenvml.Success)
	set(0)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 10 * time.Millisecond }).ready(1)
	r.scrapeNow()
	seen := func() {
		calls := gpus[0].Calls("nvmlDeviceGetFieldValues")
		require.Eventually(t, func() bool { return gpus[0].Calls("nvmlDeviceGetFieldValues") > calls+1 }, 10*time.Second, time.Millisecond)
	}
	for range 3 { // three times around
		set(1 << 31)
		seen()
		set(0)
		seen()
	}
	p, _ := point(r.scrapeNow(), "hw.gpu.io", map[string]string{"network.io.direction": "transmit"})
	assert.EqualValues(t, 3<<32, p.IntValue())
}

func TestEnergyIsIntegratedAndMarkedWhereTheGPUHasNoCounter(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	gpus[0].SetSamplingPeriods(time.Microsecond, time.Microsecond)
	gpus[0].SetReturn("nvmlDeviceGetTotalEnergyConsumption", fakenvml.NotSupported)
	gpus[0].Step("power", 100_000)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.SamplingInterval = 0 }).ready(1)
	now := time.Now()
	r.now = func() time.Time { return now }
	integrated := map[string]string{"hw.gpu.energy.source": "integrated"}
	energy := func() float64 {
		p, ok := point(r.scrapeNow(), "hw.energy", integrated)
		require.True(t, ok)
		return p.DoubleValue()
	}
	assert.InDelta(t, 0, energy(), 0)
	now = now.Add(10 * time.Second)
	assert.InDelta(t, 1000, energy(), 0.001, "100 W for 10 s")
	gpus[0].Step("power", 300_000)
	now = now.Add(10 * time.Second)
	assert.InDelta(t, 3000, energy(), 0.001, "from 100 to 300 W in 10 s")
	now = now.Add(time.Hour)
	assert.InDelta(t, 3000, energy(), 0.001, "a gap is not counted")
	now = now.Add(time.Second)
	assert.InDelta(t, 3300, energy(), 0.001)
}

func TestClockThatJumpsStopsNothing(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s")
	gpus[0].SetSamplingPeriods(100*time.Millisecond, time.Second)
	gpus[0].Step("gpu", 100)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	busy := map[string]string{"hw.gpu.task": "general"}
	var offset atomic.Int64
	r.now = func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }
	active := func(m pmetric.Metrics) float64 {
		p, ok := point(m, "hw.gpu.active.time", busy)
		require.True(t, ok)
		return p.DoubleValue()
	}
	grows := func(what string) {
		from := active(r.scrapeNow())
		r.until(what, func(m pmetric.Metrics) bool { return active(m) > from+0.1 })
	}
	r.until("the first samples", func(m pmetric.Metrics) bool {
		_, ok := point(m, "hw.gpu.active.time", busy)
		return ok
	})
	grows("before")
	base := active(r.scrapeNow())
	for _, jump := range []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, 0} {
		machine.SetClockOffset(jump)
		offset.Store(int64(jump))
		grows("after a jump to " + jump.String())
		eachPoint(r.scrapeNow(), func(p pmetric.NumberDataPoint) {
			assert.LessOrEqual(t, p.StartTimestamp(), p.Timestamp())
		})
	}
	assert.Less(t, active(r.scrapeNow())-base, 60.0, "a jump of the clock is not counted")
}

func TestGPUsWithTheSameUUIDHaveSeriesOfTheirOwn(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	// A board that was cloned badly has the UUID of its neighbour.
	gpus[0].SetText("uuid", "GPU-11111111-0000-4000-8000-000000000001")
	gpus[1].SetText("uuid", "GPU-11111111-0000-4000-8000-000000000001")
	gpus[0].Set("temperature_gpu", 41)
	gpus[1].Set("temperature_gpu", 42)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(2)
	m := r.scrapeNow()
	ids := map[string]bool{}
	for name, want := range map[string]float64{"gpu0": 41, "gpu1": 42} {
		p, ok := point(m, "hw.temperature", map[string]string{"hw.name": name, "hw.sensor_location": "gpu"})
		require.True(t, ok, name)
		assert.InDelta(t, want, number(p), 0)
		id, _ := p.Attributes().Get("hw.id")
		ids[id.Str()] = true
	}
	assert.Len(t, ids, 2)
	require.Eventually(t, func() bool { return r.logs.FilterMessageSnippet("the same UUID").Len() == 1 }, 10*time.Second, 5*time.Millisecond)
	for range 3 {
		r.scrapeNow()
	}
	assert.Equal(t, 1, r.logs.FilterMessageSnippet("the same UUID").Len(), "logged once")
}
