// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// single returns the attributes of the only span that is ready.
func single(t *testing.T, c *Joiner) map[string]any {
	t.Helper()
	all, spans := drain(c)
	require.Equal(t, 1, spans)
	return all[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().AsRaw()
}

func TestFiguresAreMeasuredSoonAfterTheClockWasSetBack(t *testing.T) {
	for _, step := range []float64{3600, 300, 5} { // beyond the history, within it, and a little
		c := newTestJoiner()
		gpu := gpuload.Steady(gpuload.A, 0, 1e9)
		for i := range 7000 {
			s := float64(i) / 10
			c.AddMetrics(gpuload.Sample(s, gpu))
			if i%10 == 0 {
				c.Expire(gpuload.At(s))
			}
		}
		// One that waits then does not wait for an hour.
		c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.B, From: 699, To: 699.9}), gpuload.At(700))
		measured, waited := -1.0, -1.0
		for i := range 300 {
			s := 700 + float64(i)/10
			now := s - step // what the clock shows
			c.AddMetrics(sampleAt(s, now, gpu))
			if i%10 == 0 {
				c.AddTraces(bigTrace(bigSpan{uint64(100 + i), 1, 0, gpuload.A, now - 1, now}), gpuload.At(now))
			}
			if i%5 == 0 {
				c.Expire(gpuload.At(now))
			}
			all, _ := drain(c)
			for _, td := range all {
				for _, rs := range td.ResourceSpans().All() {
					span := rs.ScopeSpans().At(0).Spans().At(0)
					a := span.Attributes().AsRaw()
					switch {
					case span.TraceID()[15] == 1 && span.TraceID()[14] == 0:
						waited = float64(i) / 10
					case a["gpu.correlation"] == Measured && measured < 0 && now >= 700-step+1:
						measured = float64(i) / 10
						near(t, 200, a["gpu.energy"], 1, "energy")
					}
				}
			}
		}
		assert.Positive(t, measured, "%v s", step)
		assert.Less(t, measured, 3.0, "%v s", step)
		assert.InDelta(t, c.settings.Wait.Seconds(), waited, 1, "%v s", step)
		counted := c.Drain()
		assert.Equal(t, int64(1), counted.SetBack, "%v s", step)
		assert.Greater(t, counted.Dropped, int64(1000), "the samples of the future are counted")
	}
}

func TestSamplesThatAreLateDoNotRestartAGPU(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	samples(c, 0, 13, 0.1, gpu)
	c.AddMetrics(sampleAt(13.1, 5.05, gpu))
	c.Expire(gpuload.At(13.1))
	assert.Zero(t, c.Drain().SetBack)
	// Another host's clock that is ahead was not set back.
	c.AddMetrics(sampleAt(13.2, 20, gpu))
	c.Expire(gpuload.At(13.2))
	assert.Zero(t, c.Drain().SetBack)
}

func TestRememberedTracesAreBoundedOverAllGPUs(t *testing.T) {
	c := newTestJoiner(func(cfg *Settings) { cfg.Limits.Traces = 50 })
	for i := range uint64(1000) { // none of them is ever sampled
		at := float64(i) / 100
		c.AddTraces(bigTrace(bigSpan{i + 1, 1, 0, fmt.Sprintf("GPU-%d", i%7), at, at + 1}), gpuload.At(at+1))
	}
	held := 0
	for _, g := range c.gpus {
		assert.Len(t, g.active.ended, g.active.windows.n)
		held += len(g.active.ended)
	}
	assert.Equal(t, 50, held)
	assert.Equal(t, 50, c.memory.ended.Len())
	assert.Equal(t, int64(950), c.Drain().Forgotten["trace"])
	c.Expire(gpuload.At(11 + 615)) // the history is over
	assert.Zero(t, c.memory.ended.Len())
	assert.Zero(t, c.memory.windows)
	assert.Nil(t, c.memory.fresh)
}

