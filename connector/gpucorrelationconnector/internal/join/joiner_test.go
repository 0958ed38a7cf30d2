// SPDX-License-Identifier: Apache-2.0

package join

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

// samples gives a correlator scrapes every interval from one time to another.
func samples(c *Joiner, from, to, interval float64, gpus ...*gpuload.Load) {
	for i := 0; ; i++ {
		s := from + float64(i)*interval
		if s > to+1e-9 {
			return
		}
		c.AddMetrics(gpuload.Sample(s, gpus...))
	}
}

func newTestJoiner(change ...func(*Settings)) *Joiner {
	settings := Settings{
		Wait: 10 * time.Second, History: 10 * time.Minute, MaxGap: time.Second, MaxAhead: time.Second, DeviceAttributes: []string{"hw.id"},
		Limits: Limits{Spans: 100_000, Bytes: 64 << 20, GPUs: 128, Samples: 20_000, Processes: 64, Traces: 20_000, Records: 10_000},
	}
	for _, f := range change {
		f(&settings)
	}
	return New(settings)
}

// out takes what is ready; the key is the span's name.
func out(t *testing.T, c *Joiner) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for {
		td, found := c.NextTraces()
		if !found {
			return all
		}
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					id := s.TraceID()
					name := strconv.Itoa(int(id[15])) + "." + s.Name()
					require.NotContains(t, all, name, "the span came twice")
					all[name] = s.Attributes().AsRaw()
				}
			}
		}
	}
}

func near(t *testing.T, want float64, got any, within float64, what string) {
	t.Helper()
	v, ok := got.(float64)
	if i, isInt := got.(int64); isInt {
		v, ok = float64(i), true
	}
	require.True(t, ok, "%s: %v is not a number", what, got)
	assert.InDelta(t, want, v, within, what)
}

func TestSpanGetsTheFiguresOfItsTime(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	gpu.Throttle = func(s float64) float64 { return min(max(s-11, 0), 0.4) }
	samples(c, 0, 11.9, 0.1, gpu)
	assert.Empty(t, c.AddTraces(gpuload.Trace(1,
		gpuload.Span{ID: 1, From: 9, To: 12.05}, // a request that waited for a second
		gpuload.Span{ID: 2, Parent: 1, From: 9, To: 10},
		gpuload.Span{ID: 3, Parent: 1, GPU: gpuload.A, From: 10, To: 12},
		gpuload.Span{ID: 4, Parent: 3, From: 10, To: 10.5},
		gpuload.Span{ID: 5, Parent: 3, From: 10.5, To: 12},
	), gpuload.At(12)), "it waits")
	assert.Empty(t, out(t, c), "the samples do not cover its end yet")
	samples(c, 12, 12.2, 0.1, gpu)
	assert.Empty(t, out(t, c), "nor what they say of its end")
	samples(c, 12.3, 12.3, 1, gpu)
	got := out(t, c)
	require.Len(t, got, 5)

	whole := got["1.3"]
	assert.Equal(t, Measured, whole["gpu.correlation"])
	near(t, 8e9, whole["gpu.memory.peak"], 0, "peak")
	near(t, 2e9, whole["gpu.memory.start"], 0, "start")
	assert.Equal(t, "card", whole["gpu.memory.source"])
	near(t, 400, whole["gpu.energy"], 0.01, "energy")
	near(t, 340, whole["gpu.energy.marginal"], 0.5, "marginal")
	near(t, 30, whole["gpu.power.rest"], 0.1, "rest")
	near(t, 0.9, whole["gpu.utilization.peak"], 1e-9, "utilisation")
	near(t, 59, whole["gpu.temperature.max"], 0, "temperature")
	near(t, 0.4, whole["gpu.throttle.time"], 1e-6, "throttled")
	near(t, 0.4, whole["gpu.throttle.time.sw_power_cap"], 1e-6, "throttled")
	near(t, 21, whole["gpu.samples"], 0, "samples")
	near(t, 0.1, whole["gpu.samples.gap"], 1e-6, "gap")
	assert.NotContains(t, whole, "gpu.shared")

	root := got["1.1"]
	assert.Equal(t, gpuload.A, root["hw.id"], "a span without a GPU has what is below it")
	near(t, 400, root["gpu.energy"], 0.01, "the root's energy is not that of its wait")
	near(t, 8e9, root["gpu.memory.peak"], 0, "peak")
	assert.NotContains(t, got["1.2"], "gpu.correlation", "the wait used no GPU")

	near(t, 100, got["1.4"]["gpu.energy"], 0.01, "first node")
	near(t, 300, got["1.5"]["gpu.energy"], 0.01, "second node")
	near(t, 2e9, got["1.4"]["gpu.memory.start"], 0, "first node")
	near(t, 0.4, got["1.5"]["gpu.throttle.time"], 1e-6, "the second node was throttled")
	assert.NotContains(t, got["1.4"], "gpu.throttle.time")
}

