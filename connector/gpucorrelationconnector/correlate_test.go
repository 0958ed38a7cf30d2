// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

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
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// epoch is when the tests' time begins.
var epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time {
	return epoch.Add(time.Duration(math.Round(seconds * 1e9)))
}

// load is what a GPU does over time; every figure is a function of the seconds
// since the epoch.
type load struct {
	id       string
	memory   func(s float64) float64 // GB
	watts    func(s float64) float64
	util     func(s float64) float64
	process  map[int64]func(s float64) float64 // GB
	throttle func(s float64) float64           // s, a counter
	joules   float64                           // so far
	last     float64
}

const simulatedGPU, otherGPU = "GPU-a", "GPU-b"

// steady is a GPU at 30 W that works at 200 W between two times, with 2 GB, and 8 GB
// from begin+0.5 to the end.
func steady(id string, begin, end float64) *load {
	working := func(s float64) bool { return s >= begin && s < end }
	return &load{
		id: id,
		memory: func(s float64) float64 {
			if s >= begin+0.5 && s < end {
				return 8
			}
			return 2
		},
		watts: func(s float64) float64 {
			if working(s) {
				return 200
			}
			return 30
		},
		util: func(s float64) float64 {
			if working(s) {
				return 0.9
			}
			return 0
		},
	}
}

// sample makes a scrape of GPUs at a time. Energy is integrated in steps of 1 ms.
func sample(s float64, gpus ...*load) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", "node-1")
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	put := func(l *load, name string, v float64, attributes ...string) {
		m := ms.AppendEmpty()
		m.SetName(name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(at(s)))
		p.SetDoubleValue(v)
		p.Attributes().PutStr("hw.id", l.id)
		for i := 0; i < len(attributes); i += 2 {
			if pid, err := strconv.ParseInt(attributes[i+1], 10, 64); err == nil {
				p.Attributes().PutInt(attributes[i], pid)
				continue
			}
			p.Attributes().PutStr(attributes[i], attributes[i+1])
		}
	}
	for _, l := range gpus {
		for ; l.last+0.0005 < s; l.last += 0.001 {
			l.joules += l.watts(l.last+0.0005) * 0.001
		}
		put(l, "hw.gpu.memory.usage", l.memory(s)*1e9)
		put(l, "hw.energy", l.joules)
		put(l, "hw.gpu.utilization", l.util(s), "hw.gpu.task", "general")
		put(l, "hw.gpu.utilization", 1, "hw.gpu.task", "encoder")
		put(l, "hw.temperature", 50+l.util(s)*10, "hw.sensor_location", "gpu")
		if l.throttle != nil {
			put(l, "hw.gpu.throttle.time", l.throttle(s), "hw.gpu.throttle.reason", "sw_power_cap")
		}
		for _, pid := range slices.Sorted(maps.Keys(l.process)) {
			put(l, "hw.gpu.process.memory.usage", l.process[pid](s)*1e9, "process.pid", strconv.FormatInt(pid, 10))
		}
	}
	return md
}

// samples gives a correlator scrapes every interval from one time to another.
func samples(c *correlator, from, to, interval float64, gpus ...*load) {
	for i := 0; ; i++ {
		s := from + float64(i)*interval
		if s > to+1e-9 {
			return
		}
		c.takeMetrics(sample(s, gpus...))
	}
}

// spanOf describes a span of a test.
type spanOf struct {
	id, parent byte
	gpu        string
	from, to   float64
	pid        int64
}

func traceOf(id byte, spans ...spanOf) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("host.name", "node-1")
	ss := rs.ScopeSpans().AppendEmpty().Spans()
	for _, s := range spans {
		span := ss.AppendEmpty()
		span.SetTraceID(pcommon.TraceID{15: id})
		span.SetSpanID(pcommon.SpanID{6: id, 7: s.id})
		if s.parent != 0 {
			span.SetParentSpanID(pcommon.SpanID{6: id, 7: s.parent})
		}
		span.SetName(strconv.Itoa(int(s.id)))
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(at(s.from)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(at(s.to)))
		if s.gpu != "" {
			span.Attributes().PutStr("hw.id", s.gpu)
		}
		if s.pid != 0 {
			span.Attributes().PutInt("process.pid", s.pid)
		}
	}
	return td
}

