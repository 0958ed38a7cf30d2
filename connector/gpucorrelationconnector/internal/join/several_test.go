// SPDX-License-Identifier: Apache-2.0

package join

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// fourGPUs are those of one server, of which prompt k from 10·k to 10·k+4 s uses the first
// used[k-1]; GPU i draws 30 W, and 200 + 10·i W while it is used.
func fourGPUs(used ...int) []*gpuload.Load {
	var all []*gpuload.Load
	for i := range 4 {
		l := gpuload.Steady(fmt.Sprintf("GPU-%d", i), 0, 0)
		working := func(s float64) bool {
			for k, n := range used {
				if from := float64(10 * (k + 1)); i < n && s >= from && s < from+4 {
					return true
				}
			}
			return false
		}
		l.Watts = func(s float64) float64 {
			if working(s) {
				return 200 + 10*float64(i)
			}
			return 30
		}
		l.Util = func(s float64) float64 {
			if working(s - 0.1) {
				return 0.9
			}
			return 0
		}
		all = append(all, l)
	}
	return all
}

// fourGPUPrompt is the trace of a prompt of a server that has a context on each of four GPUs.
func fourGPUPrompt(k int) ptrace.Traces {
	from := float64(10 * k)
	td := gpuload.Trace(byte(k),
		gpuload.Span{ID: 1, From: from - 1, To: from + 4},
		gpuload.Span{ID: 2, Parent: 1, From: from, To: from + 4, PID: 77},
		gpuload.Span{ID: 3, Parent: 2, From: from, To: from + 1},
		gpuload.Span{ID: 4, Parent: 2, From: from + 1, To: from + 4},
	)
	spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	spans.At(1).SetName("comfyui.execution")
	ids := spans.At(1).Attributes().PutEmptySlice(semconv.GPUIDs)
	for i := range 4 {
		ids.AppendEmpty().SetStr(fmt.Sprintf("GPU-%d", i))
	}
	spans.At(1).Attributes().PutStr("comfyui.task_class", "people")
	spans.At(1).Attributes().PutInt("comfyui.nodes.executed", 2)
	return td
}

// byGPU are the spans of single GPUs, and the others by name.
func byGPU(t *testing.T, c *Joiner) (single map[string]ptrace.Span, others map[string]ptrace.Span) {
	t.Helper()
	single, others = map[string]ptrace.Span{}, map[string]ptrace.Span{}
	for c.HasTraces() {
		td, _ := c.NextTraces()
		for _, rs := range td.ResourceSpans().All() {
			for _, s := range rs.ScopeSpans().At(0).Spans().All() {
				if s.Name() == "comfyui.execution.gpu" {
					id, _ := s.Attributes().Get(semconv.GPUID)
					require.NotContains(t, single, id.Str())
					single[id.Str()] = s
				} else {
					others[s.Name()] = s
				}
			}
		}
	}
	return single, others
}

func number(s ptrace.Span, key string) float64 {
	v, _ := s.Attributes().Get(key)
	return v.Double()
}

func TestAPromptOnSeveralGPUsHasABillOverAllThatItUsed(t *testing.T) {
	c := newTestJoiner()
	gpus := fourGPUs(1, 2, 4)
	samples(c, 0, 9.9, 0.1, gpus...)
	for k, used := range []int{1, 2, 4} {
		from := float64(10 * (k + 1))
		samples(c, from, from+4, 0.1, gpus...)
		c.AddTraces(fourGPUPrompt(k+1), gpuload.At(from+4))
		samples(c, from+4.1, from+9.9, 0.1, gpus...)
		single, others := byGPU(t, c)
		execution := others["comfyui.execution"]
		want, nodes := 0.0, 0.0
		for i := range used {
			want += 4 * (200 + 10*float64(i))
			nodes += 200 + 10*float64(i)
		}
		assert.InDelta(t, want, number(execution, "gpu.energy"), 2, "%d GPUs", used)
		assert.InDelta(t, want-float64(used)*4*30, number(execution, "gpu.energy.marginal"), 3)
		assert.InDelta(t, want, number(others["1"], "gpu.energy"), 2, "the prompt counts it once")
		assert.InDelta(t, nodes, number(others["3"], "gpu.energy"), 2, "the first node")
		assert.InDelta(t, 3*nodes, number(others["4"], "gpu.energy"), 2, "the second node")
		for _, name := range []string{"comfyui.execution", "1", "3", "4"} {
			a := others[name].Attributes().AsRaw()
			if used == 1 {
				assert.Equal(t, "GPU-0", a["hw.id"], name)
				assert.NotContains(t, a, "hw.ids", name)
				continue
			}
			assert.NotContains(t, a, "hw.id", name)
			assert.Len(t, a["hw.ids"], used, name)
			assert.Equal(t, Measured, a["gpu.correlation"], name)
		}
		if used == 1 {
			assert.Empty(t, single, "the execution's span says it all")
			continue
		}
		require.Len(t, single, used)
		sum := 0.0
		for i := range used {
			s := single[fmt.Sprintf("GPU-%d", i)]
			sum += number(s, "gpu.energy")
			assert.InDelta(t, 4*(200+10*float64(i)), number(s, "gpu.energy"), 1)
			assert.Equal(t, execution.SpanID(), s.ParentSpanID())
			assert.Equal(t, execution.StartTimestamp(), s.StartTimestamp())
			a := s.Attributes().AsRaw()
			assert.Equal(t, "people", a["comfyui.task_class"])
			assert.NotContains(t, a, "comfyui.nodes.executed")
			assert.Contains(t, a, "gpu.energy.uncertainty")
		}
		assert.InDelta(t, sum, number(execution, "gpu.energy"), 1e-6)
	}
}