func TestProcessesOwnMemoryIsPreferred(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	gpu.Process = map[int64]func(float64) float64{77: func(float64) float64 { return 1.5 }}
	samples(c, 0, 13, 0.1, gpu)
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12, PID: 77}), gpuload.At(13))
	c.AddTraces(gpuload.Trace(2, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12, PID: 78}), gpuload.At(13))
	got := out(t, c)
	assert.Equal(t, "process", got["1.1"]["gpu.memory.source"])
	near(t, 1.5e9, got["1.1"]["gpu.memory.peak"], 0, "the process's")
	assert.Equal(t, "card", got["2.1"]["gpu.memory.source"])
	near(t, 8e9, got["2.1"]["gpu.memory.peak"], 0, "the GPU's")
}

func TestPeakBetweenTwoScrapesIsSeen(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	for i := range 40 {
		s := 9 + float64(i)*0.1
		md := gpuload.Sample(s, gpu)
		m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
		m.SetName("hw.gpu.memory.usage.max")
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(s)))
		p.Attributes().PutStr("hw.id", gpuload.A)
		p.SetIntValue(int64(gpu.Memory(s) * 1e9))
		switch i {
		case 10: // the step to 10.0 s is not the request's
			p.SetIntValue(20e9)
		case 15:
			p.SetIntValue(11e9)
		}
		c.AddMetrics(md)
	}
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 9.95, To: 12}), gpuload.At(13))
	near(t, 11e9, out(t, c)["1.1"]["gpu.memory.peak"], 0, "peak")
}

func TestTwoRequestsOnAGPUShareItsTime(t *testing.T) {
	c := newTestJoiner()
	samples(c, 0, 15, 0.1, gpuload.Steady(gpuload.A, 10, 14))
	// 1 runs alone for a second, then both for two, then 2 alone for one. The second
	// has not ended when the first is billed: its beginning was reported.
	ld := plog.NewLogs()
	r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName(semconv.EventExecutionStarted)
	r.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(11)))
	r.SetTraceID(pcommon.TraceID{15: 2})
	r.SetSpanID(pcommon.SpanID{6: 2, 7: 1})
	r.Attributes().PutStr("hw.id", gpuload.A)
	c.AddLogs(ld, gpuload.At(11))
	assert.Zero(t, ld.LogRecordCount(), "it is for the connector only")
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 13}), gpuload.At(13))
	got := out(t, c)
	c.AddTraces(gpuload.Trace(2, gpuload.Span{ID: 1, GPU: gpuload.A, From: 11, To: 14}), gpuload.At(14))
	maps.Copy(got, out(t, c))
	for _, name := range []string{"1.1", "2.1"} {
		near(t, 400, got[name]["gpu.energy"], 0.01, "half of the time together")
		near(t, 2, got[name]["gpu.shared.time"], 1e-9, "shared time")
		near(t, 2, got[name]["gpu.shared.traces"], 0, "shared with")
		assert.Equal(t, true, got[name]["gpu.shared"])
		near(t, 0.9*2/3, got[name]["gpu.utilization.mean"], 0.04, "utilisation is divided, too")
	}
}