func testCorrelator(change ...func(*Config)) *correlator {
	cfg := createDefaultConfig().(*Config)
	for _, f := range change {
		f(cfg)
	}
	return newCorrelator(cfg)
}

// out takes what is ready; the key is the span's name.
func out(t *testing.T, c *correlator) map[string]map[string]any {
	t.Helper()
	all := map[string]map[string]any{}
	for {
		td, found := c.take()
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
	require.True(t, ok, "%s: %v is no number", what, got)
	assert.InDelta(t, want, v, within, what)
}

func TestSpanGetsTheFiguresOfItsTime(t *testing.T) {
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	gpu.throttle = func(s float64) float64 { return min(max(s-11, 0), 0.4) }
	samples(c, 0, 11.9, 0.1, gpu)
	assert.Empty(t, c.takeTraces(traceOf(1,
		spanOf{id: 1, from: 9, to: 12.05}, // a request that waited for a second
		spanOf{id: 2, parent: 1, from: 9, to: 10},
		spanOf{id: 3, parent: 1, gpu: simulatedGPU, from: 10, to: 12},
		spanOf{id: 4, parent: 3, from: 10, to: 10.5},
		spanOf{id: 5, parent: 3, from: 10.5, to: 12},
	), at(12)), "it waits")
	assert.Empty(t, out(t, c), "the samples do not cover its end yet")
	samples(c, 12, 12, 1, gpu)
	got := out(t, c)
	require.Len(t, got, 5)

	whole := got["1.3"]
	assert.Equal(t, measured, whole["gpu.correlation"])
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
	assert.Equal(t, simulatedGPU, root["hw.id"], "a span without a GPU has what is below it")
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
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	gpu.process = map[int64]func(float64) float64{77: func(float64) float64 { return 1.5 }}
	samples(c, 0, 13, 0.1, gpu)
	c.takeTraces(traceOf(1, spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12, pid: 77}), at(13))
	c.takeTraces(traceOf(2, spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12, pid: 78}), at(13))
	got := out(t, c)
	assert.Equal(t, "process", got["1.1"]["gpu.memory.source"])
	near(t, 1.5e9, got["1.1"]["gpu.memory.peak"], 0, "the process's")
	assert.Equal(t, "card", got["2.1"]["gpu.memory.source"])
	near(t, 8e9, got["2.1"]["gpu.memory.peak"], 0, "the GPU's")
}

func TestPeakBetweenTwoCollectionsIsSeen(t *testing.T) {
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	for i := range 40 {
		s := 9 + float64(i)*0.1
		md := sample(s, gpu)
		m := md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().AppendEmpty()
		m.SetName("hw.gpu.memory.usage.max")
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(at(s)))
		p.Attributes().PutStr("hw.id", simulatedGPU)
		p.SetIntValue(int64(gpu.memory(s) * 1e9))
		switch i {
		case 10: // the step to 10.0 s is not the request's
			p.SetIntValue(20e9)
		case 15:
			p.SetIntValue(11e9)
		}
		c.takeMetrics(md)
	}
	c.takeTraces(traceOf(1, spanOf{id: 1, gpu: simulatedGPU, from: 9.95, to: 12}), at(13))
	near(t, 11e9, out(t, c)["1.1"]["gpu.memory.peak"], 0, "peak")
}