func TestAPromptWhoseGPUIsLostOnTheWayIsAnEstimateOfAllOfThem(t *testing.T) {
	c := newTestJoiner()
	gpus := fourGPUs(4)
	samples(c, 0, 12, 0.1, gpus...)
	md := gpuload.Sample(12.1, gpus...)
	endSeries(md, "GPU-2")
	c.AddMetrics(md)
	rest := []*gpuload.Load{gpus[0], gpus[1], gpus[3]}
	samples(c, 12.2, 14, 0.1, rest...)
	c.AddTraces(fourGPUPrompt(1), gpuload.At(14))
	samples(c, 14.1, 16, 0.1, rest...)
	single, others := byGPU(t, c)
	execution := others["comfyui.execution"].Attributes().AsRaw()
	assert.Equal(t, Estimate, execution["gpu.correlation"])
	assert.Equal(t, reasonLost, execution["gpu.correlation.reason"])
	require.Len(t, single, 4)
	for i, want := range []float64{800, 840, 2 * 220, 920} {
		s := single[fmt.Sprintf("GPU-%d", i)]
		assert.InDelta(t, want, number(s, "gpu.energy"), 25, "GPU %d", i)
		outcome, _ := s.Attributes().Get("gpu.correlation")
		assert.Equal(t, i == 2, outcome.Str() == Estimate, "GPU %d", i)
	}
	assert.InDelta(t, 800+840+440+920, execution["gpu.energy"], 30)
}

// The driver's samples of the utilisation are read once a second: those of the moment before a
// GPU is lost are not.
func TestAGPUThatIsLostBeforeItsUtilizationIsReadIsOnTheBill(t *testing.T) {
	c := newTestJoiner()
	gpus := fourGPUs(4)
	samples(c, 0, 10, 0.1, gpus...)
	for i := range 8 {
		md := gpuload.Sample(10.1+float64(i)/10, gpus...)
		removeOf(md, "GPU-2", func(name string) bool { return name == "hw.gpu.utilization" })
		if i == 7 {
			endSeries(md, "GPU-2")
		}
		c.AddMetrics(md)
	}
	samples(c, 10.9, 14, 0.1, gpus[0], gpus[1], gpus[3])
	c.AddTraces(fourGPUPrompt(1), gpuload.At(14))
	samples(c, 14.1, 16, 0.1, gpus[0], gpus[1], gpus[3])
	single, others := byGPU(t, c)
	execution := others["comfyui.execution"].Attributes().AsRaw()
	assert.Equal(t, reasonLost, execution["gpu.correlation.reason"])
	require.Len(t, single, 4)
	assert.Greater(t, number(single["GPU-2"], "gpu.energy"), 100.0)

	samples(c, 16.1, 24, 0.1, gpus[0], gpus[1], gpus[3])
	c.AddTraces(fourGPUPrompt(2), gpuload.At(24)) // of a server that still names it
	samples(c, 24.1, 26, 0.1, gpus[0], gpus[1], gpus[3])
	_, others = byGPU(t, c)
	assert.Equal(t, reasonUnused, others["comfyui.execution"].Attributes().AsRaw()["gpu.correlation.reason"], "nothing runs on a lost GPU")
}

func gpuOf(m pmetric.Metric) string {
	id, _ := m.Gauge().DataPoints().At(0).Attributes().Get(semconv.GPUID)
	return id.Str()
}

// removeOf removes metrics of one GPU from a sample.
func removeOf(md pmetric.Metrics, gpu string, which func(name string) bool) {
	md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().RemoveIf(func(m pmetric.Metric) bool {
		return gpuOf(m) == gpu && which(m.Name())
	})
}

// endSeries marks the metrics of a GPU that is lost.
func endSeries(md pmetric.Metrics, gpu string) {
	for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if gpuOf(m) == gpu {
			m.Gauge().DataPoints().At(0).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
		}
	}
}