func TestRequestOnTwoGPUsHasTheSum(t *testing.T) {
	c := newTestJoiner()
	samples(c, 0, 13, 0.1, gpuload.Steady(gpuload.A, 10, 12), gpuload.Steady(gpuload.B, 10, 11))
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, From: 9, To: 12},
		gpuload.Span{ID: 2, Parent: 1, GPU: gpuload.A, From: 10, To: 12},
		gpuload.Span{ID: 3, Parent: 1, GPU: gpuload.B, From: 10, To: 11}), gpuload.At(13))
	root := out(t, c)["1.1"]
	near(t, 600, root["gpu.energy"], 0.01, "energy")
	near(t, 16e9, root["gpu.memory.peak"], 0, "memory of both")
	assert.NotContains(t, root, "hw.id", "it has no one GPU")
}

// The outcomes of what is not as it should be.
func TestDoubtfulFiguresSayWhy(t *testing.T) {
	for name, test := range map[string]struct {
		feed    func(c *Joiner, gpu *gpuload.Load)
		span    gpuload.Span
		host    string
		change  func(*Settings)
		expire  bool
		outcome string
		reason  string
		energy  float64 // J, if any
	}{
		"a gap in the samples: a counter still has the energy": {
			feed: func(c *Joiner, gpu *gpuload.Load) {
				samples(c, 0, 10.5, 0.1, gpu)
				samples(c, 11.8, 13, 0.1, gpu)
			},
			span: gpuload.Span{GPU: gpuload.A, From: 10, To: 12}, outcome: Estimate, reason: reasonGap, energy: 400,
		},
		"a span without a sample": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 13, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.A, From: 10.52, To: 10.58}, outcome: Estimate, reason: reasonFew, energy: 12,
		},
		"a span of no length": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 13, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.A, From: 10.52, To: 10.52}, outcome: Estimate, reason: reasonFew,
		},
		"no samples at all": {
			feed: func(*Joiner, *gpuload.Load) {}, span: gpuload.Span{GPU: gpuload.A, From: 10, To: 12}, expire: true, outcome: None, reason: reasonNoSamples,
		},
		"samples of another GPU only": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 13, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.B, From: 10, To: 12}, expire: true, outcome: None, reason: reasonNoSamples,
		},
		"samples that ended long before": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 5, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.A, From: 10, To: 12}, expire: true, outcome: None, reason: reasonNoSamples,
		},
		"the samples of its end do not come": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 11.5, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.A, From: 10, To: 12}, expire: true, outcome: Estimate, reason: reasonWait, energy: 300,
		},
		"a span longer than the history": {
			feed:   func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 13, 0.1, gpu) },
			change: func(cfg *Settings) { cfg.History, cfg.Wait = 2*time.Second, time.Second },
			span:   gpuload.Span{GPU: gpuload.A, From: 5, To: 12}, outcome: Estimate, reason: reasonHistory, energy: 220,
		},
		"samples that come late and twice": {
			feed: func(c *Joiner, gpu *gpuload.Load) {
				var all []pmetric.Metrics
				for i := range 141 {
					all = append(all, gpuload.Sample(float64(i)*0.1, gpu))
				}
				r := rand.New(rand.NewPCG(1, 2))
				r.Shuffle(len(all)-1, func(i, j int) { all[i], all[j] = all[j], all[i] })
				for _, md := range all {
					c.AddMetrics(md)
					c.AddMetrics(md)
				}
			},
			span: gpuload.Span{GPU: gpuload.A, From: 10, To: 12}, outcome: Measured, energy: 400,
		},
		"another host's span": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 15, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.A, From: 12, To: 14}, host: "node-2", outcome: None, reason: ReasonHost,
		},
		"another host's span, its clock two seconds ahead": {
			feed:   func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 15, 0.1, gpu) },
			change: func(cfg *Settings) { cfg.ClockOffsets = map[string]time.Duration{"node-2": 2 * time.Second} },
			span:   gpuload.Span{GPU: gpuload.A, From: 12, To: 14}, host: "node-2", outcome: Measured, energy: 400,
		},
		"a span that ends in the future": {
			feed: func(c *Joiner, gpu *gpuload.Load) { samples(c, 0, 13, 0.1, gpu) },
			span: gpuload.Span{GPU: gpuload.A, From: 12, To: 18}, outcome: None, reason: ReasonClock,
		},
		"a GPU that is lost in mid-request": {
			feed: func(c *Joiner, gpu *gpuload.Load) {
				samples(c, 0, 11, 0.1, gpu)
				md := gpuload.Sample(11.1, gpu)
				for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
					m.Gauge().DataPoints().At(0).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
				}
				c.AddMetrics(md)
			},
			span: gpuload.Span{GPU: gpuload.A, From: 10, To: 12}, outcome: Estimate, reason: reasonLost, energy: 200,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newTestJoiner()
			if test.change != nil {
				c = newTestJoiner(test.change)
			}
			test.feed(c, gpuload.Steady(gpuload.A, 10, 12))
			test.span.ID = 1
			td := gpuload.Trace(1, test.span)
			if test.host != "" {
				td.ResourceSpans().At(0).Resource().Attributes().PutStr("host.name", test.host)
			}
			require.Empty(t, c.AddTraces(td, gpuload.At(15)))
			if test.expire {
				require.Empty(t, out(t, c), "it waits")
				c.Expire(gpuload.At(15 + c.settings.Wait.Seconds() - 0.01))
				require.Empty(t, out(t, c), "it waits")
				c.Expire(gpuload.At(15 + c.settings.Wait.Seconds()))
			}
			got := out(t, c)["1.1"]
			require.NotNil(t, got)
			assert.Equal(t, test.outcome, got["gpu.correlation"])
			if test.reason != "" {
				assert.Equal(t, test.reason, got["gpu.correlation.reason"])
			}
			if test.energy > 0 {
				near(t, test.energy, got["gpu.energy"], 1, "energy")
			}
			if test.outcome == None {
				assert.NotContains(t, got, "gpu.energy")
				assert.NotContains(t, got, "gpu.memory.peak")
			}
			assert.Zero(t, c.spans, "nothing waits")
			assert.Zero(t, c.bytes)
		})
	}
}

