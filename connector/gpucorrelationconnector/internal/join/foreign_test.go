// SPDX-License-Identifier: Apache-2.0

package join

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// sharedTimes are what the driver's samples, once a second, say of process 88 while a prompt of
// process 77 runs from 10 to 14 s; other is the process of another trace from 12 to 13 s, 0 for none.
func sharedTimes(t *testing.T, other int64, use func(second int) float64) map[string]any {
	t.Helper()
	j := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 0, 100)
	for i := range 180 {
		at := float64(i) / 10
		md := gpuload.Sample(at, gpu)
		if i%10 == 0 && i > 0 {
			during := 0.0
			if at > 10 && at <= 14 {
				during = 0.5
			}
			addUse(md, at, gpuload.A, 77, during)
			if v := use(i / 10); v >= 0 {
				addUse(md, at, gpuload.A, 88, v)
			}
		}
		j.AddMetrics(md)
	}
	td := bigTrace(bigSpan{1, 11, 0, gpuload.A, 10, 14})
	td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutInt("process.pid", 77)
	var all []ptrace.Traces
	if other != 0 {
		o := bigTrace(bigSpan{2, 21, 0, gpuload.A, 12, 13})
		o.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().PutInt("process.pid", other)
		all = append(all, j.AddTraces(o, gpuload.At(18))...)
	}
	all = append(all, j.AddTraces(td, gpuload.At(18))...)
	j.Finish()
	rest, _ := drain(j)
	for _, td := range append(all, rest...) {
		for _, rs := range td.ResourceSpans().All() {
			if span := rs.ScopeSpans().At(0).Spans().At(0); span.TraceID() == traceOf(1) {
				return span.Attributes().AsRaw()
			}
		}
	}
	require.Fail(t, "the trace was not delivered")
	return nil
}

func TestTimeBesideAProcessWithoutTracesIsOnTheSpan(t *testing.T) {
	none := func(int) float64 { return -1 }
	always := func(v float64) func(int) float64 { return func(int) float64 { return v } }
	for _, c := range []struct {
		name  string
		other int64
		use   func(second int) float64
		want  any
	}{
		{"no other process", 0, none, nil},
		{"one that does nothing", 0, always(0), nil},
		{"one that works half of the time", 0, always(0.5), 2.0},
		{"one that works in the second before its sample", 0, func(s int) float64 {
			if s == 12 {
				return 0.8
			}
			return 0
		}, 0.8},
		{"one that was not reported for long", 0, func(s int) float64 {
			if s == 1 || s == 14 {
				return 0.8
			}
			return -1
		}, 0.8 * float64(maxUseAge) / 1e9},
		{"the process of another trace", 88, always(0.5), nil},
		{"a third one, beside another trace", 99, always(0.5), 1.5},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := sharedTimes(t, c.other, c.use)
			if c.want == nil {
				assert.NotContains(t, a, "gpu.shared.process.time")
				return
			}
			assert.InDelta(t, c.want, a["gpu.shared.process.time"], 1e-6)
		})
	}
}

// TestTimesByTheClockOfSeveralGPUsAreNotAddedUp: the GPUs of a prompt are throttled, and shared, at
// the same time.
func TestTimesByTheClockOfSeveralGPUsAreNotAddedUp(t *testing.T) {
	b := &bill{shared: 2 * time.Second, foreign: time.Second, gpuTime: 3, throttle: map[string]float64{"sw_thermal": 2}}
	b.add(&bill{shared: time.Second, foreign: 3 * time.Second, gpuTime: 4, throttle: map[string]float64{"sw_thermal": 1, "sw_power_cap": 1.5}})
	assert.Equal(t, 2*time.Second, b.shared)
	assert.Equal(t, 3*time.Second, b.foreign)
	assert.Equal(t, map[string]float64{"sw_thermal": 2, "sw_power_cap": 1.5}, b.throttle)
	assert.InDelta(t, 7, b.gpuTime, 0, "seconds of GPUs are")
}