func TestTwoRequestsOnAGPUShareItsTime(t *testing.T) {
	c := testCorrelator()
	samples(c, 0, 15, 0.1, steady(simulatedGPU, 10, 14))
	// 1 runs alone for a second, then both for two, then 2 alone for one. The second
	// has not ended when the first is billed: its beginning was told.
	ld := plog.NewLogs()
	r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName(executionStarted)
	r.SetTimestamp(pcommon.NewTimestampFromTime(at(11)))
	r.SetTraceID(pcommon.TraceID{15: 2})
	r.SetSpanID(pcommon.SpanID{6: 2, 7: 1})
	r.Attributes().PutStr("hw.id", simulatedGPU)
	c.takeLogs(ld, at(11))
	assert.Zero(t, ld.LogRecordCount(), "it is for the connector only")
	c.takeTraces(traceOf(1, spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 13}), at(13))
	got := out(t, c)
	c.takeTraces(traceOf(2, spanOf{id: 1, gpu: simulatedGPU, from: 11, to: 14}), at(14))
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
	c := testCorrelator()
	samples(c, 0, 13, 0.1, steady(simulatedGPU, 10, 12), steady(otherGPU, 10, 11))
	c.takeTraces(traceOf(1, spanOf{id: 1, from: 9, to: 12},
		spanOf{id: 2, parent: 1, gpu: simulatedGPU, from: 10, to: 12},
		spanOf{id: 3, parent: 1, gpu: otherGPU, from: 10, to: 11}), at(13))
	root := out(t, c)["1.1"]
	near(t, 600, root["gpu.energy"], 0.01, "energy")
	near(t, 16e9, root["gpu.memory.peak"], 0, "memory of both")
	assert.NotContains(t, root, "hw.id", "it has no one GPU")
}

