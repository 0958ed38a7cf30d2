// SPDX-License-Identifier: Apache-2.0

package join

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// The values of gpu.memory.source: what a span's memory is of.
const (
	sourceGPU     = "card"
	sourceProcess = "process"
	// sourceShared is a process's memory while others used the GPU as well: an estimate, since
	// between two lists of processes it is not known whose memory changed.
	sourceShared = "shared_memory"
)

// memoryBill is the memory that was held in a span's time, in By. Pointers are nil where the
// samples do not show it.
type memoryBill struct {
	peak, start, end *float64
	source           string
	// growth is by how much what the process held grew, up to mark; shrank is true if it also
	// became smaller meanwhile.
	growth *float64
	mark   float64
	shrank bool
}

// maxEdge is how far the samples before and after a span may be from it for the growth
// between them to be the span's.
const maxEdge = time.Second

// memorySettling is how long after a time there is another sample of the GPU's memory, which shows
// by how much it grew until the end: once and a half the time between the last two. 0 where
// samples are too far apart for that.
func (g *gpu) memorySettling() int64 {
	n := len(g.Memory.Points)
	if n < 2 {
		return 0
	}
	interval := g.Memory.Points[n-1].At - g.Memory.Points[n-2].At
	if interval > maxEdge.Nanoseconds() {
		return 0
	}
	return interval * 3 / 2
}

// addMemory uses the memory of the process if that is known, else the GPU's.
func (b *bill) addMemory(g *view, intervals []gputimeline.Interval, pid int64) {
	b.source = sourceGPU
	usage, largest := &g.Memory, &g.MemoryMax
	listed, held := g.ProcessMemory[pid], g.held[pid]
	hull := gputimeline.Interval{From: intervals[0].From, To: intervals[len(intervals)-1].To}
	switch {
	case pid == 0:
	case held != nil && coversAny(&held.Stream, intervals):
		usage, largest, b.source = &held.Stream, nil, sourceProcess
		if held.Between && (b.shared > 0 || held.Others > gputimeline.SameMemory) {
			b.source = sourceShared
		}
	case listed != nil && coversAny(listed, intervals):
		usage, largest, b.source = listed, nil, sourceProcess
	}
	if len(usage.Points) == 0 {
		return
	}
	for _, w := range intervals {
		if v, ok := usage.Max(w); ok {
			b.peak = larger(b.peak, v)
		}
		if largest != nil { // those of steps that lie within the window
			largest.EachStep(w, func(_, q gputimeline.Point, _ gputimeline.Interval, share float64) {
				if share == 1 {
					b.peak = larger(b.peak, q.Value)
				}
			})
		}
	}
	start, ok := usage.Nearest(hull.From)
	if !ok {
		return
	}
	end, _ := usage.Nearest(hull.To)
	b.start, b.end = &start, &end
	if b.peak == nil { // no sample lies within
		b.peak = larger(&start, end)
	}
	if b.source == sourceGPU || len(g.Lists.Points) > 0 && g.Lists.Points[0].At > hull.From { // what it held before the first list is not known
		return
	}
	if before, mark, shrank, ok := usage.Growth(hull, maxEdge); ok {
		growth := mark - before
		b.growth, b.mark, b.shrank = &growth, mark, shrank
	}
}

// coversAny reports whether a process's memory is known around any of the intervals.
func coversAny(s *gputimeline.Stream, intervals []gputimeline.Interval) bool {
	newest, ok := s.Newest()
	if !ok {
		return false
	}
	for _, w := range intervals {
		if _, ok := w.Clip(gputimeline.Interval{From: s.Points[0].At, To: newest}); ok {
			return true
		}
	}
	return false
}

// addMemoryOf adds the memory of another GPU.
func (b *memoryBill) addMemoryOf(other *memoryBill) {
	b.peak, b.start, b.end = addIfBoth(b.peak, other.peak), addIfBoth(b.start, other.start), addIfBoth(b.end, other.end)
	b.growth = addIfBoth(b.growth, other.growth)
	b.mark += other.mark
	b.shrank = b.shrank || other.shrank
	switch {
	case b.source == sourceGPU || other.source == sourceGPU:
		b.source = sourceGPU
	case other.source == sourceShared:
		b.source = sourceShared
	}
}

// writeMemory sets what was held, and of a span that says what its server's allocator did an
// upper bound of what it needed.
func (b *memoryBill) writeMemory(a pcommon.Map) {
	put := func(key string, v *float64) {
		if v != nil {
			a.PutInt(key, int64(*v))
		}
	}
	put("gpu.memory.peak", b.peak)
	put("gpu.memory.start", b.start)
	put("gpu.memory.end", b.end)
	if b.start != nil && b.end != nil {
		a.PutInt("gpu.memory.delta", int64(*b.end)-int64(*b.start))
	}
	put("gpu.memory.held.growth", b.growth)
	if b.peak == nil {
		return
	}
	a.PutStr("gpu.memory.source", b.source)
	if bound, ok := b.needAtMost(a); ok {
		a.PutInt(semconv.MemoryNeedMax, bound)
	}
}

// needAtMost is an upper bound of what an execution needed, by its span: where what its process
// held grew, that less the CUDA context; where its allocator's reserve grew and nothing was
// given back, the reserve. ok is false if there is none.
func (b *memoryBill) needAtMost(a pcommon.Map) (bound int64, ok bool) {
	number := func(key string) (n int64, ok bool) {
		v, ok := a.Get(key)
		if !ok {
			return 0, false
		}
		return v.Int(), true
	}
	reserved, isServer := number(semconv.MemoryReservedPeak)
	if !isServer || b.growth == nil {
		return 0, false
	}
	context, _ := number(semconv.MemoryContext)
	if *b.growth > 0 && b.source == sourceProcess {
		bound, ok = int64(b.mark)-context, true
	}
	if growth, known := number(semconv.MemoryReservedGrowth); known && growth > 0 && !b.shrank && (!ok || reserved < bound) {
		bound, ok = reserved, true
	}
	return bound, ok
}
