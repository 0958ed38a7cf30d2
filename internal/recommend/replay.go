// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Copy is what a [Week] holds at a moment. It may be used while the week goes on.
type Copy struct {
	settings Settings
	arrivals []arrival // by time
	sources  []source
	parts    map[int64]bool // those of the time: held or not
	gpus     []Held
	all      Held
	since    time.Time
}

// Copy copies it. What was refused lately, and may come again, is not in it.
func (w *Week) Copy(now time.Time) *Copy {
	w.expire(now)
	c := &Copy{settings: w.settings, arrivals: slices.Clone(w.arrivals[w.first:]), sources: slices.Clone(w.sources), parts: map[int64]bool{}}
	oldest := now.Add(-Window)
	for _, p := range w.parts {
		if p.number*partLength.Milliseconds() > oldest.UnixMilli() {
			c.parts[p.number] = p.held
		}
	}
	slices.SortStableFunc(c.arrivals, func(a, b arrival) int { return cmp.Compare(a.came, b.came) })
	c.gpus, c.all = w.heldBack(now)
	c.since = now
	if len(c.parts) > 0 {
		c.since = time.UnixMilli(slices.Min(slices.Collect(maps.Keys(c.parts))) * partLength.Milliseconds())
	}
	return c
}

// replayed is a class in the replay.
type replayed struct {
	name string
	Class
	// requests is how many arrivals count, largest and smallest are their sides, known is the part
	// of the work whose time is known at other sizes.
	requests          int
	largest, smallest int
	work, known       float64
	// met is how many met the objective in the last replay.
	met int
}

// replay replays a week's requests as if those above a size had been sent at that size: each
// server's queue in its order, the servers of a GPU sharing its time.
type replay struct {
	*Copy
	costs   Costs
	classes []replayed
	// at are the times of the arrivals in s, without the parts of the time that are not held; work is
	// for how long each uses the whole GPU in this replay.
	at, work []float64
	// typical is what is predicted of each arrival as it came, 0 if that is not known.
	typical []float64
	class   []int // of each source
	gpu     []int // of each source
	lane    []int // of each source on its GPU
	gpus    []gpuReplay
	limits  []float64 // s, by class
}

// newReplay prepares the replays of a copy.
func newReplay(c *Copy, costs Costs) *replay {
	r := &replay{Copy: c, costs: costs}
	r.place()
	r.compress()
	r.work, r.typical = make([]float64, len(c.arrivals)), make([]float64, len(c.arrivals))
	type size struct {
		source, side uint16
	}
	known := map[size]float64{}
	for i := range c.arrivals {
		a := &c.arrivals[i]
		key := size{a.source, a.side}
		t, ok := known[key]
		if !ok {
			t = r.time(a.source, int(a.side))
			known[key] = t
		}
		r.typical[i] = t
		of := &r.classes[r.class[a.source]]
		of.work += float64(a.work)
		if t > 0 {
			of.known += float64(a.work)
		}
		if !a.counts {
			continue
		}
		of.requests++
		if side := int(a.side); side > 0 {
			of.largest, of.smallest = max(of.largest, side), min(of.smallest, side)
		}
	}
	return r
}

// time is what is predicted of a source's requests of a size; 0 if it is not known.
func (r *replay) time(source uint16, side int) float64 {
	if side <= 0 {
		return 0
	}
	q := r.sources[source].requestOf(side)
	if t, ok := r.costs.Time(&q); ok && t > 0 {
		return t
	}
	return 0
}

// place finds the class, the GPU and the lane of each source. Servers without a known GPU have one
// each.
func (r *replay) place() {
	classes, gpus, lanes := map[string]int{}, map[string]int{}, map[[2]string]int{}
	r.class, r.gpu, r.lane = make([]int, len(r.sources)), make([]int, len(r.sources)), make([]int, len(r.sources))
	for i := range r.sources {
		s := &r.sources[i]
		class, ok := classes[s.class]
		if !ok {
			class = len(r.classes)
			classes[s.class] = class
			c := r.settings.class(s.class)
			r.classes = append(r.classes, replayed{name: s.class, Class: c, smallest: maxSide})
			limit := math.Inf(1)
			if l := c.limit(); l > 0 {
				limit = l.Seconds()
			}
			r.limits = append(r.limits, limit)
		}
		name := s.gpu
		if name == "" {
			name = "of " + s.server
		}
		gpu, ok := gpus[name]
		if !ok {
			gpu = len(r.gpus)
			gpus[name] = gpu
			r.gpus = append(r.gpus, gpuReplay{})
		}
		key := [2]string{name, s.server}
		l, ok := lanes[key]
		if !ok {
			l = len(r.gpus[gpu].lanes)
			lanes[key] = l
			r.gpus[gpu].lanes = append(r.gpus[gpu].lanes, lane{})
		}
		r.class[i], r.gpu[i], r.lane[i] = class, gpu, l
	}
}

// compress leaves out the parts of the time that are not held: the next one that is follows at
// once, with the queues as they are.
func (r *replay) compress() {
	numbers := slices.Sorted(maps.Keys(r.parts))
	r.at = make([]float64, len(r.arrivals))
	next, omitted := 0, 0 // parts before the arrival's, and how many of them are left out
	for i := range r.arrivals {
		a := &r.arrivals[i]
		for next < len(numbers) && numbers[next] < a.part() {
			if !r.parts[numbers[next]] {
				omitted++
			}
			next++
		}
		r.at[i] = float64(a.came)/1000 - float64(omitted)*partLength.Seconds()
	}
}

// wary is by what factor requests at a lower size are taken to last longer than predicted: near a
// GPU's capacity an error of 2 % decides on several points, and the size is rather a step too small.
const wary = 1.02

// run replays the requests with a largest side for each class, 0 for none, and counts those that
// meet their objectives.
func (r *replay) run(caps []int) {
	at := make([]float64, len(r.sources)) // what is predicted at the class's cap; 0: not asked yet
	for i := range r.arrivals {
		a := &r.arrivals[i]
		limit := caps[r.class[a.source]]
		r.work[i] = float64(a.work)
		if limit > 0 && int(a.side) > limit && r.typical[i] > 0 {
			if at[a.source] == 0 {
				at[a.source] = r.time(a.source, limit)
			}
			r.work[i] *= min(wary*at[a.source]/r.typical[i], 1)
		}
		r.work[i] = max(r.work[i]+float64(a.load), 1e-6)
	}
	for c := range r.classes {
		r.classes[c].met = 0
	}
	for g := range r.gpus {
		r.gpus[g].reset()
	}
	for i := range r.arrivals {
		a := &r.arrivals[i]
		g := &r.gpus[r.gpu[a.source]]
		g.advance(r.at[i], r)
		g.add(r.lane[a.source], i, a.ordered && r.classes[r.class[a.source]].Batch, r.work)
	}
	for g := range r.gpus {
		r.gpus[g].advance(math.MaxFloat64, r)
	}
}

// ended counts a request that has ended.
func (r *replay) ended(i int, at float64) {
	a := &r.arrivals[i]
	if class := r.class[a.source]; a.counts && at-r.at[i] <= r.limits[class] {
		r.classes[class].met++
	}
}

// share is the part of a class's requests that met the objective.
func (c *replayed) share() float64 { return float64(c.met) / float64(max(c.requests, 1)) }
