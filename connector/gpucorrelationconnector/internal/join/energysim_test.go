// SPDX-License-Identifier: Apache-2.0

package join

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

// energySim runs a simulated GPU in virtual time through a joiner: it is read at the fast
// receiver's times, and what it did becomes traces and records as the comfyui receiver
// makes them.
type energySim struct {
	run    *gpumodel.Run
	model  gpumodel.Model
	pace   gpumodel.Pace
	joiner *Joiner
	random *rand.Rand
	// nodes are spans within the works, in their order; the product hears of them late.
	nodes [][]gpumodel.Node
	late  time.Duration
	// withUses reads the processes' use of the GPU.
	withUses bool
	// limit is the GPU's power limit in W; 0 if it is not read.
	limit float64
	// phase is that of the counter's steps; 0 for one at random.
	phase time.Duration
	// counter are the readings of the counter.
	counter gputimeline.Stream
	// corrupt changes a reading of the counter.
	corrupt func(at int64, joules float64) float64
}

// reported is what the product said of one span.
type reported struct {
	work, node  int // node is -1 for the execution
	attributes  map[string]any
	energy      float64
	marginal    float64
	uncertainty float64
}

const simGPU = "GPU-sim"

func simPID(process int) int64 { return int64(100 + process) }

// simTime is a virtual time as the clock of the samples has it.
func simTime(at int64) pcommon.Timestamp {
	return pcommon.NewTimestampFromTime(gpuload.Epoch.Add(time.Duration(at)))
}

type simMetrics struct {
	md pmetric.Metrics
	ms pmetric.MetricSlice
	at int64
}

func newSimMetrics(at int64) *simMetrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr(semconv.HostName, "node-1")
	return &simMetrics{md: md, ms: rm.ScopeMetrics().AppendEmpty().Metrics(), at: at}
}

func (s *simMetrics) put(name string, v float64) pcommon.Map {
	m := s.ms.AppendEmpty()
	m.SetName(name)
	p := m.SetEmptyGauge().DataPoints().AppendEmpty()
	p.SetTimestamp(simTime(s.at))
	p.SetDoubleValue(v)
	p.Attributes().PutStr(semconv.GPUID, simGPU)
	return p.Attributes()
}

// read is one reading of the GPU.
func (s *energySim) read(meter *gpumodel.Meter, uses *gpumodel.Uses, at int64) pmetric.Metrics {
	// The receiver looks at its clock just before or after the driver answers.
	md := newSimMetrics(at + s.random.Int64N(2_000_001) - 1_000_000)
	if joules, ok := meter.Energy(at); ok {
		joules = math.Floor(joules*1000) / 1000 // mJ
		if s.corrupt != nil {
			joules = s.corrupt(at, joules)
		}
		md.put("hw.energy", joules).PutStr("hw.gpu.energy.source", "counter")
		s.counter.Put(at, joules)
	}
	if s.model.Counter.Absent { // what the receiver integrates itself, of averages, is not a counter
		md.put("hw.energy", float64(at)/1e7).PutStr("hw.gpu.energy.source", "integrated")
	}
	if watts, ok := meter.Instant(at); ok {
		md.put("hw.power", math.Floor(watts*1000)/1000).PutStr("hw.gpu.power.scope", "instant")
	}
	if watts, ok := meter.Average(at); ok {
		md.put("hw.power", math.Floor(watts*1000)/1000).PutStr("hw.gpu.power.scope", "average")
	}
	if s.model.Name != "" {
		md.put("hw.gpu.info", 1).PutStr("hw.model", s.model.Name)
	}
	if s.limit > 0 {
		md.put("hw.gpu.power.limit", s.limit).PutStr("hw.limit_type", "enforced")
		md.put("hw.gpu.power.limit", 2*s.limit).PutStr("hw.limit_type", "max")
	}
	used := 0.0
	for _, use := range s.run.Use {
		used += use.Between(at-time.Second.Nanoseconds()/6, at) * 6
	}
	md.put("hw.gpu.utilization", math.Round(100*used)/100).PutStr("hw.gpu.task", "general")
	md.put("hw.gpu.memory.usage", 8e9)
	if s.withUses && uses.Due(at) {
		shares := uses.Read(at)
		for p := range s.run.Use {
			a := md.put("hw.gpu.process.utilization", shares[p])
			a.PutStr("hw.gpu.task", "general")
			a.PutInt(semconv.ProcessPID, simPID(p))
		}
	}
	return md.md
}

func simID(work int) (id pcommon.TraceID) {
	binary.BigEndian.PutUint64(id[8:], uint64(work+1))
	return id
}

func simSpanID(work, node int) (id pcommon.SpanID) {
	binary.BigEndian.PutUint64(id[:], uint64(work+1)<<8|uint64(node+2))
	return id
}

func (s *energySim) started(work int) plog.Logs {
	w := &s.run.Works[work]
	ld := plog.NewLogs()
	r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName(semconv.EventExecutionStarted)
	r.SetTimestamp(simTime(w.From))
	r.SetTraceID(simID(work))
	r.SetSpanID(simSpanID(work, -1))
	r.Attributes().PutStr(semconv.GPUID, simGPU)
	r.Attributes().PutInt(semconv.ProcessPID, simPID(w.Process))
	return ld
}