func TestWindowsOfOneTraceAgeWhileItGoesOn(t *testing.T) {
	c := newTestJoiner()
	add := func(i int, step float64) float64 {
		at := float64(i) * step
		c.AddTraces(bigTrace(bigSpan{1, uint64(i + 1), 0, gpuload.A, at, at + 0.05}), gpuload.At(at+0.1))
		c.Expire(gpuload.At(at + 0.1))
		drain(c)
		return at
	}
	for i := range 1000 {
		add(i, 0.1)
	}
	x := c.gpus[gpuload.A].active.ended[traceOf(1)]
	assert.Len(t, x.windows, maxWindows, "by their number")
	assert.Equal(t, maxWindows, c.memory.windows)
	assert.Equal(t, int64(1000-maxWindows), c.Drain().Forgotten["window"])
	assert.LessOrEqual(t, len(x.spans), maxSpanIntervals)
	for i := 1; i < 100; i++ {
		add(i, 100)
	}
	assert.LessOrEqual(t, len(x.windows), 7, "and by their age")
	assert.Equal(t, len(x.windows), c.memory.windows)
}

func TestASpanAboveManyWindowsGetsAnEstimate(t *testing.T) {
	c := newTestJoiner()
	samples(c, 0, 60, 0.1, gpuload.Steady(gpuload.A, 0, 60))
	spans := []bigSpan{{1, 1, 0, "", 0, 50}, {1, 2, 1, "", 0, 50}}
	for i := range 100 { // of 0.25 s, 0.25 s apart, but for one longer break
		at := float64(i)/2 + float64(i/50)
		spans = append(spans, bigSpan{1, uint64(i + 3), 2, gpuload.A, at, at + 0.25})
	}
	c.AddTraces(bigTrace(spans...), gpuload.At(60))
	all, n := drain(c)
	require.Equal(t, len(spans), n)
	out := all[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	for i := range 2 {
		a := out.At(i).Attributes().AsRaw()
		assert.Equal(t, Estimate, a["gpu.correlation"])
		assert.Equal(t, reasonCoarse, a["gpu.correlation.reason"])
		assert.Greater(t, a["gpu.energy"], 100*0.25*200-1, "no less than what it used")
		assert.Less(t, a["gpu.energy"], 50*200.0, "the longest breaks are not counted")
	}
	assert.Equal(t, out.At(0).Attributes().AsRaw(), out.At(1).Attributes().AsRaw())
	assert.Equal(t, Measured, out.At(2).Attributes().AsRaw()["gpu.correlation"], "a span of its own is exact")
}

func TestManySharersGiveAnEstimate(t *testing.T) {
	c := newTestJoiner()
	samples(c, 0, 60, 0.1, gpuload.Steady(gpuload.A, 0, 60))
	for i := range uint64(maxSharers + 1) {
		c.AddTraces(bigTrace(bigSpan{i + 2, 1, 0, gpuload.A, 10, 12}), gpuload.At(60))
	}
	drain(c)
	c.AddTraces(bigTrace(bigSpan{1, 1, 0, gpuload.A, 10, 12}), gpuload.At(60))
	a := single(t, c)
	assert.Equal(t, reasonCoarse, a["gpu.correlation.reason"])
	near(t, maxSharers+1, a["gpu.shared.traces"], 0, "those that are followed, and itself")
}

// A prompt that was recovered after a kill: its samples died with the process.
func TestATraceFromBeforeTheFirstSampleDoesNotWait(t *testing.T) {
	for name, from := range map[string]float64{"long before": 10, "just before": 97.8} {
		t.Run(name, func(t *testing.T) {
			c := newTestJoiner()
			gpu := gpuload.Steady(gpuload.A, 0, 200)
			td := func() bigSpan { return bigSpan{1, 1, 0, gpuload.A, from, from + 2} }
			c.AddTraces(bigTrace(td()), gpuload.At(99.9))
			_, spans := drain(c)
			require.Zero(t, spans, "before the first sample it waits for one")
			samples(c, 100, 100, 0.1, gpu)
			a := single(t, c)
			assert.Equal(t, None, a["gpu.correlation"])
			assert.Equal(t, reasonNoSamples, a["gpu.correlation.reason"])
			assert.NotContains(t, a, "gpu.memory.peak", "that of another time")
			c.AddTraces(bigTrace(td()), gpuload.At(101))
			assert.Equal(t, reasonNoSamples, single(t, c)["gpu.correlation.reason"], "after it, not at all")
		})
	}
}
