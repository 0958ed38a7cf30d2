// SPDX-License-Identifier: Apache-2.0

package join

import (
	"container/heap"
	"container/list"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// waitingTrace is one trace whose spans wait for the samples of its GPUs.
type waitingTrace struct {
	trace   pcommon.TraceID
	pieces  []*piece
	spans   int
	bytes   int
	arrived arrival
	place   *list.Element // among all that wait; nil if it is not
	gpus    []*gpu        // that it used
	needs   []*need       // of GPUs whose samples do not cover it yet
	loose   int64         // the latest of its pieces
	adding  int           // pieces that are being added; it is not ready before that is done
	done    bool
	// cause is why it no longer waits, if its samples are not complete.
	cause string
	// refused traces get no figures: there was no room for them.
	refused bool
}

// need is the time up to which a waiting trace needs the samples of a GPU.
type need struct {
	end   int64
	by    *waitingTrace
	on    *gpu
	index int // in the GPU's queue
}

// needs is a heap by time.
type needs []*need

func (n needs) Len() int           { return len(n) }
func (n needs) Less(i, j int) bool { return n[i].end < n[j].end }
func (n needs) Swap(i, j int) {
	n[i], n[j] = n[j], n[i]
	n[i].index, n[j].index = i, j
}

func (n *needs) Push(x any) {
	x.(*need).index = len(*n)
	*n = append(*n, x.(*need))
}

func (n *needs) Pop() any {
	last := len(*n) - 1
	x := (*n)[last]
	(*n)[last] = nil
	*n = (*n)[:last]
	return x
}

// require makes a trace wait for the samples of a GPU up to a time, if they are not there.
func (w *waitingTrace) require(g *gpu, end int64) {
	if g.Covers(end) || w.done {
		return
	}
	for _, n := range w.needs {
		if n.on == g {
			if end > n.end {
				n.end = end
				heap.Fix(&g.queue, n.index)
			}
			return
		}
	}
	if len(w.needs) == maxParts {
		return
	}
	n := &need{end: end, by: w, on: g}
	w.needs = append(w.needs, n)
	heap.Push(&g.queue, n)
}

// met removes a need.
func (w *waitingTrace) met(n *need) {
	for i := range w.needs {
		if w.needs[i] == n {
			last := len(w.needs) - 1
			w.needs[i], w.needs[last] = w.needs[last], nil
			w.needs = w.needs[:last]
			return
		}
	}
}

// finishCovered makes ready the traces whose last missing samples are there.
func (j *Joiner) finishCovered(g *gpu) {
	for {
		j.steps.next(1)
		if len(g.queue) == 0 || !g.Covers(g.queue[0].end) {
			return
		}
		n := heap.Pop(&g.queue).(*need)
		n.by.met(n)
		if len(n.by.needs) == 0 && n.by.adding == 0 {
			j.finish(n.by, "")
		}
	}
}

// add holds a piece of a trace; false if it is to be passed on at once.
func (j *Joiner) add(p *piece, now time.Time) (held bool) {
	j.steps.room(maxParts + 1)
	w := j.byTrace[p.trace]
	j.steps.count(1)
	if len(p.parts) == 0 && w == nil {
		return false
	}
	if !j.fits(p, 1) {
		p.refused = true
		if w == nil || !j.fits(p, 2) {
			return false
		}
		j.steps.count(len(w.needs))
		j.finish(w, ReasonLimit) // in its order
		w = &waitingTrace{trace: p.trace, arrived: arrival{now, j.setBacks}, refused: true, done: true}
		w.hold(p)
		j.hold(p)
		j.ready = append(j.ready, w)
		return true
	}
	if w == nil {
		w = &waitingTrace{trace: p.trace, arrived: arrival{now, j.setBacks}}
		j.byTrace[p.trace] = w
		w.place = j.arrived.PushBack(w)
	}
	w.hold(p)
	j.hold(p)
	w.adding++
	for _, part := range p.parts {
		j.addPart(w, part, now)
	}
	if len(w.pieces) > 1 {
		j.steps.next(len(w.gpus))
		for _, g := range w.gpus {
			w.require(g, w.loose)
		}
	}
	j.steps.room(maxParts + 1)
	w.adding--
	switch {
	case w.adding > 0 || !w.done && len(w.needs) > 0:
	case w.done: // it ended in the meantime
		j.ready = append(j.ready, w)
	default:
		j.finish(w, "")
	}
	return true
}

// fits reports whether there is room for a piece within a number of times the limits:
// twice, if it follows on spans that wait, which it would overtake otherwise.
func (j *Joiner) fits(p *piece, times int) bool {
	return j.spans+p.spans <= times*j.settings.Limits.Spans && j.bytes+p.bytes <= times*j.settings.Limits.Bytes
}

// hold adds a piece to a trace: what arrived before is not read again.
func (w *waitingTrace) hold(p *piece) {
	w.pieces = append(w.pieces, p)
	w.spans += p.spans
	w.bytes += p.bytes
	w.loose = max(w.loose, p.loose)
}

func (j *Joiner) hold(p *piece) {
	j.spans += p.spans
	j.bytes += p.bytes
}

// addPart notes when a piece of a trace used a GPU, and makes the trace wait for the
// GPU's samples.
func (j *Joiner) addPart(w *waitingTrace, p *part, now time.Time) {
	j.steps.room(maxParts + 1)
	j.steps.count(1 + len(w.needs))
	if t := j.timelines.Get(p.gpu); p.host != "" && t != nil && t.Host != "" && t.Host != p.host {
		p.foreign = true
		return
	}
	if len(p.windows) == 0 {
		return
	}
	g := j.gpuOf(p.gpu)
	if g == nil {
		return
	}
	w.uses(g)
	settling := g.settling()
	if p.listed { // its utilisation, of which the samples are read once a second, says whether it was used
		settling = max(settling, gputimeline.Margin)
	}
	if g.IsBefore(p.end) { // more samples do not tell more of it
		settling = 0
	}
	w.require(g, p.end+settling)
	j.remember(g, w.trace, p, now)
	for _, in := range p.windows {
		j.joinWaitingRecords(g, in)
	}
}

func (w *waitingTrace) uses(g *gpu) {
	for _, known := range w.gpus {
		if known == g {
			return
		}
	}
	if len(w.gpus) < maxParts {
		w.gpus = append(w.gpus, g)
	}
}

// finish makes a trace ready: its samples are complete, or there is a cause not to wait.
// It handles as many items as the trace has needs.
func (j *Joiner) finish(w *waitingTrace, cause string) {
	w.done, w.cause = true, cause
	delete(j.byTrace, w.trace)
	j.arrived.Remove(w.place)
	for _, n := range w.needs {
		heap.Remove(&n.on.queue, n.index)
	}
	w.needs, w.gpus = nil, nil
	if w.adding == 0 {
		j.ready = append(j.ready, w)
	}
}

// expireTraces makes ready what has waited as long as it may.
func (j *Joiner) expireTraces(now time.Time) {
	for {
		j.steps.room(maxParts + 1)
		front := j.arrived.Front()
		if front == nil || j.age(front.Value.(*waitingTrace).arrived, now) < j.settings.Wait {
			return
		}
		w := front.Value.(*waitingTrace)
		j.steps.count(1 + len(w.needs))
		j.finish(w, reasonWait)
	}
}

// arrival is when something arrived, and how often the clock had been set back by then.
type arrival struct {
	at       time.Time
	setBacks int64
}

// age is how long ago something arrived. What arrived before the clock was set back is
// as old as that.
func (j *Joiner) age(a arrival, now time.Time) time.Duration {
	if a.setBacks != j.setBacks {
		return now.Sub(j.setBack)
	}
	return now.Sub(a.at)
}
