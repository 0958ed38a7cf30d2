// SPDX-License-Identifier: Apache-2.0

package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
)

// joinEpoch is when these tests' time begins, well in the past.
var joinEpoch = time.Date(2024, 3, 1, 12, 0, 0, 0, time.UTC)

func joinAt(seconds float64) pcommon.Timestamp {
	return pcommon.NewTimestampFromTime(joinEpoch.Add(time.Duration(math.Round(seconds * 1e9))))
}

// joinSeconds is a time since the epoch.
func joinSeconds(at pcommon.Timestamp) string {
	return fmt.Sprintf("%.9g", at.AsTime().Sub(joinEpoch).Seconds())
}

const joinHost = "node-1"

// joinCard is what a card does over time, as functions of the seconds since the epoch.
type joinCard struct {
	id        string
	host      string
	memory    func(s float64) float64 // GB
	watts     func(s float64) float64
	util      func(s float64) float64
	process   map[int64]func(s float64) float64  // GB
	throttle  map[string]func(s float64) float64 // s, counters
	peaks     bool                               // tells the most memory since the sample before
	powerOnly bool                               // tells its power and no energy
	simulated bool
	lost      bool // its series end
	joules    float64
	last      float64
}

// joinSteady is a card at 30 W that works at 200 W between two times, with 2 GB, and
// 8 GB from begin+0.5 to the end.
func joinSteady(id string, begin, end float64) *joinCard {
	pick := func(from, a, b float64) func(float64) float64 {
		return func(s float64) float64 {
			if s >= from && s < end {
				return a
			}
			return b
		}
	}
	return &joinCard{id: id, host: joinHost, memory: pick(begin+0.5, 8, 2), watts: pick(begin, 200, 30), util: pick(begin, 0.9, 0)}
}

// joinSample is a collection of cards at a time, in the nvml receiver's words.
func joinSample(s float64, cards ...*joinCard) pmetric.Metrics {
	md := pmetric.NewMetrics()
	for _, c := range cards {
		rm := md.ResourceMetrics().AppendEmpty()
		rm.Resource().Attributes().PutStr("host.name", c.host)
		ms := rm.ScopeMetrics().AppendEmpty().Metrics()
		put := func(name string, counter bool, v float64, attributes ...any) {
			m := ms.AppendEmpty()
			m.SetName(name)
			var points pmetric.NumberDataPointSlice
			if counter {
				points = m.SetEmptySum().DataPoints()
				m.Sum().SetIsMonotonic(true)
				m.Sum().SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			} else {
				points = m.SetEmptyGauge().DataPoints()
			}
			p := points.AppendEmpty()
			p.SetTimestamp(joinAt(s))
			p.SetDoubleValue(v)
			if name == "hw.gpu.memory.usage" {
				p.SetIntValue(int64(v))
			}
			if c.lost {
				p.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
			}
			p.Attributes().PutStr("hw.id", c.id)
			if c.simulated {
				p.Attributes().PutBool("gpu.simulated", true)
			}
			for i := 0; i < len(attributes); i += 2 {
				if pid, ok := attributes[i+1].(int64); ok {
					p.Attributes().PutInt(attributes[i].(string), pid)
					continue
				}
				p.Attributes().PutStr(attributes[i].(string), attributes[i+1].(string))
			}
		}
		for ; c.last+0.0005 < s; c.last += 0.001 {
			c.joules += c.watts(c.last+0.0005) * 0.001
		}
		put("hw.gpu.memory.usage", false, c.memory(s)*1e9)
		if c.peaks {
			put("hw.gpu.memory.usage.max", false, c.memory(s)*1e9+1e8*math.Mod(s*7, 3))
		}
		if !c.powerOnly {
			put("hw.energy", true, c.joules)
		}
		put("hw.power", false, c.watts(s))
		put("hw.power", false, c.watts(s-0.05), "hw.gpu.power.scope", "average")
		put("hw.gpu.utilization", false, c.util(s), "hw.gpu.task", "general")
		put("hw.gpu.utilization", false, 1, "hw.gpu.task", "encoder")
		put("hw.temperature", false, 50+c.util(s)*10, "hw.sensor_location", "gpu")
		put("hw.temperature", false, 90, "hw.sensor_location", "memory")
		put("hw.gpu.clock.frequency", false, 1e9)
		for _, reason := range slices.Sorted(maps.Keys(c.throttle)) {
			put("hw.gpu.throttle.time", true, c.throttle[reason](s), "hw.gpu.throttle.reason", reason)
		}
		for _, pid := range slices.Sorted(maps.Keys(c.process)) {
			put("hw.gpu.process.memory.usage", false, c.process[pid](s)*1e9, "process.pid", pid)
		}
	}
	return md
}

