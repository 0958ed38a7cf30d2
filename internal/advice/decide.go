// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/replay"
)

// batchNumber is by how much the numbers of batch prompts are greater: they run last.
const batchNumber = 1e10

// Number is the place in a server's queue of a prompt that came at a time, as the proxy sets it: the
// deadline, in Unix seconds. Without one it is after what is urgent, in the order in which it came.
func Number(received, deadline time.Time, batch bool) float64 {
	n := float64(deadline.UnixNano()) / 1e9
	if deadline.IsZero() {
		n = float64(received.UnixNano())/1e9 + batchNumber/2
	}
	if batch {
		n += batchNumber
	}
	return n
}

// Advise decides about a prompt at a time.
func (e *Engine) Advise(r *admission.Request, now time.Time) (d admission.Decision) {
	e.expire(now)
	class := e.class(r.Class)
	d = admission.Decision{Verdict: admission.Admit, Class: r.Class, Batch: class.Batch, Deadline: deadlineOf(class, now)}
	if r.Deadline > 0 {
		d.Deadline = now.Add(r.Deadline)
	}
	s := e.servers[r.Server]
	switch {
	case s == nil || s.gpu == nil:
		d.Reason = admission.Unknown
		return d
	case s.hasEnded(now): // the proxy says that it cannot be reached
		d.Reason = admission.Unknown
		return d
	case s.gpu.memory.Unhealthy:
		d.Verdict, d.Reason = admission.Reject, admission.Unhealthy
		d.RetryAfter = unhealthyRetry + s.gpu.stagger(r.ComesAgain(), time.Second)
		return d
	case now.Sub(s.gpu.memory.At) > e.settings.MaxSampleAge:
		d.Reason = admission.Stale
		return d
	case s.unread:
		d.Reason = admission.Starting
		return d
	}
	g := s.gpu
	g.advance(now)
	j := &job{
		class: r.Class, kind: e.kindOf(s, r.Workflow, r.Model), side: r.Side, size: sizeOf(r.Side, r.Batch, r.Steps), batch: class.Batch,
		number: Number(now, d.Deadline, class.Batch), deadline: d.Deadline, accepted: now, came: now, server: s, inquiry: !r.ComesAgain(), caller: r.Caller,
	}
	if j.batch { // whoever comes too early of those may as well be the next
		j.caller = 0
	}
	t := e.timingOf(j, now)
	if j.returned() && !j.batch {
		d.Deadline, d.Returned = j.deadline, true
	}
	d.Executions = t.executions
	d.Wait = seconds(t.begin)
	if t.known {
		d.Completion, d.CompletionLow, d.CompletionHigh = seconds(t.completion), seconds(t.low), seconds(t.high)
	}
	m := e.fits(j, now)
	d.Memory = admission.Memory{Need: m.need, Least: m.least, Room: m.room}
	e.judge(&d, j, &t, &m, now)
	if r.Claim && d.Free != "" {
		e.askToFree(d.Free, now)
	}
	if d.Verdict != admission.Admit {
		d.MaxSide = e.maxSide(j, &t, &m, d.Reason)
		if d.RetryAfter > 0 {
			d.Wait = seconds(e.drained(j, &t, now))
		}
		return d
	}
	if r.Claim {
		e.claim(&d, j, &t, now)
	}
	return d
}

// judge sets the verdict and its reason.
func (e *Engine) judge(d *admission.Decision, j *job, t *timing, m *memoryFit, now time.Time) {
	s := j.server
	// Batch that came before, and is late since, makes room for others: while a neighbour works, and
	// where one of many comes at once.
	idle := s.rests() && (!j.batch || !j.returned() || s.gpu.rests() && s.gpu.promises.batch < crowd)
	switch late := t.late(); {
	case m.never:
		d.Verdict, d.Reason = admission.Reject, admission.TooLarge
	case late && !idle:
		d.Verdict, d.Reason = admission.Reject, admission.Late
		d.RetryAfter = e.retry(j, t, now)
	case j.batch && (e.batchWaits(s) || s.gpu.holdsCore(now) || s.crowded() || t.slows):
		d.Verdict, d.Reason = admission.Reject, admission.BatchWaits
		d.RetryAfter = e.retry(j, t, now)
	case m.free != "":
		d.Verdict, d.Reason, d.Free = admission.Hold, admission.MemoryIdle, m.free
		d.RetryAfter = minRetry + s.gpu.stagger(!j.inquiry, seconds(t.mean))
	case m.waits:
		d.Verdict, d.Reason = admission.Hold, admission.MemoryBusy
		d.RetryAfter = max(seconds(t.neighbours), minRetry) + s.gpu.stagger(!j.inquiry, seconds(t.mean))
	case m.probe:
		d.Reason = admission.Probe
	case late:
		d.Reason = admission.Idle
	case !t.known && !m.known:
		d.Reason = admission.Unknown
	default:
		d.Reason = admission.Fits
	}
	if d.Verdict == admission.Hold && e.isCore(j.class) && !j.inquiry {
		s.gpu.coreHeld = now
	}
}