// The outcomes of what is not as it should be.
func TestDoubtfulFiguresSayWhy(t *testing.T) {
	for name, test := range map[string]struct {
		feed    func(c *correlator, gpu *load)
		span    spanOf
		host    string
		change  func(*Config)
		expire  bool
		outcome string
		reason  string
		energy  float64 // J, if any
	}{
		"a gap in the samples: a counter still tells the energy": {
			feed: func(c *correlator, gpu *load) {
				samples(c, 0, 10.5, 0.1, gpu)
				samples(c, 11.8, 13, 0.1, gpu)
			},
			span: spanOf{gpu: simulatedGPU, from: 10, to: 12}, outcome: estimate, reason: reasonGap, energy: 400,
		},
		"a span without a sample": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 13, 0.1, gpu) },
			span: spanOf{gpu: simulatedGPU, from: 10.52, to: 10.58}, outcome: estimate, reason: reasonFew, energy: 12,
		},
		"a span of no length": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 13, 0.1, gpu) },
			span: spanOf{gpu: simulatedGPU, from: 10.52, to: 10.52}, outcome: estimate, reason: reasonFew,
		},
		"no samples at all": {
			feed: func(*correlator, *load) {}, span: spanOf{gpu: simulatedGPU, from: 10, to: 12}, expire: true, outcome: none, reason: reasonNoSamples,
		},
		"samples of another GPU only": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 13, 0.1, gpu) },
			span: spanOf{gpu: otherGPU, from: 10, to: 12}, expire: true, outcome: none, reason: reasonNoSamples,
		},
		"samples that ended long before": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 5, 0.1, gpu) },
			span: spanOf{gpu: simulatedGPU, from: 10, to: 12}, expire: true, outcome: none, reason: reasonNoSamples,
		},
		"the samples of its end do not come": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 11.5, 0.1, gpu) },
			span: spanOf{gpu: simulatedGPU, from: 10, to: 12}, expire: true, outcome: estimate, reason: reasonWait, energy: 300,
		},
		"a span longer than the history": {
			feed:   func(c *correlator, gpu *load) { samples(c, 0, 13, 0.1, gpu) },
			change: func(cfg *Config) { cfg.History, cfg.Wait = 2*time.Second, time.Second },
			span:   spanOf{gpu: simulatedGPU, from: 5, to: 12}, outcome: estimate, reason: reasonHistory, energy: 220,
		},
		"samples that come late and twice": {
			feed: func(c *correlator, gpu *load) {
				var all []pmetric.Metrics
				for i := range 131 {
					all = append(all, sample(float64(i)*0.1, gpu))
				}
				r := rand.New(rand.NewPCG(1, 2))
				r.Shuffle(len(all)-1, func(i, j int) { all[i], all[j] = all[j], all[i] })
				for _, md := range all {
					c.takeMetrics(md)
					c.takeMetrics(md)
				}
			},
			span: spanOf{gpu: simulatedGPU, from: 10, to: 12}, outcome: measured, energy: 400,
		},
		"another host's span": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 15, 0.1, gpu) },
			span: spanOf{gpu: simulatedGPU, from: 12, to: 14}, host: "node-2", outcome: none, reason: reasonHost,
		},
		"another host's span, its clock two seconds ahead": {
			feed:   func(c *correlator, gpu *load) { samples(c, 0, 15, 0.1, gpu) },
			change: func(cfg *Config) { cfg.ClockOffsets = map[string]time.Duration{"node-2": 2 * time.Second} },
			span:   spanOf{gpu: simulatedGPU, from: 12, to: 14}, host: "node-2", outcome: measured, energy: 400,
		},
		"a span that ends in the future": {
			feed: func(c *correlator, gpu *load) { samples(c, 0, 13, 0.1, gpu) },
			span: spanOf{gpu: simulatedGPU, from: 12, to: 18}, outcome: none, reason: reasonClock,
		},
		"a GPU that is lost in mid-request": {
			feed: func(c *correlator, gpu *load) {
				samples(c, 0, 11, 0.1, gpu)
				md := sample(11.1, gpu)
				for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
					m.Gauge().DataPoints().At(0).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
				}
				c.takeMetrics(md)
			},
			span: spanOf{gpu: simulatedGPU, from: 10, to: 12}, outcome: estimate, reason: reasonLost, energy: 200,
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := testCorrelator()
			if test.change != nil {
				c = testCorrelator(test.change)
			}
			test.feed(c, steady(simulatedGPU, 10, 12))
			test.span.id = 1
			td := traceOf(1, test.span)
			if test.host != "" {
				td.ResourceSpans().At(0).Resource().Attributes().PutStr("host.name", test.host)
			}
			require.Empty(t, c.takeTraces(td, at(15)))
			if test.expire {
				require.Empty(t, out(t, c), "it waits")
				c.expire(at(15 + c.cfg.Wait.Seconds() - 0.01))
				require.Empty(t, out(t, c), "it waits")
				c.expire(at(15 + c.cfg.Wait.Seconds()))
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
			if test.outcome == none {
				assert.NotContains(t, got, "gpu.energy")
				assert.NotContains(t, got, "gpu.memory.peak")
			}
			assert.Zero(t, c.spans, "nothing waits")
			assert.Zero(t, c.bytes)
		})
	}
}

func TestCounterThatBeganAnewIsAGapAndNoNegativeEnergy(t *testing.T) {
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	gpu.joules = 0 // the driver was loaded again
	samples(c, 11.1, 13, 0.1, gpu)
	c.takeTraces(traceOf(1, spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12}), at(13))
	near(t, 380, out(t, c)["1.1"]["gpu.energy"], 1, "without the step in which it began again")
}

