// SPDX-License-Identifier: Apache-2.0

// Package gpuload makes samples, traces and records of GPUs whose figures are functions
// of time, so that a test knows what each span used.
package gpuload

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Epoch is when the tests' time begins.
var Epoch = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// At is a time in seconds after the Epoch.
func At(seconds float64) time.Time {
	return Epoch.Add(time.Duration(math.Round(seconds * 1e9)))
}

// Load is what a GPU does over time; every figure is a function of the seconds
// since the Epoch.
type Load struct {
	ID       string
	Memory   func(s float64) float64 // GB
	Watts    func(s float64) float64
	Util     func(s float64) float64
	Process  map[int64]func(s float64) float64 // GB
	Throttle func(s float64) float64           // s, a counter
	Joules   float64                           // so far
	last     float64
}

// A and B are the ids of two GPUs.
const (
	A = "GPU-a"
	B = "GPU-b"
)

// Steady is a GPU at 30 W that works at 200 W between two times, with 2 GB, and 8 GB
// from begin+0.5 to the end.
func Steady(id string, begin, end float64) *Load {
	working := func(s float64) bool { return s >= begin && s < end }
	return &Load{
		ID: id,
		Memory: func(s float64) float64 {
			if s >= begin+0.5 && s < end {
				return 8
			}
			return 2
		},
		Watts: func(s float64) float64 {
			if working(s) {
				return 200
			}
			return 30
		},
		Util: func(s float64) float64 {
			if working(s) {
				return 0.9
			}
			return 0
		},
	}
}

// Sample makes a scrape of GPUs at a time. Energy is integrated in steps of 1 ms.
func Sample(s float64, gpus ...*Load) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", "node-1")
	ms := rm.ScopeMetrics().AppendEmpty().Metrics()
	put := func(l *Load, name string, v float64, attributes ...string) {
		m := ms.AppendEmpty()
		m.SetName(name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(At(s)))
		p.SetDoubleValue(v)
		p.Attributes().PutStr("hw.id", l.ID)
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
			l.Joules += l.Watts(l.last+0.0005) * 0.001
		}
		put(l, "hw.gpu.memory.usage", l.Memory(s)*1e9)
		put(l, "hw.energy", l.Joules)
		put(l, "hw.gpu.utilization", l.Util(s), "hw.gpu.task", "general")
		put(l, "hw.gpu.utilization", 1, "hw.gpu.task", "encoder")
		put(l, "hw.temperature", 50+l.Util(s)*10, "hw.sensor_location", "gpu")
		if l.Throttle != nil {
			put(l, "hw.gpu.throttle.time", l.Throttle(s), "hw.gpu.throttle.reason", "sw_power_cap")
		}
		for _, pid := range slices.Sorted(maps.Keys(l.Process)) {
			put(l, "hw.gpu.process.memory.usage", l.Process[pid](s)*1e9, "process.pid", strconv.FormatInt(pid, 10))
		}
	}
	return md
}

// Span describes a span of a test.
type Span struct {
	ID, Parent byte
	GPU        string
	From, To   float64
	PID        int64
}

// Trace makes a trace of spans.
func Trace(id byte, spans ...Span) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("host.name", "node-1")
	ss := rs.ScopeSpans().AppendEmpty().Spans()
	for _, s := range spans {
		span := ss.AppendEmpty()
		span.SetTraceID(pcommon.TraceID{15: id})
		span.SetSpanID(pcommon.SpanID{6: id, 7: s.ID})
		if s.Parent != 0 {
			span.SetParentSpanID(pcommon.SpanID{6: id, 7: s.Parent})
		}
		span.SetName(strconv.Itoa(int(s.ID)))
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(At(s.From)))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(At(s.To)))
		if s.GPU != "" {
			span.Attributes().PutStr("hw.id", s.GPU)
		}
		if s.PID != 0 {
			span.Attributes().PutInt("process.pid", s.PID)
		}
	}
	return td
}

// XIDRecord makes the log record of an XID.
func XIDRecord(s float64, gpu string) plog.Logs {
	ld := plog.NewLogs()
	r := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	r.SetEventName("hw.gpu.xid")
	r.SetTimestamp(pcommon.NewTimestampFromTime(At(s)))
	r.Attributes().PutStr("hw.id", gpu)
	r.Attributes().PutInt("hw.gpu.xid", 31)
	r.Attributes().PutStr("hw.gpu.xid.name", "GPU memory page fault")
	r.Body().SetStr("XID 31 on gpu0")
	return ld
}