// claim reserves what a prompt needs that is admitted.
func (e *Engine) claim(d *admission.Decision, j *job, t *timing, now time.Time) {
	if !e.claims.add(j, now.Add(admission.ClaimTimeout)) {
		e.Dropped++
		return
	}
	if t.known {
		j.predicted = prediction{now, t.completion, t.deviation, t.low, t.high, j.mayMissAbove()}
	}
	j.room = max(d.Memory.Room-j.server.memory.Context, 0)
	place, _ := slices.BinarySearchFunc(j.server.queue, j, func(o, j *job) int {
		return cmp.Or(byNumber(o, j), -1) // behind its equals
	})
	j.server.queue = slices.Insert(j.server.queue, place, j)
	d.Claim = j.claim
	if d.Reason == admission.Probe {
		j.server.gpu.probing(j)
	}
}

// timing is what is predicted of a prompt's time, in seconds from now on.
type timing struct {
	known      bool
	executions int
	begin      float64
	completion float64
	deviation  float64
	low, high  float64
	// upper is the completion that is compared with the deadline, left until that; inf for none.
	upper, left float64
	// others is true if a prompt that was accepted before would be late because of it, slows if core
	// work at a neighbour would, which it slows down.
	others, slows bool
	// drain is when all that the server has accepted ends, neighbours when the first of the GPU's other
	// servers that work has nothing to do: it keeps its memory until then.
	drain, neighbours float64
	// slow is how much longer than alone it runs, mean what it takes alone.
	slow, mean float64
	// risk is a batch prompt's probability of being late, mayRisk up to which it is admitted; 0 for
	// others.
	risk, mayRisk float64
}

func (t *timing) late() bool {
	if t.mayRisk > 0 {
		return t.risk > t.mayRisk || t.others
	}
	return t.upper > t.left || t.others
}

// timing replays the queues of a prompt's GPU with and without it.
func (e *Engine) timing(j *job, now time.Time) (t timing) {
	g, s := j.server.gpu, j.server
	own := slices.Index(g.servers, s)
	t.left, t.slow = math.Inf(1), 1
	if !j.deadline.IsZero() {
		t.left = j.deadline.Sub(now).Seconds()
	}
	e.fill(g)
	without := e.replay.Run(e.queues, e.busy)
	t.drain, t.neighbours = 0, math.Inf(1)
	e.inTime = g.coreInTime(e.inTime[:0], own, without, now)
	for i, q := range without {
		if len(q) == 0 {
			continue
		}
		if i == own {
			t.drain = q[len(q)-1].At
		} else {
			t.neighbours = min(t.neighbours, q[len(q)-1].At)
		}
	}
	if math.IsInf(t.neighbours, 1) {
		t.neighbours = 0
	}
	if k := e.known(j); k != nil && k.time.knows(j.size) {
		t.known, t.executions = true, len(k.time.samples)
	}
	// Its place in the queue, behind what runs and what precedes it.
	place, first := 0, 0
	if s.running != nil {
		first = 1
	}
	first += s.past
	for place < len(s.queue) && s.queue[place].number <= j.number {
		place++
	}
	at := first + place
	work := e.work(j, e.before(s, place))
	mean, deviation := work.Mean, math.Sqrt(work.Variance)
	t.mean = mean
	e.queues[own] = slices.Insert(e.queues[own], at, work)
	with := e.replay.Run(e.queues, e.busy)
	end := with[own][at]
	t.begin, t.completion, t.deviation = end.Begin, end.At, end.Deviation
	if mean > 0 {
		t.slow = max((end.At-end.Begin)/mean, 1)
	}
	t.slows = anyLate(e.inTime, with)
	t.others = !j.batch && (t.slows || s.delays(at, with[own], now))
	if !t.known { // what is not known may be short: only what would begin too late is late
		t.upper = t.begin
		return t
	}
	if j.batch { // it delays nobody
		e.overtaken(&t, j, deviation, with[own], at, now)
		return t
	}
	c := e.calibration(j.class)
	t.low, t.high = c.band(end.Usual, end.Spread)
	sure, normal := 0.99, normal99
	if j.returned() { // it comes when its Retry-After has passed
		sure, normal = 0.8, normal80
	}
	t.upper = t.completion + min(max(c.quantile(sure, normal), 0), maxOff99)*t.deviation
	return t
}

// before is the model that is loaded when the prompt at a place of a queue begins.
func (e *Engine) before(s *server, place int) string {
	if place > 0 {
		return s.queue[place-1].kind.Model
	}
	return s.loaded
}

