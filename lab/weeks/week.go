// SPDX-License-Identifier: Apache-2.0

package weeks

import (
	"container/heap"
	"fmt"
	"math"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// The GPU and its product, as telemetry names them.
const (
	GPU     = "GPU-1"
	Product = "RTX simulated"
)

// ServerName is a server's service.instance.id.
func ServerName(i int) string { return fmt.Sprintf("node-1:%d", 8188+i) }

const (
	// Context is the memory of a CUDA context, in bytes.
	Context = 700 * law.MiB
	// growth is in what part of its time a request's memory grows, collected after how many seconds an
	// idle server empties its allocator's cache.
	growth    = 0.4
	collected = 10.0
	// freed is how long it takes, in seconds, to have an idle neighbour free its memory, maxHeld for how
	// long a request is held.
	freed   = 0.2
	maxHeld = 20.0
)

// server is a ComfyUI: one request at a time.
type server struct {
	queue    []*request
	runs     *request
	reserved int64 // bytes that its allocator holds
	idle     float64
	loaded   bool
	loading  float64 // until when it loads; 0: it does not
	begun    float64
	left     float64 // exclusive seconds
	used     float64 // that it will have used
	loads    float64 // seconds of loading
	fails    bool    // it runs out of memory
}

// week is one at work.
type week struct {
	*Plan
	law     *law.Law
	weights int64
	now     float64
	servers []server
	held    []*request
	later   tries
	ended   func(r *recommend.Request)
	// needs and means are what requests need at most, in bytes, and use on average, in seconds, by side.
	needs map[int]int64
	means map[int]float64
	truth Truth
}

// Run simulates a week, and calls ended with each request that has ended, as the receiver sees it.
// Each that was refused and comes again is one of its own.
func (p *Plan) Run(ended func(r *recommend.Request)) Truth {
	l := law.New(p.Seed)
	w := &week{
		Plan: p, law: l, weights: l.Checkpoint(law.DefaultCheckpoint).Weights, servers: make([]server, p.Servers), ended: ended, needs: map[int]int64{}, means: map[int]float64{},
		truth: Truth{Clients: map[string]int{}, Met: map[string]int{}},
	}
	all := p.requests(l)
	for next := 0; ; {
		at := math.Inf(1)
		if next < len(all) {
			at = all[next].first
		}
		if len(w.later) > 0 {
			at = min(at, w.later[0].at)
		}
		if w.advance(at) {
			continue
		}
		switch {
		case math.IsInf(at, 1):
			return w.truth
		case len(w.later) > 0 && w.later[0].at <= at:
			w.try(heap.Pop(&w.later).(*request))
		default:
			w.truth.Clients[all[next].class]++
			w.truth.Work += all[next].cost.Exclusive.Seconds()
			w.try(all[next])
			next++
		}
	}
}

// tries are those that come again, by their time.
type tries []*request

func (t tries) Len() int           { return len(t) }
func (t tries) Less(i, j int) bool { return t[i].at < t[j].at }
func (t tries) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *tries) Push(r any)        { *t = append(*t, r.(*request)) }
func (t *tries) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

// advance works up to a time, and returns true if something ended before it.
func (w *week) advance(to float64) bool {
	share := 0.0
	for i := range w.servers {
		if s := &w.servers[i]; s.runs != nil && s.loading == 0 {
			share++
		}
	}
	first, at := -1, to
	for i := range w.servers {
		s := &w.servers[i]
		switch {
		case s.runs == nil:
		case s.loading > 0 && s.loading < at:
			first, at = i, s.loading
		case s.loading == 0 && w.now+s.left*share < at:
			first, at = i, w.now+s.left*share
		}
	}
	timeout := false
	if len(w.held) > 0 && w.held[0].held+maxHeld < at {
		first, at, timeout = -1, w.held[0].held+maxHeld, true
	}
	for i := range w.servers {
		if s := &w.servers[i]; s.runs != nil && s.loading == 0 {
			s.left -= (at - w.now) / share
		}
	}
	w.now = at
	switch {
	case timeout:
		r := w.held[0]
		w.held = w.held[1:]
		w.refuse(r, admission.MemoryBusy, 10)
	case first < 0:
		return false
	case w.servers[first].loading > 0:
		w.servers[first].loading, w.servers[first].loaded = 0, true
		w.work(first)
	default:
		w.done(first)
	}
	return true
}

// try has a client send its request.
func (w *week) try(r *request) {
	r.at, r.held, r.waits = w.now, 0, 0
	if w.Enforce && !w.admits(r) {
		return
	}
	w.enqueue(r)
}

func (w *week) enqueue(r *request) {
	s := &w.servers[r.home]
	s.queue = append(s.queue, r)
	if s.runs == nil {
		w.next(r.home)
	}
}

// next begins what waits at a server.
func (w *week) next(i int) {
	s := &w.servers[i]
	if len(s.queue) == 0 {
		s.idle = w.now
		return
	}
	if w.now-s.idle >= collected && s.reserved > 0 {
		s.reserved = w.base(s)
	}
	s.runs, s.queue = s.queue[0], s.queue[1:]
	s.begun, s.loads = w.now, 0
	if !s.loaded {
		s.loads = w.law.Checkpoint(law.DefaultCheckpoint).Loading.Seconds()
		s.loading = w.now + s.loads
		return
	}
	w.work(i)
}

// base is what an idle server's allocator holds.
func (w *week) base(s *server) int64 {
	if s.loaded {
		return w.weights
	}
	return 0
}