// A short prompt ends before its GPUs' utilisation is read.
func TestAShortPromptWaitsForTheUtilizationOfItsGPUs(t *testing.T) {
	c := newTestJoiner()
	gpus := fourGPUs(0)
	for _, g := range gpus[:2] {
		g.Util = func(s float64) float64 {
			if s >= 10.1 && s <= 10.6 {
				return 0.9
			}
			return 0
		}
	}
	td := fourGPUPrompt(1)
	spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	spans.RemoveIf(func(s ptrace.Span) bool { return s.Name() == "3" || s.Name() == "4" })
	for _, s := range spans.All() {
		s.SetEndTimestamp(simTime(10_500_000_000))
	}
	samples(c, 0, 9.9, 0.1, gpus...)
	var held []pmetric.Metrics
	for i := 0; i < 36 && !c.HasTraces(); i++ {
		at := 10 + float64(i)/10
		md := gpuload.Sample(at, gpus...)
		later := pmetric.NewMetrics()
		md.CopyTo(later)
		for _, g := range gpus { // read at 11.1 and 12.3 s
			removeOf(md, g.ID, func(name string) bool { return name == "hw.gpu.utilization" })
			removeOf(later, g.ID, func(name string) bool { return name != "hw.gpu.utilization" })
		}
		held = append(held, later)
		if i%12 == 11 {
			for _, h := range held {
				c.AddMetrics(h)
			}
			held = nil
		}
		c.AddMetrics(md)
		if i == 5 {
			c.AddTraces(td, gpuload.At(at))
		}
	}
	_, others := byGPU(t, c)
	a := others["comfyui.execution"].Attributes().AsRaw()
	assert.Len(t, a["hw.ids"], 2)
	assert.Equal(t, Measured, a["gpu.correlation"])
}

func TestAPromptThatUsedNoneOfItsGPUsHasNoBill(t *testing.T) {
	c := newTestJoiner()
	gpus := fourGPUs(0)
	samples(c, 0, 16, 0.1, gpus...)
	c.AddTraces(fourGPUPrompt(1), gpuload.At(16))
	single, others := byGPU(t, c)
	assert.Empty(t, single)
	a := others["comfyui.execution"].Attributes().AsRaw()
	assert.Equal(t, None, a["gpu.correlation"])
	assert.Equal(t, reasonUnused, a["gpu.correlation.reason"])
}

// addUse adds the driver's sample of what a process used of a GPU.
func addUse(md pmetric.Metrics, at float64, gpu string, pid int64, use float64) {
	m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
	m.SetName("hw.gpu.process.utilization")
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(simTime(int64(at * 1e9)))
	p.SetDoubleValue(use)
	p.Attributes().PutStr("hw.id", gpu)
	p.Attributes().PutStr("hw.gpu.task", "general")
	p.Attributes().PutInt("process.pid", pid)
}

// A server with a context on four GPUs of which two are active from 10 to 14 s; it uses the
// first, and on the second the driver's samples, once a second, say what it and process 88 did.
func TestAGPUThatAnotherProcessUsedIsNotBilled(t *testing.T) {
	for _, c := range []struct {
		name               string
		use, other         float64 // of the second GPU
		until              float64 // there are samples
		used               int
		correlation, cause any
	}{
		{"another process did", 0, 0.9, 17, 1, Measured, nil},
		{"both did", 0.4, 0.5, 17, 2, Measured, nil},
		{"no sample holds who did", 0, 0, 17, 2, Measured, nil},
		{"another process did, until the samples ended", 0, 0.9, 11.5, 2, Estimate, reasonUse},
		{"it did", 0.9, 0, 11.5, 2, Measured, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := newTestJoiner()
			gpus := fourGPUs(2)
			for i := range 170 {
				at := float64(i) / 10
				md := gpuload.Sample(at, gpus...)
				if i%10 == 5 && at <= c.until {
					during := 0.0
					if at > 10 && at < 15 {
						during = 1
					}
					addUse(md, at, "GPU-0", 77, 0.9*during)
					addUse(md, at, "GPU-1", 77, c.use*during)
					addUse(md, at, "GPU-1", 88, c.other*during)
				}
				j.AddMetrics(md)
			}
			j.AddTraces(fourGPUPrompt(1), gpuload.At(17))
			j.Finish()
			_, others := byGPU(t, j)
			a := others["comfyui.execution"].Attributes().AsRaw()
			if c.used == 1 {
				assert.Equal(t, "GPU-0", a["hw.id"])
			} else {
				assert.Len(t, a["hw.ids"], c.used)
			}
			assert.Equal(t, c.correlation, a["gpu.correlation"])
			assert.Equal(t, c.cause, a["gpu.correlation.reason"])
		})
	}
}

// The driver's sample of the second in which a prompt begins holds what the one before did.
func TestAPromptIsNotBilledForAGPUThatTheOneBeforeUsed(t *testing.T) {
	j := newTestJoiner()
	gpus := fourGPUs(1)
	active := gpus[1].Util // of the second GPU: until 9.9 s
	gpus[1].Util = func(s float64) float64 {
		if s < 9.9 {
			return 0.9
		}
		return active(s)
	}
	for i := range 170 {
		at := float64(i) / 10
		md := gpuload.Sample(at, gpus...)
		if i%10 == 5 {
			use := 0.0
			if at < 11 {
				use = 0.4
			}
			addUse(md, at, "GPU-1", 77, use)
		}
		j.AddMetrics(md)
	}
	j.AddTraces(fourGPUPrompt(1), gpuload.At(17))
	j.Finish()
	_, others := byGPU(t, j)
	assert.Equal(t, "GPU-0", others["comfyui.execution"].Attributes().AsRaw()["hw.id"])
}