func TestBoundsPassSpansOnAndInTheirOrder(t *testing.T) {
	c := testCorrelator(func(cfg *Config) { cfg.Limits.Spans = 3 })
	samples(c, 0, 11, 0.1, steady(simulatedGPU, 10, 12))
	one := spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12}
	require.Empty(t, c.takeTraces(traceOf(1, one), at(12)))
	require.Empty(t, c.takeTraces(traceOf(2, one, spanOf{id: 2, parent: 1, from: 10, to: 11}), at(12)))
	passed := c.takeTraces(traceOf(3, one), at(12))
	require.Len(t, passed, 1, "there is no room: it passes at once")
	a := passed[0].ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().AsRaw()
	assert.Equal(t, none, a["gpu.correlation"])
	assert.Equal(t, reasonLimit, a["gpu.correlation.reason"])
	// More of a trace that waits does not overtake it.
	require.Empty(t, c.takeTraces(traceOf(2, spanOf{id: 3, parent: 1, from: 10, to: 11}), at(12)))
	td, _ := c.take()
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
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	// The child ends first and names no GPU itself.
	require.Len(t, c.takeTraces(traceOf(9, spanOf{id: 1, from: 10, to: 11}), at(11)), 1, "a trace without a GPU passes")
	require.Empty(t, c.takeTraces(traceOf(1, spanOf{id: 3, parent: 1, gpu: simulatedGPU, from: 10, to: 11.5}), at(11.5)))
	require.Empty(t, c.takeTraces(traceOf(1, spanOf{id: 4, parent: 3, from: 10, to: 11}, spanOf{id: 1, from: 10, to: 12}), at(12)))
	assert.Empty(t, out(t, c))
	samples(c, 11.1, 12, 0.1, gpu)
	got := out(t, c)
	require.Len(t, got, 3)
	near(t, 200, got["1.4"]["gpu.energy"], 0.01, "inherited from a span that came before")
	near(t, 300, got["1.1"]["gpu.energy"], 0.01, "rolled up from a span that came before")
}

func TestEndPassesWhatWaits(t *testing.T) {
	c := testCorrelator()
	samples(c, 0, 11, 0.1, steady(simulatedGPU, 10, 12))
	c.takeTraces(traceOf(1, spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12}), at(12))
	c.end()
	got := out(t, c)["1.1"]
	assert.Equal(t, estimate, got["gpu.correlation"])
	assert.Equal(t, reasonShutdown, got["gpu.correlation.reason"])
	near(t, 200, got["gpu.energy"], 1, "what is known")
}

func xidRecord(s float64, gpu string) plog.Logs {
	ld := plog.NewLogs()
	r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName("hw.gpu.xid")
	r.SetTimestamp(pcommon.NewTimestampFromTime(at(s)))
	r.Attributes().PutStr("hw.id", gpu)
	r.Attributes().PutInt("hw.gpu.xid", 31)
	r.Attributes().PutStr("hw.gpu.xid.name", "GPU memory page fault")
	r.Body().SetStr("XID 31 on gpu0")
	return ld
}

func only1(t *testing.T, ld plog.Logs) plog.LogRecord {
	t.Helper()
	require.Equal(t, 1, ld.LogRecordCount())
	return ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

func TestXIDIsOnTheSpanAndTheSpanOnTheRecord(t *testing.T) {
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	samples(c, 0, 11, 0.1, gpu)
	ld := xidRecord(11.2, simulatedGPU)
	c.takeLogs(ld, at(11.2))
	assert.Zero(t, ld.LogRecordCount(), "it waits for the trace")
	c.takeTraces(traceOf(1, spanOf{id: 1, gpu: simulatedGPU, from: 10, to: 12}, spanOf{id: 2, parent: 1, from: 10, to: 11}, spanOf{id: 3, parent: 1, from: 11, to: 12}), at(12))
	joined, found := c.takeRecords()
	require.True(t, found)
	r := only1(t, joined)
	assert.Equal(t, pcommon.TraceID{15: 1}, r.TraceID())
	assert.Equal(t, pcommon.SpanID{6: 1, 7: 3}, r.SpanID(), "the node that ran then")
	samples(c, 11.1, 12, 0.1, gpu)
	td, _ := c.take()
	for _, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
		if s.Name() == "2" {
			assert.Zero(t, s.Events().Len())
			continue
		}
		require.Equal(t, 1, s.Events().Len(), s.Name())
		assert.Equal(t, map[string]any{"hw.gpu.xid": int64(31), "hw.gpu.xid.name": "GPU memory page fault", "message": "XID 31 on gpu0"}, s.Events().At(0).Attributes().AsRaw())
		assert.Equal(t, at(11.2), s.Events().At(0).Timestamp().AsTime())
	}

	ld = xidRecord(11.5, simulatedGPU)
	c.takeLogs(ld, at(13))
	assert.Equal(t, pcommon.SpanID{6: 1, 7: 3}, only1(t, ld).SpanID(), "one that comes after the trace")

	ld = xidRecord(14, simulatedGPU)
	c.takeLogs(ld, at(14))
	assert.Zero(t, ld.LogRecordCount())
	c.expire(at(14 + c.cfg.Wait.Seconds()))
	alone, found := c.takeRecords()
	require.True(t, found)
	assert.True(t, only1(t, alone).TraceID().IsEmpty(), "nothing ran then")
}

