// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// piece is what arrived of one trace at once. It is made without the joiner's lock.
type piece struct {
	trace  pcommon.TraceID
	traces ptrace.Traces
	uses   []use   // of all its spans; nil if none names a GPU
	parts  []*part // by GPU
	loose  int64   // when the last of the spans ends that may have a GPU through another piece
	spans  int
	bytes  int
	// refused pieces found no room.
	refused bool
}

// part is what a piece needs of one GPU.
type part struct {
	gpu string
	pid int64 // of the process that used it; 0 if it is not known
	// host is that of the spans if its clock is not one that is configured.
	host    string
	end     int64
	windows []gputimeline.Interval // sorted, apart; at most maxPartWindows
	spans   []spanInterval
	// foreign is set when the piece is added: the host is not the one of the samples.
	foreign bool
	// listed is true if it is one of several GPUs that may have been used.
	listed bool
}

const (
	// maxPartWindows bounds the windows of time of a span or a piece on one GPU; beyond it
	// those with the shortest breaks between them count as one.
	maxPartWindows = 64
	// maxParts bounds the GPUs whose samples one trace waits for.
	maxParts = 100
	// spanOverhead is the memory of a waiting span beyond its size in OTLP, in bytes
	// (make bench-correlation measures it).
	spanOverhead = 700
)

// newPiece finds out which GPU each span of a piece used, and when: its own, or that of
// the nearest span above it.
func (s *Settings) newPiece(td ptrace.Traces, now time.Time) *piece {
	var sizer ptrace.ProtoMarshaler
	p := &piece{
		trace: td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).TraceID(), traces: td,
		spans: td.SpanCount(), bytes: sizer.TracesSize(td),
	}
	p.bytes += p.spans * spanOverhead
	p.uses = make([]use, 0, p.spans)
	parts := partIndex{piece: p}
	latest := now.Add(s.MaxAhead).UnixNano()
	for _, rs := range td.ResourceSpans().All() {
		resource := rs.Resource().Attributes()
		host := pdataread.Text(resource, semconv.HostName)
		offset, trusted := s.ClockOffsets[host]
		if trusted {
			host = ""
		}
		resourceGPU := s.namedGPU(resource)
		resourcePID, hasPID := resource.Get(semconv.ProcessPID)
		for _, ss := range rs.ScopeSpans().All() {
			for _, span := range ss.Spans().All() {
				u := use{span: span, parent: -1, offset: offset.Nanoseconds()}
				gpu := s.namedGPU(span.Attributes())
				u.remote = pdataread.True(span.Attributes(), semconv.Remote)
				if gpu == "" && !u.remote {
					gpu = resourceGPU
				}
				if _, ok := span.Attributes().Get(semconv.NodeID); ok {
					u.node = true
				}
				if gpu != "" {
					u.named, u.part = true, parts.of(gpu, host)
				} else if !u.remote {
					u.many = parts.ofAll(span.Attributes(), host)
					u.named = u.many != nil
				}
				if pid, ok := span.Attributes().Get(semconv.ProcessPID); ok {
					u.pid = pid.Int()
				} else if hasPID {
					u.pid = resourcePID.Int()
				}
				from, to := int64(span.StartTimestamp()), int64(span.EndTimestamp())
				u.interval = gputimeline.Interval{From: from - u.offset, To: max(from, to) - u.offset}
				if u.interval.To > latest {
					u.reason = ReasonClock
				}
				p.uses = append(p.uses, u)
			}
		}
	}
	inherit(p.uses)
	leaveOut(p.uses)
	findLate(p.uses)
	p.collect()
	return p
}

// partIndex finds the parts of a piece.
type partIndex struct {
	*piece
	byKey map[partKey]*part // of those beyond the first few
}

type partKey struct{ gpu, host string }

// of is the part of a GPU and a host, made if it is not there.
func (x *partIndex) of(gpu, host string) *part {
	const few = 4
	for _, p := range x.parts[:min(len(x.parts), few)] {
		if p.gpu == gpu && p.host == host {
			return p
		}
	}
	if p := x.byKey[partKey{gpu, host}]; p != nil {
		return p
	}
	p := &part{gpu: gpu, host: host}
	if len(x.parts) >= few {
		if x.byKey == nil {
			x.byKey = map[partKey]*part{}
		}
		x.byKey[partKey{gpu, host}] = p
	}
	x.parts = append(x.parts, p)
	return p
}

// ofAll are the parts of the GPUs in a list; nil if there is none.
func (x *partIndex) ofAll(a pcommon.Map, host string) (all []*part) {
	ids, ok := a.Get(semconv.GPUIDs)
	if !ok || ids.Type() != pcommon.ValueTypeSlice {
		return nil
	}
	for _, id := range ids.Slice().All() {
		if len(all) < maxRolledGPUs && id.Str() != "" {
			p := x.of(id.Str(), host)
			p.listed = true
			all = append(all, p)
		}
	}
	return all
}

// collect adds up what the spans of a piece need of each GPU.
func (p *piece) collect() {
	for i := range p.uses {
		u := &p.uses[i]
		switch {
		case u.reason != "":
		case !u.hasGPU() && u.orphan:
			p.loose = max(p.loose, u.interval.To)
		default:
			u.eachPart(func(x *part) { x.add(u) })
		}
	}
	for _, part := range p.parts {
		part.windows, _ = unite(part.windows)
	}
}

// add adds what a span needs of the GPU.
func (x *part) add(u *use) {
	x.end = max(x.end, u.interval.To)
	x.pid = cmp.Or(x.pid, u.pid)
	x.windows = append(x.windows, u.times()...)
	if len(x.spans) < maxSpanIntervals {
		x.spans = append(x.spans, spanInterval{u.interval, u.span.SpanID(), u.depth})
	}
}

// unite joins windows that touch, and of more than maxPartWindows those with the
// shortest breaks between them; coarse reports whether it had to.
func unite(windows []gputimeline.Interval) (united []gputimeline.Interval, coarse bool) {
	windows = gputimeline.Union(windows)
	over := len(windows) - maxPartWindows
	if over <= 0 {
		return windows, false
	}
	breaks := make([]int64, 0, len(windows)-1)
	for i, w := range windows[1:] {
		breaks = append(breaks, w.From-windows[i].To)
	}
	slices.Sort(breaks)
	shortest := breaks[over-1] // joined are all up to this length, but no more than needed
	united = windows[:1]
	for _, w := range windows[1:] {
		if last := &united[len(united)-1]; over > 0 && w.From-last.To <= shortest {
			last.To = w.To
			over--
		} else {
			united = append(united, w)
		}
	}
	return united, true
}

// namedGPU is the GPU that attributes name.
func (s *Settings) namedGPU(a pcommon.Map) string {
	for _, key := range s.DeviceAttributes {
		if id := pdataread.Text(a, key); id != "" {
			return id
		}
	}
	return ""
}