// joinSpan describes a span.
type joinSpan struct {
	id, parent byte
	card       string
	from, to   float64
	pid        int64
}

func joinTrace(id byte, spans ...joinSpan) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("host.name", joinHost)
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName("snapshot")
	for _, s := range spans {
		span := ss.Spans().AppendEmpty()
		span.SetTraceID(pcommon.TraceID{15: id})
		span.SetSpanID(pcommon.SpanID{6: id, 7: s.id})
		if s.parent != 0 {
			span.SetParentSpanID(pcommon.SpanID{6: id, 7: s.parent})
		}
		span.SetName(strconv.Itoa(int(s.id)))
		span.SetStartTimestamp(joinAt(s.from))
		span.SetEndTimestamp(joinAt(s.to))
		if s.card != "" {
			span.Attributes().PutStr("hw.id", s.card)
		}
		if s.pid != 0 {
			span.Attributes().PutInt("process.pid", s.pid)
		}
	}
	return td
}

func joinRecord(name string, s float64, card, body string) (plog.Logs, plog.LogRecord) {
	ld := plog.NewLogs()
	rl := ld.ResourceLogs().AppendEmpty()
	rl.Resource().Attributes().PutStr("host.name", joinHost)
	r := rl.ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName(name)
	r.SetTimestamp(joinAt(s))
	r.Body().SetStr(body)
	if card != "" {
		r.Attributes().PutStr("hw.id", card)
	}
	return ld, r
}

func joinXID(s float64, card string, number int64) plog.Logs {
	ld, r := joinRecord("hw.gpu.xid", s, card, fmt.Sprint("XID ", number))
	r.SetSeverityNumber(plog.SeverityNumberError)
	r.Attributes().PutInt("hw.gpu.xid", number)
	r.Attributes().PutStr("hw.gpu.xid.name", fmt.Sprint("fault ", number))
	return ld
}

func joinStarted(s float64, card string, trace, span byte) plog.Logs {
	ld, r := joinRecord("comfyui.execution.started", s, card, "prompt begins to run")
	r.SetTraceID(pcommon.TraceID{15: trace})
	r.SetSpanID(pcommon.SpanID{6: trace, 7: span})
	return ld
}

// joinRun is one connector at work, with its three sides and what it passes on.
type joinRun struct {
	t       *testing.T
	metrics consumer.Metrics
	traces  consumer.Traces
	logs    consumer.Logs
	sides   []component.Component

	outTraces *consumertest.TracesSink
	outLogs   *consumertest.LogsSink
	telemetry *componenttest.Telemetry

	// What was given, for knowing when something has to come out.
	newest  map[string]pcommon.Timestamp
	waiting []*joinWaiting
	given   int // spans
}

// joinWaiting is a trace that needs samples of cards up to some time.
type joinWaiting struct {
	spans int
	needs map[string]pcommon.Timestamp
}