func TestRecordOfARunningPromptDoesNotWait(t *testing.T) {
	c := testCorrelator()
	start := plog.NewLogs()
	r := start.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName(executionStarted)
	r.SetTimestamp(pcommon.NewTimestampFromTime(at(10)))
	r.SetTraceID(pcommon.TraceID{15: 7})
	r.SetSpanID(pcommon.SpanID{7: 3})
	r.Attributes().PutStr("hw.id", simulatedGPU)
	c.takeLogs(start, at(10))
	ld := xidRecord(11, simulatedGPU)
	c.takeLogs(ld, at(11))
	got := only1(t, ld)
	assert.Equal(t, pcommon.TraceID{15: 7}, got.TraceID())
	assert.Equal(t, pcommon.SpanID{7: 3}, got.SpanID())
	other := xidRecord(11, otherGPU)
	c.takeLogs(other, at(11))
	assert.Zero(t, other.LogRecordCount(), "another GPU's waits")
}

// Whatever comes in whatever order: every span comes out once, nothing is left, and
// of a GPU's energy no more is given out than it used.
func TestEverySpanComesOutOnceAndNoJouleTwice(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := testCorrelator(func(cfg *Config) { cfg.Limits.Spans = 20 + r.IntN(200) })
		gpu := &load{
			id: simulatedGPU, memory: func(s float64) float64 { return 2 + math.Mod(s, 3) }, util: func(float64) float64 { return 0.5 },
			watts: func(s float64) float64 { return 100 + 50*math.Sin(s) },
		}
		type event struct {
			at float64
			do func()
		}
		var events []event
		var sent, passed int
		got := map[string]map[string]any{}
		var ended []window
		for i := range 30 {
			from := 2 + r.Float64()*20
			to := from + r.Float64()*5
			ended = append(ended, window{at(from).UnixNano(), at(to).UnixNano()})
			spans := []spanOf{{id: 1, gpu: simulatedGPU, from: from, to: to}}
			for n := range r.IntN(4) {
				a := from + r.Float64()*(to-from)
				spans = append(spans, spanOf{id: byte(2 + n), parent: 1, from: a, to: a + r.Float64()*(to-a)})
			}
			sent += len(spans)
			begin := plog.NewLogs()
			rec := begin.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
			rec.SetEventName(executionStarted)
			rec.SetTimestamp(pcommon.NewTimestampFromTime(at(from)))
			rec.SetTraceID(pcommon.TraceID{15: byte(i + 1)})
			rec.Attributes().PutStr("hw.id", simulatedGPU)
			events = append(events, event{from, func() { c.takeLogs(begin, at(from)) }})
			arrives := to + r.Float64()*0.3
			td := traceOf(byte(i+1), spans...)
			events = append(events, event{arrives, func() {
				for _, p := range c.takeTraces(td, at(arrives)) {
					passed += p.SpanCount()
				}
			}})
		}
		for i := range 320 {
			s := float64(i) * 0.1
			if r.IntN(20) == 0 {
				continue
			}
			md := sample(s, gpu)
			events = append(events, event{s + r.Float64()*0.4, func() { c.takeMetrics(md) }})
		}
		slices.SortStableFunc(events, func(a, b event) int { return int(math.Copysign(1, a.at-b.at)) })
		for _, e := range events {
			e.do()
			c.expire(at(e.at))
			maps.Copy(got, out(t, c))
		}
		c.end()
		maps.Copy(got, out(t, c))
		require.Equal(t, sent, len(got)+passed, "seed %d", seed)
		require.Zero(t, c.spans+c.bytes+len(c.byTrace)+len(c.arrived), "seed %d", seed)
		if passed > 0 {
			continue
		}
		given, used := 0.0, 0.0
		for name, a := range got {
			if name[len(name)-2:] == ".1" {
				given += a["gpu.energy"].(float64)
			}
		}
		for _, w := range union(ended) {
			rise, _ := c.timelines.byID[simulatedGPU].energy.rise(w)
			used += rise
		}
		require.InDelta(t, used, given, used*0.02, "seed %d", seed)
	}
}