// fill makes the queues of a GPU's servers.
func (e *Engine) fill(g *gpu) {
	for len(e.queues) < len(g.servers) {
		e.queues = append(e.queues, nil)
	}
	e.queues = e.queues[:len(g.servers)]
	e.busy = e.busy[:0]
	for i, s := range g.servers {
		q := e.queues[i][:0]
		if s.running != nil {
			q = append(q, e.rest(s.running))
		}
		for range s.past {
			q = append(q, e.usual(g))
		}
		model := s.loaded
		for _, j := range s.queue {
			q = append(q, e.work(j, model))
			model = j.kind.Model
		}
		e.queues[i] = q
		e.busy = append(e.busy, s.busy)
	}
}

// rest is what is left of a prompt that runs.
func (e *Engine) rest(j *job) replay.Work {
	k := e.known(j)
	if k == nil || !k.time.knows(j.size) {
		w := e.unknown(k, j)
		w.Mean = max(w.Mean-j.done, w.Mean/4)
		w.Usual = w.Mean
		return w
	}
	done := j.done
	if j.cold { // it loads first
		done = max(done-k.load(), 0)
	}
	mean, deviation := k.time.model.Remaining(j.size, done)
	usual, spread := k.time.model.UsualRest(j.size, done)
	if j.cold {
		loading := max(k.load()-j.done, 0)
		mean, usual = mean+loading, usual+loading
	}
	return replay.Work{Mean: mean, Variance: deviation * deviation, Usual: usual, Spread: spread * spread}
}

// work is a prompt that waits.
func (e *Engine) work(j *job, loaded string) replay.Work {
	k := e.known(j)
	if k == nil || !k.time.knows(j.size) {
		return e.unknown(k, j)
	}
	return k.work(j, loaded)
}

// unknown is what a prompt takes of whose size, or kind, nothing is known: as the others on the GPU
// do, or, where its kind is known, as the largest of that that is known.
func (e *Engine) unknown(k *kind, j *job) replay.Work {
	w := e.usual(j.server.gpu)
	if k == nil || !k.time.learned() {
		return w
	}
	if at := k.time.model.Predict(k.time.model.Nearest(j.size)); at > w.Mean {
		w.Mean, w.Usual = at, at
	}
	return w
}

// work is a prompt of a kind when a model is loaded.
func (k *kind) work(j *job, loaded string) replay.Work {
	mean, deviation := k.time.model.Mean(j.size)
	usual, spread := k.time.model.Usual(j.size)
	if loaded != j.kind.Model {
		mean, usual = mean+k.load(), usual+k.load()
	}
	return replay.Work{Mean: mean, Variance: deviation * deviation, Usual: usual, Spread: spread * spread}
}

// usual is what a prompt takes of which nothing is known: as the others on the GPU do.
func (e *Engine) usual(g *gpu) replay.Work {
	if g == nil {
		return replay.Work{}
	}
	u := &g.usual
	return replay.Work{Mean: u.mean, Variance: u.variance, Usual: u.mean, Spread: u.variance}
}

// delays reports whether a prompt at a place of the server's queue would make one behind it late:
// core work that was in time without it. Batch delays nobody.
func (s *server) delays(at int, with []replay.End, now time.Time) bool {
	ahead := len(with) - len(s.queue) // what runs or came past the proxy, and the prompt itself
	for place := at + 1; place < len(with); place++ {
		j := s.queue[place-ahead]
		if j.batch || j.deadline.IsZero() || !j.predicted.known() {
			continue
		}
		wasInTime := j.predicted.at.Add(seconds(j.predicted.completion)).Before(j.deadline)
		if wasInTime && with[place].At > j.deadline.Sub(now).Seconds() {
			return true
		}
	}
	return false
}

// due is core work that was accepted: its place among the GPU's queues, and in how many seconds it is
// late.
type due struct {
	server, place int
	left          float64
}

// coreInTime appends the core work at a server's neighbours that ends in time by what was replayed.
func (g *gpu) coreInTime(all []due, own int, ends [][]replay.End, now time.Time) []due {
	for i, s := range g.servers {
		if i == own {
			continue
		}
		ahead := len(ends[i]) - len(s.queue)
		for place := range ends[i] {
			j := s.running
			if place >= ahead {
				j = s.queue[place-ahead]
			} else if place > 0 || j == nil {
				continue // past the proxy
			}
			if left := j.deadline.Sub(now).Seconds(); !j.batch && !j.deadline.IsZero() && ends[i][place].At <= left {
				all = append(all, due{i, place, left})
			}
		}
	}
	return all
}

// anyLate reports whether one of those that were in time is late.
func anyLate(inTime []due, with [][]replay.End) bool {
	return slices.ContainsFunc(inTime, func(d due) bool { return with[d.server][d.place].At > d.left })
}

func (p *prediction) known() bool { return !p.at.IsZero() }