// joinStart starts a connector. Without a key wait what is given waits for as long as
// the test lasts: the times are past, and a wait that ends by the real clock would let
// go of the spans that records ask for.
func joinStart(t *testing.T, conf map[string]any, next consumer.Traces) *joinRun {
	t.Helper()
	r := &joinRun{t: t, outTraces: new(consumertest.TracesSink), outLogs: new(consumertest.LogsSink), telemetry: componenttest.NewTelemetry(), newest: map[string]pcommon.Timestamp{}}
	if next == nil {
		next = r.outTraces
	}
	all := confmap.NewFromStringMap(map[string]any{"wait": "100000h", "history": "200000h"})
	require.NoError(t, all.Merge(confmap.NewFromStringMap(conf)))
	f := gpucorrelationconnector.NewFactory()
	cfg := f.CreateDefaultConfig()
	require.NoError(t, all.Unmarshal(cfg))
	if v, ok := cfg.(interface{ Validate() error }); ok {
		require.NoError(t, v.Validate())
	}
	set := connectortest.NewNopSettings(f.Type())
	set.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	ctx := context.Background()
	metrics, err := f.CreateMetricsToTraces(ctx, set, cfg, next)
	require.NoError(t, err)
	traces, err := f.CreateTracesToTraces(ctx, set, cfg, next)
	require.NoError(t, err)
	logs, err := f.CreateLogsToLogs(ctx, set, cfg, r.outLogs)
	require.NoError(t, err)
	r.metrics, r.traces, r.logs, r.sides = metrics, traces, logs, []component.Component{metrics, traces, logs}
	for _, s := range r.sides {
		require.NoError(t, s.Start(ctx, componenttest.NewNopHost()))
	}
	t.Cleanup(func() {
		r.stop()
		require.NoError(t, r.telemetry.Shutdown(ctx))
	})
	return r
}

func (r *joinRun) stop() {
	for _, s := range r.sides {
		require.NoError(r.t, s.Shutdown(context.Background()))
	}
	r.sides = nil
}

// takeMetrics gives samples, and waits for the traces that they cover: figures are
// written when a trace goes out, so that what comes in meanwhile would change them.
func (r *joinRun) takeMetrics(md pmetric.Metrics) {
	r.t.Helper()
	for _, rm := range md.ResourceMetrics().All() {
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			switch m.Type() {
			case pmetric.MetricTypeGauge:
				r.note(m.Gauge().DataPoints())
			case pmetric.MetricTypeSum:
				r.note(m.Sum().DataPoints())
			}
		}
	}
	require.NoError(r.t, r.metrics.ConsumeMetrics(context.Background(), md))
	r.settle()
}

// note remembers how far a card's samples reach.
func (r *joinRun) note(points pmetric.NumberDataPointSlice) {
	for _, p := range points.All() {
		if id, _ := p.Attributes().Get("hw.id"); !p.Flags().NoRecordedValue() {
			r.newest[id.Str()] = max(r.newest[id.Str()], p.Timestamp())
		}
	}
}

// takeTraces gives one trace; needs says up to which times the samples of which cards
// are needed for it.
func (r *joinRun) takeTraces(td ptrace.Traces, needs map[string]float64) {
	r.t.Helper()
	w := &joinWaiting{spans: td.SpanCount(), needs: map[string]pcommon.Timestamp{}}
	for card, s := range needs {
		w.needs[card] = joinAt(s)
	}
	r.waiting = append(r.waiting, w)
	require.NoError(r.t, r.traces.ConsumeTraces(context.Background(), td))
	r.settle()
}

func (r *joinRun) takeLogs(ld plog.Logs) {
	require.NoError(r.t, r.logs.ConsumeLogs(context.Background(), ld))
}

// settle waits until all that has its samples is out.
func (r *joinRun) settle() {
	r.t.Helper()
	r.waiting = slices.DeleteFunc(r.waiting, func(w *joinWaiting) bool {
		for card, at := range w.needs {
			if r.newest[card] < at {
				return false
			}
		}
		r.given += w.spans
		return true
	})
	r.until("the covered spans", r.given)
}

func (r *joinRun) until(what string, spans int) {
	r.t.Helper()
	if r.outTraces.SpanCount() < spans {
		require.Eventually(r.t, func() bool { return r.outTraces.SpanCount() >= spans }, comfyuiPatience, 200*time.Microsecond, what)
	}
}