func TestCounterThatRestartedIsAGapAndNotNegativeEnergy(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	gpu.Joules = 0 // the driver was loaded again
	samples(c, 11.1, 13, 0.1, gpu)
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}), gpuload.At(13))
	near(t, 380, out(t, c)["1.1"]["gpu.energy"], 1, "without the step in which it began again")
}

func TestBoundsPassSpansOnAndInTheirOrder(t *testing.T) {
	c := newTestJoiner(func(cfg *Settings) { cfg.Limits.Spans = 3 })
	samples(c, 0, 11, 0.1, gpuload.Steady(gpuload.A, 10, 12))
	item := gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}
	require.Empty(t, c.AddTraces(gpuload.Trace(1, item), gpuload.At(12)))
	require.Empty(t, c.AddTraces(gpuload.Trace(2, item, gpuload.Span{ID: 2, Parent: 1, From: 10, To: 11}), gpuload.At(12)))
	passed := c.AddTraces(gpuload.Trace(3, item), gpuload.At(12))
	require.Len(t, passed, 1, "there is no room: it passes at once")
	a := passed[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().AsRaw()
	assert.Equal(t, None, a["gpu.correlation"])
	assert.Equal(t, ReasonLimit, a["gpu.correlation.reason"])
	// More of a trace that waits does not overtake it.
	require.Empty(t, c.AddTraces(gpuload.Trace(2, gpuload.Span{ID: 3, Parent: 1, From: 10, To: 11}), gpuload.At(12)))
	td, _ := c.NextTraces()
	var names []string
	for _, rs := range td.ResourceSpans().All() {
		for _, s := range rs.ScopeSpans().At(0).Spans().All() {
			names = append(names, s.Name())
		}
	}
	assert.Equal(t, []string{"1", "2", "3"}, names)
	assert.Equal(t, 1, c.spans, "the first goes on waiting")
}