// holds is what a server's allocator holds now.
func (w *week) holds(i int) int64 {
	s := &w.servers[i]
	if s.runs == nil && w.now-s.idle >= collected {
		return w.base(s)
	}
	return s.reserved
}

// room is what there is for a server's tensors.
func (w *week) room(i int) int64 {
	room := w.Memory - int64(w.Servers)*Context
	for o := range w.servers {
		if o != i {
			room -= w.holds(o)
		}
	}
	return room
}

// work begins to work on what a server runs.
func (w *week) work(i int) {
	s := &w.servers[i]
	need, room := s.runs.cost.Need, w.room(i)
	s.left, s.fails = s.runs.cost.Exclusive.Seconds(), need > room
	if s.fails {
		s.left *= growth * float64(max(room, 0)) / float64(need)
	}
	s.reserved = max(s.reserved, min(need, room))
	s.used = s.left
}

// done ends what a server runs.
func (w *week) done(i int) {
	s := &w.servers[i]
	r := s.runs
	s.runs, s.idle = nil, w.now
	outcome := recommend.Made
	if s.fails {
		outcome = recommend.OutOfMemory
		w.truth.OutOfMemory++
	}
	seen := w.seen(r, outcome)
	seen.Used, seen.Loading = s.used+s.loads, s.loads
	w.ended(seen)
	switch {
	case s.fails:
		w.truth.Missed += r.cost.Exclusive.Seconds()
		w.truth.Dead += s.used + s.loads
	case w.now-r.first <= w.Classes[r.class].Objective.Seconds():
		w.truth.Met[r.class]++
	default:
		w.truth.Missed += r.cost.Exclusive.Seconds()
	}
	w.next(i)
	w.release()
}

// seen is what the receiver sees of a try.
func (w *week) seen(r *request, outcome recommend.Outcome) *recommend.Request {
	at := func(s float64) time.Time { return Begin.Add(time.Duration(s * float64(time.Second))) }
	return &recommend.Request{
		Server: ServerName(r.home), GPU: GPU, Product: Product, Class: r.class, Client: r.client, Workflow: "colour", Model: r.load.Checkpoint, Side: r.load.Side, Batch: 1,
		Came: at(r.at), Ended: at(w.now), Held: time.Duration(r.waits * float64(time.Second)), Outcome: outcome, Ordered: w.Enforce,
	}
}

// admits is the gate: it knows what everything costs, and nothing of the noise.
func (w *week) admits(r *request) bool {
	wait := 0.0
	for i := range w.servers {
		for _, q := range w.servers[i].queue {
			wait += w.mean(q.load)
		}
		wait += w.servers[i].left
	}
	end := w.now - r.first + wait + w.mean(r.load)
	if d := w.Classes[r.class].Deadline.Seconds(); d > 0 && end > d && wait > 0 {
		w.refuse(r, admission.Late, max(end-d, 1))
		return false
	}
	if w.fits(r) {
		return true
	}
	for i := range w.servers { // idle neighbours free their memory
		if s := &w.servers[i]; i != r.home && s.runs == nil {
			s.loaded, s.reserved = false, 0
		}
	}
	if w.fits(r) {
		r.waits = freed
		return true
	}
	r.held = max(w.now, 1e-9)
	w.truth.Held++
	w.held = append(w.held, r)
	return false
}

// upper is what a request needs at most.
func (w *week) upper(load law.Load) int64 {
	need, known := w.needs[load.Side]
	if !known {
		need = w.law.NeedQuantile(load, 0.995)
		w.needs[load.Side] = need
	}
	return need
}

// mean is what a request uses on average.
func (w *week) mean(load law.Load) float64 {
	mean, known := w.means[load.Side]
	if !known {
		mean = w.law.MeanTime(load).Seconds()
		w.means[load.Side] = mean
	}
	return mean
}

// fits reports whether a request fits beside what neighbours hold and are about to need.
func (w *week) fits(r *request) bool {
	room := w.Memory - int64(w.Servers)*Context
	for i := range w.servers {
		if i == r.home {
			continue
		}
		will := w.holds(i)
		if s := &w.servers[i]; s.runs != nil {
			will = max(will, w.upper(s.runs.load))
		}
		for _, q := range w.servers[i].queue {
			will = max(will, w.upper(q.load))
		}
		room -= will
	}
	return w.upper(r.load) <= room
}

// release passes on what is held and fits now.
func (w *week) release() {
	rest := w.held[:0]
	for _, r := range w.held {
		if !w.fits(r) {
			rest = append(rest, r)
			continue
		}
		r.waits = w.now - r.held
		w.enqueue(r)
	}
	w.held = rest
}

// refuse sends a client away, who comes again if there is time.
func (w *week) refuse(r *request, reason admission.Reason, after float64) {
	if r.held > 0 {
		r.waits = w.now - r.held
	}
	seen := w.seen(r, recommend.Refused)
	seen.Reason, seen.RetryAfter = reason, time.Duration(after*float64(time.Second))
	seen.Needs = w.mean(r.load)
	w.ended(seen)
	again := w.now + math.Ceil(after)
	if w.Restless {
		again = w.now + 5 + 25*(w.now-math.Floor(w.now))
	}
	if d := w.Classes[r.class].Deadline.Seconds(); d == 0 || again-r.first < d {
		r.at = again
		heap.Push(&w.later, r)
		return
	}
	w.truth.Missed += r.cost.Exclusive.Seconds()
}