// waited waits until what waits is out without its samples.
func (r *joinRun) waited() {
	r.t.Helper()
	for _, w := range r.waiting {
		r.given += w.spans
	}
	r.waiting = nil
	r.until("it has waited", r.given)
}

// samples gives collections every tenth of a second from one time to another.
func (r *joinRun) samples(from, to float64, cards ...*joinCard) {
	r.t.Helper()
	for i := 0; from+float64(i)*0.1 <= to+1e-9; i++ {
		r.takeMetrics(joinSample(from+float64(i)*0.1, cards...))
	}
}

// joinTogether is several collections as one.
func joinTogether(from, to float64, cards ...*joinCard) pmetric.Metrics {
	md := pmetric.NewMetrics()
	for i := 0; from+float64(i)*0.1 <= to+1e-9; i++ {
		joinSample(from+float64(i)*0.1, cards...).ResourceMetrics().MoveAndAppendTo(md.ResourceMetrics())
	}
	return md
}

// lines ends the connector, which passes on what waits, and prints all that came out.
func (r *joinRun) lines(name string) (lines []string) {
	r.stop()
	for _, td := range r.outTraces.AllTraces() {
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					id := s.TraceID()
					var events []string
					for _, e := range s.Events().All() {
						events = append(events, fmt.Sprintf("%s@%s%s", e.Name(), joinSeconds(e.Timestamp()), comfyuiAttributes(e.Attributes())))
					}
					slices.Sort(events) // a span above two cards has those of one after the other, in any order
					_, one := s.Attributes().Get("hw.id")
					if outcome, ok := s.Attributes().Get("gpu.correlation"); ok && !one && outcome.Str() == "estimate" {
						// A span above several cards has the reason of any of them.
						s.Attributes().Remove("gpu.correlation.reason")
					}
					from, to := joinSeconds(s.StartTimestamp()), joinSeconds(s.EndTimestamp())
					if s.EndTimestamp().AsTime().After(joinEpoch.Add(24 * time.Hour)) {
						to = "<future>"
					}
					lines = append(lines, fmt.Sprintf("%s trace %d span %s parent=%s from=%s to=%s %s events=%v resource=%s %s", name, id[15], s.Name(), s.ParentSpanID(), from, to,
						comfyuiAttributes(s.Attributes()), events, comfyuiAttributes(rs.Resource().Attributes()), comfyuiScope(ss.Scope())))
				}
			}
		}
	}
	for _, ld := range r.outLogs.AllLogs() {
		for _, rl := range ld.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, rec := range sl.LogRecords().All() {
					lines = append(lines, fmt.Sprintf("%s record %s at=%s severity=%s body=%s trace=%s span=%s %s resource=%s", name, rec.EventName(), joinSeconds(rec.Timestamp()), rec.SeverityNumber(),
						comfyuiValue(rec.Body()), rec.TraceID(), rec.SpanID(), comfyuiAttributes(rec.Attributes()), comfyuiAttributes(rl.Resource().Attributes())))
				}
			}
		}
	}
	return lines
}

const joinA, joinB = "GPU-a", "GPU-b"