func TestSpansOfATraceThatComeApartStayTogether(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	// The child ends first and names no GPU itself.
	require.Len(t, c.AddTraces(gpuload.Trace(9, gpuload.Span{ID: 1, From: 10, To: 11}), gpuload.At(11)), 1, "a trace without a GPU passes")
	require.Empty(t, c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 3, Parent: 1, GPU: gpuload.A, From: 10, To: 11.5}), gpuload.At(11.5)))
	require.Empty(t, c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 4, Parent: 3, From: 10, To: 11}, gpuload.Span{ID: 1, From: 10, To: 12}), gpuload.At(12)))
	assert.Empty(t, out(t, c))
	samples(c, 11.1, 12, 0.1, gpu)
	got := out(t, c)
	require.Len(t, got, 3)
	near(t, 200, got["1.4"]["gpu.energy"], 0.01, "inherited from a span that came before")
	near(t, 300, got["1.1"]["gpu.energy"], 0.01, "rolled up from a span that came before")
}

func TestEndPassesWhatWaits(t *testing.T) {
	c := newTestJoiner()
	samples(c, 0, 11, 0.1, gpuload.Steady(gpuload.A, 10, 12))
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}), gpuload.At(12))
	c.Finish()
	got := out(t, c)["1.1"]
	assert.Equal(t, Estimate, got["gpu.correlation"])
	assert.Equal(t, reasonShutdown, got["gpu.correlation.reason"])
	near(t, 200, got["gpu.energy"], 1, "what is known")
}

func only1(t *testing.T, ld plog.Logs) plog.LogRecord {
	t.Helper()
	require.Equal(t, 1, ld.LogRecordCount())
	return ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

func TestXIDIsOnTheSpanAndTheSpanOnTheRecord(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	ld := gpuload.XIDRecord(11.2, gpuload.A)
	c.AddLogs(ld, gpuload.At(11.2))
	assert.Zero(t, ld.LogRecordCount(), "it waits for the trace")
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}, gpuload.Span{ID: 2, Parent: 1, From: 10, To: 11}, gpuload.Span{ID: 3, Parent: 1, From: 11, To: 12}), gpuload.At(12))
	joined, found := c.NextRecords()
	require.True(t, found)
	r := only1(t, joined)
	assert.Equal(t, pcommon.TraceID{15: 1}, r.TraceID())
	assert.Equal(t, pcommon.SpanID{6: 1, 7: 3}, r.SpanID(), "the node that ran then")
	samples(c, 11.1, 12.3, 0.1, gpu)
	td, _ := c.NextTraces()
	for _, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
		if s.Name() == "2" {
			assert.Zero(t, s.Events().Len())
			continue
		}
		require.Equal(t, 1, s.Events().Len(), s.Name())
		assert.Equal(t, map[string]any{"hw.gpu.xid": int64(31), "hw.gpu.xid.name": "GPU memory page fault", "message": "XID 31 on gpu0"}, s.Events().At(0).Attributes().AsRaw())
		assert.Equal(t, gpuload.At(11.2), s.Events().At(0).Timestamp().AsTime())
	}

	ld = gpuload.XIDRecord(11.5, gpuload.A)
	c.AddLogs(ld, gpuload.At(13))
	assert.Equal(t, pcommon.SpanID{6: 1, 7: 3}, only1(t, ld).SpanID(), "one that comes after the trace")

	ld = gpuload.XIDRecord(14, gpuload.A)
	c.AddLogs(ld, gpuload.At(14))
	assert.Zero(t, ld.LogRecordCount())
	c.Expire(gpuload.At(14 + c.settings.Wait.Seconds()))
	alone, found := c.NextRecords()
	require.True(t, found)
	assert.True(t, only1(t, alone).TraceID().IsEmpty(), "nothing ran then")
}

func TestRecordOfARunningPromptDoesNotWait(t *testing.T) {
	c := newTestJoiner()
	start := plog.NewLogs()
	r := start.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName(semconv.EventExecutionStarted)
	r.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(10)))
	r.SetTraceID(pcommon.TraceID{15: 7})
	r.SetSpanID(pcommon.SpanID{7: 3})
	r.Attributes().PutStr("hw.id", gpuload.A)
	c.AddLogs(start, gpuload.At(10))
	ld := gpuload.XIDRecord(11, gpuload.A)
	c.AddLogs(ld, gpuload.At(11))
	got := only1(t, ld)
	assert.Equal(t, pcommon.TraceID{15: 7}, got.TraceID())
	assert.Equal(t, pcommon.SpanID{7: 3}, got.SpanID())
	other := gpuload.XIDRecord(11, gpuload.B)
	c.AddLogs(other, gpuload.At(11))
	assert.Zero(t, other.LogRecordCount(), "another GPU's waits")
}

