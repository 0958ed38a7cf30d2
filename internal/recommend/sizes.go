// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"cmp"
	"slices"
	"time"
)

// Recommendations are what a week says.
type Recommendations struct {
	// Since is from when on requests are known, Held what was held back on each GPU, and All
	// altogether.
	Since time.Time
	GPUs  []Held
	All   Held
	// Safe are the largest safe sizes, Objectives the sizes that meet the objectives.
	Safe       []Safe
	Objectives []Objective
	// Replayed is the part of the time whose requests were replayed: 1 unless there were more than
	// [Settings.Requests].
	Replayed float64
}

// Safe is the largest side that is safe for a class's requests on GPUs of a product: it fits into
// the memory, and ends within the deadline on an idle GPU.
type Safe struct {
	Class, Product string
	Requests       int
	// Side is in pixels, 0 if it is not known.
	Side  int
	Bound Bound
}

// Objective is the largest side with which enough of a class's requests would have met the
// objective, if larger ones had been sent at that size: those of all classes, each at its own.
type Objective struct {
	Class    string
	Requests int
	// Side is in pixels; 0 if too little is known, or if no size would do.
	Side int
	// Known is false if too little is known. Enough is true if the class needs no limit: Side is the
	// largest that came then.
	Known, Enough bool
	// Share is the part that meets the objective at Side, AsTheyCame without limits, both by the
	// replay.
	Share, AsTheyCame float64
}

const (
	// Share is the part of a class's requests that is to meet the objective.
	Share = 0.95
	// minRequests is from how many requests of a class on a size is recommended, minKnown the part
	// of their work whose time must be known at other sizes.
	minRequests = 100
	minKnown    = 0.9
	// unit is the step of sides, in pixels.
	unit = 8
	// smaller is how many times smaller than the smallest one that came a size is that is tried.
	smaller = 2
	// maxRaised bounds the classes whose size is looked for apart from the others'.
	maxRaised = 8
	// rare is the part of a class's requests whose kinds do not count for its safe size.
	rare = 0.05
)

// Recommend says what the week says, with what is known of costs. Its cost is that of twenty to
// eighty replays.
func (c *Copy) Recommend(costs Costs) Recommendations {
	all := Recommendations{Since: c.since, GPUs: c.gpus, All: c.all, Safe: c.safe(costs), Replayed: 1}
	held := 0
	for _, h := range c.parts {
		if h {
			held++
		}
	}
	if len(c.parts) > 0 {
		all.Replayed = float64(held) / float64(len(c.parts))
	}
	all.Objectives = newReplay(c, costs).objectives()
	return all
}

// safe finds the safe sizes: the least of a class's kinds, rare ones aside.
func (c *Copy) safe(costs Costs) (all []Safe) {
	type group struct{ class, product string }
	sources := map[group][]*source{}
	for i := range c.sources {
		if s := &c.sources[i]; s.used > 0 && s.gpu != "" {
			g := group{s.class, s.product}
			sources[g] = append(sources[g], s)
		}
	}
	for g, of := range sources {
		found := Safe{Class: g.class, Product: g.product}
		for _, s := range of {
			found.Requests += s.used
		}
		slices.SortFunc(of, func(a, b *source) int { return cmp.Compare(b.used, a.used) })
		deadline, counted := c.settings.class(g.class).Deadline, 0
		for _, s := range of {
			if float64(counted) >= (1-rare)*float64(found.Requests) {
				break
			}
			counted += s.used
			side, bound := 0, NotKnown
			if s.largest > 0 {
				q := s.requestOf(s.largest)
				q.Deadline = deadline
				side, bound = costs.Safe(&q)
			}
			if found.Bound == "" || bound == NotKnown || found.Bound != NotKnown && side < found.Side {
				found.Side, found.Bound = side, bound
			}
		}
		all = append(all, found)
	}
	slices.SortFunc(all, func(a, b Safe) int { return cmp.Or(cmp.Compare(a.Class, b.Class), cmp.Compare(a.Product, b.Product)) })
	return all
}

// objectives finds the largest sizes at which all classes meet their objectives together: first one
// size for all, then as much more for each, one after the other, as leaves the others theirs.
func (r *replay) objectives() (all []Objective) {
	caps := make([]int, len(r.classes))
	r.run(caps)
	smallest, largest, found := maxSide, 0, make([]Objective, len(r.classes))
	enough := true
	for i := range r.classes {
		c := &r.classes[i]
		o := &found[i]
		*o = Objective{Class: c.name, Requests: c.requests, AsTheyCame: c.share(), Share: c.share(), Side: c.largest}
		o.Known = c.requests >= minRequests && c.known >= minKnown*c.work && c.largest > 0
		if !o.Known {
			o.Side, o.Share = 0, 0
			continue
		}
		o.Enough = o.Share >= Share
		enough = enough && o.Enough
		smallest, largest = min(smallest, c.smallest), max(largest, c.largest)
	}
	if !enough {
		r.lower(found, smallest, largest)
	}
	for i := range found {
		if found[i].Requests > 0 {
			all = append(all, found[i])
		}
	}
	slices.SortFunc(all, func(a, b Objective) int { return cmp.Compare(a.Class, b.Class) })
	return all
}

// lower finds the sizes where some are too large.
func (r *replay) lower(found []Objective, smallest, largest int) {
	caps := make([]int, len(r.classes))
	set := func(side int) []int {
		for i := range caps {
			caps[i] = side
		}
		return caps
	}
	least := max(smallest/smaller/unit*unit, unit)
	r.run(set(least))
	feasible := make([]bool, len(r.classes))
	for i := range r.classes {
		feasible[i] = found[i].Known && r.classes[i].share() >= Share
		if found[i].Known && !feasible[i] { // no size would do
			found[i].Side, found[i].Enough, found[i].Share = 0, false, r.classes[i].share()
		}
	}
	meets := func(caps []int) bool {
		r.run(caps)
		for i := range r.classes {
			if feasible[i] && r.classes[i].share() < Share {
				return false
			}
		}
		return true
	}
	common := search(least, largest, func(side int) bool { return meets(set(side)) })
	set(common)
	for n, i := range r.byUrgency() {
		if !feasible[i] || n >= maxRaised || r.classes[i].largest <= common {
			continue
		}
		caps[i] = search(common, r.classes[i].largest, func(side int) bool {
			caps[i] = side
			return meets(caps)
		})
	}
	r.run(caps)
	for i := range r.classes {
		if feasible[i] {
			o := &found[i]
			o.Share, o.Side = r.classes[i].share(), min(caps[i], r.classes[i].largest)
			o.Enough = o.Side == r.classes[i].largest
		}
	}
}

// byUrgency are the classes, those first whose time is short.
func (r *replay) byUrgency() []int {
	all := make([]int, len(r.classes))
	for i := range all {
		all[i] = i
	}
	slices.SortFunc(all, func(a, b int) int {
		return cmp.Or(cmp.Compare(r.limits[a], r.limits[b]), cmp.Compare(r.classes[b].requests, r.classes[a].requests), cmp.Compare(r.classes[a].name, r.classes[b].name))
	})
	return all
}

// search is the largest side from low on, of which that is known, up to high that will do; high
// itself, or steps below it.
func search(low, high int, does func(side int) bool) int {
	if high <= low || does(high) {
		return max(low, high)
	}
	from, to := low/unit, (high-1)/unit // from does, as far as is known; above to does not
	for from < to {
		if middle := (from + to + 1) / 2; does(middle * unit) {
			from = middle
		} else {
			to = middle - 1
		}
	}
	return max(from*unit, low)
}