func TestBoundsAreKeptAndWhatIsForgottenIsCounted(t *testing.T) {
	c := testCorrelator(func(cfg *Config) {
		cfg.Limits = LimitsConfig{Spans: 100, Bytes: 3000, GPUs: 2, Samples: 50, Processes: 1, Traces: 3, Records: 2}
	})
	gpu := steady(simulatedGPU, 10, 12)
	gpu.process = map[int64]func(float64) float64{1: gpu.memory, 2: gpu.memory}
	samples(c, 0, 20, 0.1, gpu)
	tl := c.timelines.byID[simulatedGPU]
	assert.Len(t, tl.processMemory, 1)
	assert.LessOrEqual(t, len(tl.memory.points), 50)
	assert.Positive(t, c.count.dropped)
	one := spanOf{id: 1, gpu: simulatedGPU, from: 18, to: 19}
	for id := range byte(6) {
		c.takeTraces(traceOf(id+1, one), at(20))
		out(t, c)
	}
	samples(c, 20.1, 20.1, 1, gpu)
	assert.Len(t, tl.active.ended, 3)
	assert.Equal(t, int64(3), c.count.forgotten["trace"])
	for id := range byte(5) {
		ld := plog.NewLogs()
		r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
		r.SetEventName(executionStarted)
		r.SetTimestamp(pcommon.NewTimestampFromTime(at(20)))
		r.SetTraceID(pcommon.TraceID{15: 100 + id})
		r.Attributes().PutStr("hw.id", simulatedGPU)
		c.takeLogs(ld, at(20))
	}
	assert.Equal(t, int64(2), c.count.forgotten["beginning"])

	// Spans wait up to so many bytes; records up to their number.
	waits := 0
	for id := range byte(6) {
		waits += 1 - len(c.takeTraces(traceOf(50+id, spanOf{id: 1, gpu: simulatedGPU, from: 20, to: 30}), at(30)))
	}
	assert.Equal(t, 3, waits)
	assert.LessOrEqual(t, c.bytes, 3000)
	kept := 0
	for range 4 {
		ld := xidRecord(5, otherGPU)
		c.takeLogs(ld, at(30))
		kept += 1 - ld.LogRecordCount()
	}
	assert.Equal(t, 2, kept)

	// What spans name need not be a GPU: a GPU's samples push it aside.
	c.takeTraces(traceOf(90, spanOf{id: 1, gpu: "GPU-no-such", from: 29, to: 30}), at(30))
	assert.Len(t, c.timelines.byID, 2)
	samples(c, 100, 100, 1, steady("GPU-c", 0, 1))
	assert.Contains(t, c.timelines.byID, "GPU-c")
	assert.Contains(t, c.timelines.byID, simulatedGPU)
	assert.Equal(t, int64(1), c.count.gpus)
}