// Whatever comes in whatever order: every span comes out once, nothing is left, and
// of a GPU's energy no more is given out than it used.
func TestEverySpanComesOutOnceAndNoJouleTwice(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newTestJoiner(func(cfg *Settings) { cfg.Limits.Spans = 20 + r.IntN(200) })
		gpu := &gpuload.Load{
			ID: gpuload.A, Memory: func(s float64) float64 { return 2 + math.Mod(s, 3) }, Util: func(float64) float64 { return 0.5 },
			Watts: func(s float64) float64 { return 100 + 50*math.Sin(s) },
		}
		type event struct {
			at float64
			do func()
		}
		var events []event
		var sent, passed int
		got := map[string]map[string]any{}
		var ended [][2]float64
		for i := range 30 {
			from := 2 + r.Float64()*20
			to := from + r.Float64()*5
			ended = append(ended, [2]float64{from, to})
			spans := []gpuload.Span{{ID: 1, GPU: gpuload.A, From: from, To: to}}
			for n := range r.IntN(4) {
				a := from + r.Float64()*(to-from)
				spans = append(spans, gpuload.Span{ID: byte(2 + n), Parent: 1, From: a, To: a + r.Float64()*(to-a)})
			}
			sent += len(spans)
			begin := plog.NewLogs()
			rec := begin.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
			rec.SetEventName(semconv.EventExecutionStarted)
			rec.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(from)))
			rec.SetTraceID(pcommon.TraceID{15: byte(i + 1)})
			rec.Attributes().PutStr("hw.id", gpuload.A)
			events = append(events, event{from, func() { c.AddLogs(begin, gpuload.At(from)) }})
			arrives := to + r.Float64()*0.3
			td := gpuload.Trace(byte(i+1), spans...)
			events = append(events, event{arrives, func() {
				for _, p := range c.AddTraces(td, gpuload.At(arrives)) {
					passed += p.SpanCount()
				}
			}})
		}
		for i := range 320 {
			s := float64(i) * 0.1
			if r.IntN(20) == 0 {
				continue
			}
			md := gpuload.Sample(s, gpu)
			events = append(events, event{s + r.Float64()*0.4, func() { c.AddMetrics(md) }})
		}
		slices.SortStableFunc(events, func(a, b event) int { return int(math.Copysign(1, a.at-b.at)) })
		for _, e := range events {
			e.do()
			c.Expire(gpuload.At(e.at))
			maps.Copy(got, out(t, c))
		}
		c.Finish()
		maps.Copy(got, out(t, c))
		require.Equal(t, sent, len(got)+passed, "seed %d", seed)
		require.Zero(t, c.spans+c.bytes+len(c.byTrace)+c.arrived.Len(), "seed %d", seed)
		if passed > 0 {
			continue
		}
		given, used := 0.0, 0.0
		for name, a := range got {
			if name[len(name)-2:] == ".1" {
				given += a["gpu.energy"].(float64)
			}
		}
		// What the GPU used, by its own power, in every millisecond in which any trace ran.
		const step = 0.001
		for at := 0.0; at < 32; at += step {
			if slices.ContainsFunc(ended, func(r [2]float64) bool { return r[0] <= at && at < r[1] }) {
				used += gpu.Watts(at+step/2) * step
			}
		}
		require.InDelta(t, used, given, used*0.02, "seed %d", seed)
	}
}

