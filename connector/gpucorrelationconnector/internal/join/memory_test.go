// SPDX-License-Identifier: Apache-2.0

package join

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// allocations are of a GPU on which process 77 holds 2 GB, from 10.5 s 6 GB, and process 78
// as much as others says. The memory is sampled ten times a second, the processes each 2.5 s.
func allocations(c *Joiner, process, others func(s float64) float64) {
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	gpu.Memory = func(s float64) float64 { return 0.5 + process(s) + others(s) }
	gpu.Process = map[int64]func(float64) float64{77: process, 78: others}
	for i := range 200 {
		md := gpuload.Sample(float64(i)/10, gpu)
		if i%25 != 0 {
			md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().RemoveIf(func(m pmetric.Metric) bool {
				return m.Name() == "hw.gpu.process.memory.usage"
			})
		}
		c.AddMetrics(md)
	}
}

func grows(s float64) float64 {
	if s >= 10.55 {
		return 6
	}
	return 2
}

func steady(float64) float64 { return 1 }

// execution is a trace of a span of process 77 that says what its server's allocator did.
func execution(id byte, from, to float64, attributes map[string]int64) ptrace.Traces {
	td := gpuload.Trace(id, gpuload.Span{ID: 1, GPU: gpuload.A, From: from, To: to, PID: 77})
	for k, v := range attributes {
		td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutInt(k, v)
	}
	return td
}

func TestMemoryBetweenListsIsTheProcesss(t *testing.T) {
	c := newTestJoiner()
	allocations(c, grows, steady)
	c.AddTraces(execution(1, 10, 12, nil), gpuload.At(20))
	c.AddTraces(execution(2, 13, 14, nil), gpuload.At(20))
	got := out(t, c)
	first := got["1.1"]
	assert.Equal(t, sourceProcess, first["gpu.memory.source"])
	near(t, 6e9, first["gpu.memory.peak"], 1, "peak")
	near(t, 2e9, first["gpu.memory.start"], 1, "start")
	near(t, 4e9, first["gpu.memory.held.growth"], 1, "growth")
	assert.NotContains(t, first, "comfyui.memory.need.max", "a span of no ComfyUI")
	near(t, 0, got["2.1"]["gpu.memory.held.growth"], 0, "the allocator kept what it had")
	near(t, 6e9, got["2.1"]["gpu.memory.peak"], 1, "what is held is not what is needed")
}

func TestGrowthBetweenTheLastSampleAndTheEndIsTheSpans(t *testing.T) {
	c := newTestJoiner()
	allocations(c, grows, steady) // the growth is seen at 10.6 s
	c.AddTraces(execution(1, 10, 10.58, map[string]int64{"comfyui.memory.reserved.peak": 1e9, "comfyui.memory.context": 5e8}), gpuload.At(20))
	a := out(t, c)["1.1"]
	near(t, 2e9, a["gpu.memory.peak"], 1, "peak")
	near(t, 4e9, a["gpu.memory.held.growth"], 1, "growth")
	near(t, 5.5e9, a["comfyui.memory.need.max"], 1, "the sample after the end counts")
}

func TestUpperBoundOfTheNeed(t *testing.T) {
	const reserved, growth, context = "comfyui.memory.reserved.peak", "comfyui.memory.reserved.growth", "comfyui.memory.context"
	drops := func(s float64) float64 { // 3 GB are given back for a while
		if s >= 10.85 && s < 11.15 {
			return 1
		}
		return grows(s)
	}
	rises := func(s float64) float64 {
		if s >= 11.05 {
			return 3
		}
		return 1
	}
	for name, x := range map[string]struct {
		process, others func(float64) float64
		from, to        float64
		allocator       map[string]int64
		want            any
		source          string
	}{
		"held, less the context":                                      {grows, steady, 10, 12, map[string]int64{reserved: 5.4e9, context: 6e8}, int64(5.4e9), sourceProcess},
		"held, with an unknown context":                               {grows, steady, 10, 12, map[string]int64{reserved: 5.4e9}, int64(6e9), sourceProcess},
		"the reserve, where it is less":                               {grows, steady, 10, 12, map[string]int64{reserved: 5.2e9, growth: 3e9, context: 6e8}, int64(5.2e9), sourceProcess},
		"held, where the reserve is more":                             {grows, steady, 10, 12, map[string]int64{reserved: 5.9e9, growth: 3e9, context: 6e8}, int64(5.4e9), sourceProcess},
		"the reserve, where held did not grow":                        {grows, steady, 13, 14, map[string]int64{reserved: 5.2e9, growth: 1e8, context: 6e8}, int64(5.2e9), sourceProcess},
		"none, where nothing grew":                                    {grows, steady, 13, 14, map[string]int64{reserved: 5.2e9, growth: 0, context: 6e8}, nil, sourceProcess},
		"held, where some of it was given back":                       {drops, steady, 10, 12, map[string]int64{reserved: 5.2e9, growth: 1e8, context: 6e8}, int64(5.4e9), sourceProcess},
		"none, where only the reserve grew and memory was given back": {drops, steady, 10.7, 12, map[string]int64{reserved: 5.2e9, growth: 1e8, context: 6e8}, nil, sourceProcess},
		"the reserve alone, where others changed":                     {grows, rises, 10, 12, map[string]int64{reserved: 5.2e9, growth: 3e9, context: 6e8}, int64(5.2e9), sourceShared},
		"none, where it says nothing":                                 {grows, steady, 10, 12, nil, nil, sourceProcess},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestJoiner()
			allocations(c, x.process, x.others)
			c.AddTraces(execution(1, x.from, x.to, x.allocator), gpuload.At(20))
			a := out(t, c)["1.1"]
			assert.Equal(t, x.source, a["gpu.memory.source"])
			if x.want == nil {
				assert.NotContains(t, a, "comfyui.memory.need.max")
				return
			}
			near(t, float64(x.want.(int64)), a["comfyui.memory.need.max"], 2, "bound")
		})
	}
}

func TestMemoryOfProcessesThatWorkAtOnceIsAnEstimate(t *testing.T) {
	c := newTestJoiner()
	allocations(c, grows, steady)
	c.AddTraces(gpuload.Trace(2, gpuload.Span{ID: 1, GPU: gpuload.A, From: 9, To: 12, PID: 78}), gpuload.At(20))
	c.AddTraces(execution(1, 10, 12, map[string]int64{"comfyui.memory.reserved.peak": 5e9, "comfyui.memory.context": 6e8}), gpuload.At(20))
	got := out(t, c)
	assert.Equal(t, sourceShared, got["1.1"]["gpu.memory.source"])
	assert.Equal(t, sourceShared, got["2.1"]["gpu.memory.source"])
	assert.NotContains(t, got["1.1"], "comfyui.memory.need.max", "the growth may be the other's")
}

func TestSumOverGPUsHasTheMethodThatSaysLess(t *testing.T) {
	assert.Equal(t, gputimeline.MethodAverage, lessExact(gputimeline.MethodInstant, gputimeline.MethodAverage))
	assert.Equal(t, gputimeline.MethodAverage, lessExact(gputimeline.MethodAverage, gputimeline.MethodCounter))
	assert.Equal(t, gputimeline.MethodInstant, lessExact(gputimeline.MethodInstant, gputimeline.MethodCounter))
	assert.Equal(t, gputimeline.MethodCounter, lessExact(gputimeline.MethodCounter, ""))
}