// joinGolden is the input of the connector's own golden test, and a record of each kind
// that the connector treats in its own way.
func joinGolden(r *joinRun, card *joinCard) {
	card.throttle = map[string]func(float64) float64{"sw_power_cap": func(s float64) float64 { return min(max(s-11, 0), 0.4) }}
	card.process = map[int64]func(float64) float64{77: func(s float64) float64 { return card.memory(s) - 1 }}
	r.samples(0, 9.9, card)
	r.takeLogs(joinXID(11.25, joinA, 31))
	r.takeTraces(joinTrace(2, joinSpan{id: 1, card: joinA, from: 9.5, to: 10.25}), map[string]float64{joinA: 10.25})
	r.takeTraces(joinTrace(1,
		joinSpan{id: 1, from: 9, to: 12},
		joinSpan{id: 2, parent: 1, from: 9, to: 10},
		joinSpan{id: 3, parent: 1, card: joinA, from: 10, to: 12, pid: 77},
		joinSpan{id: 4, parent: 3, card: joinA, from: 10, to: 10.02},
		joinSpan{id: 5, parent: 3, card: joinA, from: 10.02, to: 12},
	), map[string]float64{joinA: 12})
	r.takeMetrics(joinTogether(10, 13, card)) // at once: both traces are joined with all of it
	r.takeTraces(joinTrace(3, joinSpan{id: 1, from: 9, to: 12}), nil)
	r.takeLogs(joinXID(10.01, joinA, 32))    // two ran then
	r.takeLogs(joinXID(5, joinA, 33))        // none
	r.takeLogs(joinXID(11.5, "GPU-none", 1)) // of another card
	other, _ := joinRecord("comfyui.prompt.error", 11, joinA, "no record of a card")
	r.takeLogs(other)
	alone, _ := joinRecord("hw.gpu.xid", 11, "", "no card is named")
	r.takeLogs(alone)
	named := joinXID(11.5, joinA, 34)
	named.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetTraceID(pcommon.TraceID{15: 99})
	r.takeLogs(named) // it has its trace
	r.takeLogs(joinStarted(13.1, joinA, 4, 1))
	r.takeLogs(joinXID(13.2, joinA, 35)) // one runs that has not ended
}

// joinCases are those of the connector's own tests: what is as it should be, and what
// is not.
var joinCases = map[string]struct {
	conf map[string]any
	feed func(r *joinRun, card *joinCard)
}{
	"golden": {feed: joinGolden},
	"two cards": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11.5, card, joinSteady(joinB, 10, 11))
		r.takeTraces(joinTrace(1, joinSpan{id: 1, from: 9, to: 12}, joinSpan{id: 2, parent: 1, card: joinA, from: 10, to: 11.5}, joinSpan{id: 3, parent: 1, card: joinB, from: 10, to: 11}), map[string]float64{joinA: 11.5, joinB: 11})
	}},
	"the process's own memory": {feed: func(r *joinRun, card *joinCard) {
		card.process = map[int64]func(float64) float64{77: func(float64) float64 { return 1.5 }}
		r.samples(0, 13, card)
		for pid := int64(77); pid < 79; pid++ {
			r.takeTraces(joinTrace(byte(pid), joinSpan{id: 1, card: joinA, from: 10, to: 12, pid: pid}), nil)
		}
	}},
	"a peak between two samples": {feed: func(r *joinRun, card *joinCard) {
		card.peaks, card.simulated = true, true
		r.samples(9, 13, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 9.95, to: 12}), nil)
	}},
	"power and no energy": {feed: func(r *joinRun, card *joinCard) {
		card.powerOnly = true
		r.samples(0, 13, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12}), nil)
	}},
	"a counter that began anew": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11, card)
		card.joules = 0
		r.samples(11.1, 13, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12}), nil)
	}},
	"a gap in the samples": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 10.5, card)
		r.samples(11.8, 13, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12}), nil)
	}},
	"spans without a sample, and of no length": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 13, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 10.52, to: 10.58}), nil)
		r.takeTraces(joinTrace(2, joinSpan{id: 1, card: joinA, from: 10.52, to: 10.52}), nil)
	}},
	"samples of another card only, and the end": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11.5, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinB, from: 10, to: 12}), map[string]float64{joinB: 12})
		r.takeTraces(joinTrace(2, joinSpan{id: 1, card: joinA, from: 10, to: 12}), map[string]float64{joinA: 12})
	}},
	"the wait ends": {conf: map[string]any{"wait": "20ms", "history": "10m"}, feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11.5, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12}), map[string]float64{joinA: 12})
		r.waited()
		r.takeTraces(joinTrace(2, joinSpan{id: 1, card: joinB, from: 10, to: 12}), map[string]float64{joinB: 12})
		r.waited()
	}},
	"longer than the history": {conf: map[string]any{"wait": "1s", "history": "2s"}, feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 13, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 5, to: 12}), nil)
	}},
	"another host": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 15, card)
		td := joinTrace(1, joinSpan{id: 1, card: joinA, from: 12, to: 14})
		td.ResourceSpans().At(0).Resource().Attributes().PutStr("host.name", "node-2")
		r.takeTraces(td, nil)
	}},
	"another host whose clock is known": {conf: map[string]any{"clock_offsets": map[string]any{"node-2": "2s"}}, feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 10.9, card)
		r.takeLogs(joinXID(10.5, joinA, 31))
		td := joinTrace(1, joinSpan{id: 1, card: joinA, from: 12, to: 13.5})
		td.ResourceSpans().At(0).Resource().Attributes().PutStr("host.name", "node-2")
		r.takeTraces(td, map[string]float64{joinA: 11.5})
		r.samples(11, 13, card)
	}},
	"the future": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 13, card)
		td := joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12})
		td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(time.Hour)))
		r.takeTraces(td, nil)
	}},
	"a card that is lost": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12}), map[string]float64{joinA: 12})
		card.lost = true
		r.samples(11.1, 11.1, card) // the trace before goes on waiting, to the end
		r.takeTraces(joinTrace(2, joinSpan{id: 1, card: joinA, from: 10.5, to: 12}), nil)
	}},
	"a trace in parts": {feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11, card)
		r.takeTraces(joinTrace(1, joinSpan{id: 3, parent: 1, card: joinA, from: 10, to: 11.5}), map[string]float64{joinA: 12})
		r.takeTraces(joinTrace(1, joinSpan{id: 4, parent: 3, from: 10, to: 11}, joinSpan{id: 1, from: 10, to: 12}), map[string]float64{joinA: 12})
		r.takeMetrics(joinTogether(11.1, 12, card))
	}},
	"no room": {conf: map[string]any{"limits": map[string]any{"spans": 2}}, feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 11, card)
		for id := range byte(3) {
			r.takeTraces(joinTrace(id+1, joinSpan{id: 1, card: joinA, from: 10, to: 11.5}), map[string]float64{joinA: 11.5 * float64(min(2-id, 1))})
		}
	}},
	"other names of the card": {conf: map[string]any{"device_attributes": []any{"gpu", "hw.id"}}, feed: func(r *joinRun, card *joinCard) {
		r.samples(0, 13, card)
		td := joinTrace(1, joinSpan{id: 1, from: 10, to: 12}, joinSpan{id: 2, parent: 1, card: joinB, from: 10, to: 11})
		td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(1).Attributes().PutStr("gpu", joinA)
		td.ResourceSpans().At(0).Resource().Attributes().PutStr("hw.id", joinA)
		r.takeTraces(td, nil)
	}},
}