func TestBoundsAreKeptAndWhatIsForgottenIsCounted(t *testing.T) {
	c := newTestJoiner(func(cfg *Settings) {
		cfg.Limits = Limits{Spans: 100, Bytes: 3000, GPUs: 2, Samples: 50, Processes: 1, Traces: 3, Records: 2}
	})
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	gpu.Process = map[int64]func(float64) float64{1: gpu.Memory, 2: gpu.Memory}
	samples(c, 0, 20, 0.1, gpu)
	tl := c.timelines.Get(gpuload.A)
	assert.Len(t, tl.ProcessMemory, 1)
	assert.LessOrEqual(t, len(tl.Memory.Points), 50)
	assert.Positive(t, c.counts.Dropped)
	item := gpuload.Span{ID: 1, GPU: gpuload.A, From: 18, To: 19}
	for id := range byte(6) {
		c.AddTraces(gpuload.Trace(id+1, item), gpuload.At(20))
		out(t, c)
	}
	samples(c, 20.1, 20.1, 1, gpu)
	assert.Len(t, c.gpus[gpuload.A].active.ended, 3)
	assert.Equal(t, int64(3), c.counts.Forgotten["trace"])
	for id := range byte(5) {
		ld := plog.NewLogs()
		r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		r.SetEventName(semconv.EventExecutionStarted)
		r.SetTimestamp(pcommon.NewTimestampFromTime(gpuload.At(20)))
		r.SetTraceID(pcommon.TraceID{15: 100 + id})
		r.Attributes().PutStr("hw.id", gpuload.A)
		c.AddLogs(ld, gpuload.At(20))
	}
	assert.Equal(t, int64(2), c.counts.Forgotten["beginning"])

	// Spans wait up to so many bytes; records up to their number.
	waits := 0
	for id := range byte(6) {
		waits += 1 - len(c.AddTraces(gpuload.Trace(50+id, gpuload.Span{ID: 1, GPU: gpuload.A, From: 20, To: 30}), gpuload.At(30)))
	}
	assert.Equal(t, 3, waits)
	assert.LessOrEqual(t, c.bytes, 3000)
	kept := 0
	for range 4 {
		ld := gpuload.XIDRecord(5, gpuload.B)
		c.AddLogs(ld, gpuload.At(30))
		kept += 1 - ld.LogRecordCount()
	}
	assert.Equal(t, 2, kept)

	// What spans name need not be a GPU: a GPU's samples push it aside.
	c.AddTraces(gpuload.Trace(90, gpuload.Span{ID: 1, GPU: "GPU-no-such", From: 29, To: 30}), gpuload.At(30))
	assert.Equal(t, 2, c.timelines.Len())
	samples(c, 100, 100, 1, gpuload.Steady("GPU-c", 0, 1))
	assert.NotNil(t, c.timelines.Get("GPU-c"))
	assert.NotNil(t, c.timelines.Get(gpuload.A))
	assert.Equal(t, int64(1), c.counts.GPUs)
}

func TestATraceDoesNotWaitForALostGPU(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 10, To: 12}), gpuload.At(12))
	require.Empty(t, out(t, c), "it waits")
	stale := gpuload.Sample(12.1, gpu)
	for _, m := range stale.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		m.Gauge().DataPoints().At(0).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
	}
	c.AddMetrics(stale)
	got := out(t, c)["1.1"]
	require.NotNil(t, got)
	assert.Equal(t, reasonLost, got["gpu.correlation.reason"])
}

func TestASpanAboveASimulatedGPUIsMarkedWhateverTheOrder(t *testing.T) {
	for _, simulated := range []string{gpuload.A, gpuload.B} {
		c := newTestJoiner()
		for i := range 130 {
			md := gpuload.Sample(float64(i)*0.1, gpuload.Steady(gpuload.A, 10, 12), gpuload.Steady(gpuload.B, 10, 12))
			for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
				p := m.Gauge().DataPoints().At(0)
				if id, _ := p.Attributes().Get("hw.id"); id.Str() == simulated {
					p.Attributes().PutBool("gpu.simulated", true)
				}
			}
			c.AddMetrics(md)
		}
		c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, From: 10, To: 12}, gpuload.Span{ID: 2, Parent: 1, GPU: gpuload.A, From: 10, To: 11},
			gpuload.Span{ID: 3, Parent: 1, GPU: gpuload.B, From: 11, To: 12}), gpuload.At(12.5))
		assert.Equal(t, true, out(t, c)["1.1"]["gpu.simulated"], simulated)
	}
}