// remote is the record that a work runs elsewhere, or is back.
func (s *energySim) remote(work int, at int64, gone bool) plog.Logs {
	ld := s.started(work)
	r := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	r.SetEventName(semconv.EventExecutionRemote)
	r.SetTimestamp(simTime(at))
	r.Attributes().PutBool(semconv.Remote, gone)
	return ld
}

func (s *energySim) trace(work int) ptrace.Traces {
	w := &s.run.Works[work]
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr(semconv.HostName, "node-1")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	span := func(node int, from, to int64) pcommon.Map {
		x := spans.AppendEmpty()
		x.SetTraceID(simID(work))
		x.SetSpanID(simSpanID(work, node))
		if node >= 0 {
			x.SetParentSpanID(simSpanID(work, -1))
		}
		x.SetStartTimestamp(simTime(from))
		x.SetEndTimestamp(simTime(to))
		return x.Attributes()
	}
	// The service's messages take some time.
	begin, end := w.From+s.random.Int64N(3_000_000), w.To+s.random.Int64N(3_000_000)
	a := span(-1, begin, end)
	a.PutStr(semconv.GPUID, simGPU)
	a.PutInt(semconv.ProcessPID, simPID(w.Process))
	if w.Remote > 0 {
		a = span(250, begin, w.From+w.Remote.Nanoseconds())
		a.PutStr(semconv.NodeID, "remote")
		a.PutBool(semconv.Remote, true)
	}
	if s.nodes == nil {
		return td
	}
	// A node begins for the product when it hears of it, and ends with the next.
	nodes := s.nodes[work]
	edge := begin
	for i, n := range nodes {
		from := edge
		if edge = end; i+1 < len(nodes) {
			edge = n.To + s.random.Int64N(s.late.Nanoseconds()+1)
		}
		a := span(i, from, edge)
		a.PutStr(semconv.GPUID, simGPU)
		a.PutStr(semconv.NodeID, "node")
	}
	return td
}

// simEvent is what reaches the joiner at a time.
type simEvent struct {
	at         int64
	kind, work int // kind 0 begins a work, 1 ends it, 2 is a reading, 3 is a work that is back from elsewhere
}

// simulate feeds the joiner and returns what it said of every span.
func (s *energySim) simulate() (all []reported) {
	var events []simEvent
	delay := func() int64 { return int64(2+s.random.IntN(6)) * int64(time.Millisecond) }
	for i := range s.run.Works {
		events = append(events, simEvent{s.run.Works[i].From + delay(), 0, i}, simEvent{s.run.Works[i].To + delay(), 1, i})
	}
	for i := range s.run.Works {
		if w := &s.run.Works[i]; w.Remote > 0 {
			events = append(events, simEvent{w.From + w.Remote.Nanoseconds() + delay(), 3, i})
		}
	}
	for _, at := range s.pace.Reads(s.run.Works, s.run.End, s.random) {
		events = append(events, simEvent{at, 2, 0})
	}
	slices.SortStableFunc(events, func(a, b simEvent) int { return int(min(max(a.at-b.at, -1), 1)) })
	if s.phase == 0 {
		s.phase = time.Duration(s.random.Int64N(int64(time.Second)))
	}
	meter := gpumodel.NewMeter(s.model, s.run.Total, s.phase)
	uses := &gpumodel.Uses{Run: s.run, Period: time.Second}
	for _, e := range events {
		now := gpuload.Epoch.Add(time.Duration(e.at))
		switch e.kind {
		case 0:
			s.joiner.AddLogs(s.started(e.work), now)
			if w := &s.run.Works[e.work]; w.Remote > 0 {
				s.joiner.AddLogs(s.remote(e.work, w.From, true), now)
			}
		case 1:
			s.joiner.AddTraces(s.trace(e.work), now)
		case 3:
			w := &s.run.Works[e.work]
			s.joiner.AddLogs(s.remote(e.work, w.From+w.Remote.Nanoseconds(), false), now)
		case 2:
			s.joiner.AddMetrics(s.read(meter, uses, e.at))
			s.joiner.Expire(now)
		}
		all = s.collect(all)
	}
	return all
}

func (s *energySim) collect(all []reported) []reported {
	for s.joiner.HasTraces() {
		td, _ := s.joiner.NextTraces()
		for _, rs := range td.ResourceSpans().All() {
			for _, span := range rs.ScopeSpans().At(0).Spans().All() {
				id := span.SpanID()
				n := binary.BigEndian.Uint64(id[:])
				r := reported{work: int(n>>8) - 1, node: int(n&0xff) - 2, attributes: span.Attributes().AsRaw()}
				if r.node == 250 {
					continue
				}
				r.energy, _ = r.attributes["gpu.energy"].(float64)
				r.marginal, _ = r.attributes["gpu.energy.marginal"].(float64)
				r.uncertainty, _ = r.attributes["gpu.energy.uncertainty"].(float64)
				all = append(all, r)
			}
		}
	}
	return all
}