// joinRandom gives traffic of a seed: prompts that overlap on one to four cards, with
// pids, throttling, XIDs, counters that begin anew, and samples that are missing, late
// or repeated.
func joinRandom(r *joinRun, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	cards := make([]*joinCard, 1+seed%4)
	// Either all cards are simulated or none: of a simulated one and a real one the span
	// above them has the mark of any of the two.
	simulated := rnd.IntN(4) == 0
	for i := range cards {
		phase, slow := rnd.Float64()*6, 0.3+rnd.Float64()
		c := &joinCard{
			id: fmt.Sprint("GPU-", i), host: joinHost, powerOnly: rnd.IntN(4) == 0, peaks: rnd.IntN(2) == 0, simulated: simulated,
			memory: func(s float64) float64 { return 4 + 3*math.Sin(s*slow+phase) },
			watts:  func(s float64) float64 { return 150 + 100*math.Sin(s*slow*2+phase) },
			util:   func(s float64) float64 { return 0.5 + 0.5*math.Cos(s+phase) },
		}
		c.throttle = map[string]func(float64) float64{
			"sw_power_cap": func(s float64) float64 { return math.Floor(s/4)*0.25 + min(math.Mod(s, 4)*0.1, 0.25) },
			"hw_thermal":   func(s float64) float64 { return max(0, s-12) * 0.3 },
		}
		c.process = map[int64]func(float64) float64{}
		for pid := range int64(rnd.IntN(3)) {
			c.process[100+pid] = func(s float64) float64 { return 1 + 0.5*math.Sin(s*2+float64(pid)) }
		}
		cards[i] = c
	}
	type event struct {
		at float64
		do func()
	}
	var events []event
	add := func(at float64, do func()) { events = append(events, event{at, do}) }
	for i := range 18 + rnd.IntN(12) {
		id := byte(i + 1)
		from := 2 + rnd.Float64()*20
		begin := from + rnd.Float64() // the wait in the queue
		end := begin + 0.05 + rnd.Float64()*4
		on := []string{cards[rnd.IntN(len(cards))].id}
		if second := cards[rnd.IntN(len(cards))].id; second != on[0] && rnd.IntN(3) == 0 {
			on = append(on, second)
		}
		spans := []joinSpan{{id: 1, from: from, to: end}, {id: 2, parent: 1, from: from, to: begin}}
		needs := map[string]float64{}
		for n, card := range on {
			execution := joinSpan{id: byte(10 * (n + 1)), parent: 1, card: card, from: begin, to: end - float64(n)*0.03}
			if rnd.IntN(2) == 0 {
				execution.pid = 100 + int64(rnd.IntN(3))
			}
			spans = append(spans, execution)
			needs[card] = execution.to
			for k := range rnd.IntN(4) {
				a := begin + rnd.Float64()*(execution.to-begin)
				spans = append(spans, joinSpan{id: execution.id + byte(k) + 1, parent: execution.id, from: a, to: a + rnd.Float64()*(execution.to-a)})
			}
			if rnd.IntN(4) > 0 {
				started := joinStarted(begin, card, id, execution.id)
				add(begin+0.001, func() { r.takeLogs(started) })
			}
		}
		td := joinTrace(id, spans...)
		add(end+rnd.Float64()*0.3, func() { r.takeTraces(td, needs) })
	}
	for i := range 10 {
		s := 1 + rnd.Float64()*26
		ld := joinXID(s, cards[rnd.IntN(len(cards))].id, int64(30+i))
		add(s+rnd.Float64()*2, func() { r.takeLogs(ld) })
	}
	reset := 8 + rnd.IntN(10)
	for i := range 290 {
		s := float64(i) * 0.1
		if s >= float64(reset) && s < float64(reset)+0.05 {
			cards[0].joules = 0
		}
		md := joinSample(s, cards...)
		if s > 14 && s < 14+float64(seed%3) || rnd.IntN(20) == 0 {
			continue // it is missing
		}
		late := rnd.Float64() * 0.25
		add(s+late, func() { r.takeMetrics(md) })
		if rnd.IntN(40) == 0 {
			again := pmetric.NewMetrics()
			md.CopyTo(again)
			add(s+late+0.1, func() { r.takeMetrics(again) })
		}
	}
	slices.SortStableFunc(events, func(a, b event) int { return cmp.Compare(a.at, b.at) })
	for _, e := range events {
		e.do()
	}
}

// TestCorrelation records what the connector makes of fixed and of random traffic.
func TestCorrelation(t *testing.T) {
	var lines comfyuiLines
	t.Run("runs", func(t *testing.T) {
		for name, one := range joinCases {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := joinStart(t, one.conf, nil)
				one.feed(r, joinSteady(joinA, 10, 12))
				lines.add(r.lines(name))
			})
		}
		for seed := range uint64(8) {
			name := fmt.Sprint("random ", seed)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				r := joinStart(t, nil, nil)
				joinRandom(r, seed)
				lines.add(r.lines(name))
			})
		}
	})
	if !t.Failed() {
		snapshot.CheckPart(t, "correlation", lines.all)
	}
}

// joinRefusing refuses all for good.
func joinRefusing() consumer.Traces {
	next, _ := consumer.NewTraces(func(context.Context, ptrace.Traces) error {
		return consumererror.NewPermanent(errors.New("too large"))
	})
	return next
}
