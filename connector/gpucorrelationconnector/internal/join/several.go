// SPDX-License-Identifier: Apache-2.0

package join

import (
	"encoding/binary"
	"hash/fnv"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// maxListed bounds the spans of one trace below which spans of single GPUs are added.
const maxListed = 16

// maxUtilizationAge is over what time a reading of the utilisation is an average, at least,
// in ns.
const maxUtilizationAge = int64(time.Second) / 6

// used reports whether a process used the GPU in some windows: a process that has the GPU
// open need not, since ComfyUI opens all that it can see. It did where the driver says so, and
// where the GPU was active, unless the driver says that others were and this process was not.
// sure is false where that is not known: the driver's samples come once a second, so that a short
// window may hold none of the process, and the last ones of a GPU that is lost are not read.
func (v *view) used(pid int64, windows []gputimeline.Interval) (used, sure bool) {
	if v.Ended != 0 && v.newest < windows[0].From {
		return false, true
	}
	own, foreign, length := processUsed{}, false, int64(0)
	for _, w := range windows {
		length += w.Length()
		if s := v.ProcessUse[pid]; pid != 0 && s != nil {
			own.add(v, s, w)
		}
	}
	if own.integral > minUse*float64(own.seen)/1e9 {
		return true, true
	}
	for other, s := range v.ProcessUse {
		if other == pid || other == 0 {
			continue
		}
		u := processUsed{}
		for _, w := range windows {
			u.add(v, s, w)
		}
		foreign = foreign || u.integral > minUse*float64(u.seen)/1e9
	}
	if foreign && own.seen > length*8/10 {
		return false, true
	}
	for _, w := range windows {
		if v.active(w) {
			return true, !foreign
		}
	}
	newest, ok := v.Utilization.Newest()
	if !ok || windows[len(windows)-1].To-newest > length*2/10 {
		return true, false
	}
	return false, true
}

// active reports whether any process used the GPU in a window, by its utilisation.
func (v *view) active(w gputimeline.Interval) bool {
	from := w.From + min(maxUtilizationAge, w.Length())
	busy, ok := v.Utilization.Max(gputimeline.Interval{From: from, To: w.To + maxUtilizationAge})
	return ok && busy > 0
}

// processUsed is what a process used of a GPU in s, and of how many ns that is known.
type processUsed struct {
	integral float64
	seen     int64
}

// add adds what the driver's samples say of a window. A sample is an average of a second that
// may have begun before it, with what the process did for the prompt before: it counts where
// the GPU was active.
func (u *processUsed) add(v *view, s *gputimeline.Stream, w gputimeline.Interval) {
	s.EachStep(w, func(_, q gputimeline.Point, overlap gputimeline.Interval, _ float64) {
		part, ok := overlap.Clip(gputimeline.Interval{From: q.At - maxUseAge, To: q.At})
		if !ok {
			return
		}
		u.seen += part.Length()
		if q.Value > 0 && v.active(part) {
			u.integral += q.Value * float64(part.Length()) / 1e9
		}
	})
}

// writeGPUs names on a span the GPUs that it used.
func (s *sum) writeGPUs(u *use) {
	a := u.span.Attributes()
	switch {
	case u.named && u.many == nil:
	case len(s.of) == 1:
		a.Remove(semconv.GPUIDs)
		a.PutStr(semconv.GPUID, s.of[0].gpu)
	default:
		ids := a.PutEmptySlice(semconv.GPUIDs)
		for _, x := range s.of {
			ids.AppendEmpty().SetStr(x.gpu)
		}
	}
}

// writeEach adds below a span that used several GPUs one span for each of them, with what
// it used of that GPU.
func (b *billing) writeEach(u *use) {
	s := b.sum(u)
	if len(s.of) < 2 {
		return
	}
	spans, found := b.spansOf(u)
	if !found {
		return
	}
	parent := ptrace.NewSpan() // the slice may move when spans are added
	u.span.CopyTo(parent)
	for _, x := range s.of {
		child := spans.AppendEmpty()
		child.SetTraceID(parent.TraceID())
		child.SetSpanID(childID(parent.SpanID(), x.gpu))
		child.SetParentSpanID(parent.SpanID())
		child.TraceState().FromRaw(parent.TraceState().AsRaw())
		child.SetFlags(parent.Flags())
		child.SetName(parent.Name() + ".gpu")
		child.SetKind(ptrace.SpanKindInternal)
		child.SetStartTimestamp(parent.StartTimestamp())
		child.SetEndTimestamp(parent.EndTimestamp())
		a := child.Attributes()
		for key, v := range parent.Attributes().All() { // what metrics are grouped by
			if v.Type() == pcommon.ValueTypeStr && strings.HasPrefix(key, "comfyui.") {
				a.PutStr(key, v.Str())
			}
		}
		a.PutStr(semconv.GPUID, x.gpu)
		a.PutStr("gpu.correlation", x.outcome)
		if x.reason != "" {
			a.PutStr("gpu.correlation.reason", x.reason)
		}
		x.bill.write(a)
	}
}

// spansOf finds the spans of the scope that a span is of.
func (b *billing) spansOf(u *use) (spans ptrace.SpanSlice, found bool) {
	for _, p := range b.trace.pieces {
		for _, rs := range p.traces.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					if s == u.span {
						return ss.Spans(), true
					}
				}
			}
		}
	}
	return spans, false
}

// childID is the id of a span's child for a GPU, the same whenever it is made.
func childID(parent pcommon.SpanID, gpu string) (id pcommon.SpanID) {
	h := fnv.New64a()
	h.Write(parent[:])
	h.Write([]byte(gpu))
	binary.BigEndian.PutUint64(id[:], max(h.Sum64(), 1))
	return id
}
