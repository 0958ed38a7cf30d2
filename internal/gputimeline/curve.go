// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// The methods by which energy is known.
const (
	MethodCounter = "counter"
	MethodInstant = "power.instant"
	MethodAverage = "power.average"
)

// Reasons for which energy is only an estimate.
const (
	ReasonReset   = "counter_reset" // the counter stepped back
	ReasonStuck   = "counter_stuck" // it stood still while the GPU worked
	ReasonJump    = "counter_jump"  // a step that no GPU can use
	ReasonSlow    = "slow_counter"  // the time is shorter than three of its periods
	ReasonAverage = "power_average" // only the average over a second is known
)

// Reading says how to read a GPU's energy.
type Reading struct {
	// Lag is how late a change of the counter can be seen, Share the part of the time in
	// which it samples the power (1 for all of it), if they were calibrated.
	Lag        time.Duration
	Share      float64
	Calibrated bool
	// MaxWatts bounds what a GPU can draw.
	MaxWatts float64
	// Rest is the power of the GPU without work, in W, by its counter.
	Rest      float64
	RestKnown bool
}

// Curve is the energy of a GPU over time, as far as it is known, in J: a single curve for
// all spans, so that what they and the rest get adds up to the counter's rise.
type Curve struct {
	Method string
	// Period is that of the counter, or of the power; 0 if it is not longer than the time
	// between two reads.
	Period time.Duration

	total  Stream // linear between its points
	cells  []cell
	faults []fault
	lag    int64   // ns, the most by which a counter may be late
	share  float64 // of the time in which the counter samples the power
	// restless is by how much neighbouring cells differ that nothing used, in W.
	restless float64
	// blur is over what time an average is known, in s: longer where it is old as well.
	blur float64
	// age is the deviation of how old the power is by which a cell is divided, in s.
	age float64
}

// cell is the time between two refreshes of the counter or of the power.
type cell struct {
	Interval
	joules float64
	// watts is the reading at its end, of a curve of power.
	watts float64
	// doubts are the half-widths of what the dates of its ends may be off by, in ns.
	doubts [2]int64
	// lead and tail are the rates at which the time before and after all use is taken.
	lead, tail *outside
	shaped     bool
	// first: it begins with the first read, and holds the energy of the refresh before, too.
	first bool
}

// outside is a time without any use at one end of a cell.
type outside struct {
	to     int64   // where it ends, or begins
	watts  float64 // at which it is taken
	spread float64 // W, by which that may be off
}

type fault struct {
	Interval
	reason string
}

func (c *cell) rate() float64 { return c.joules / (float64(c.Length()) / 1e9) }

// Curve makes the curve of a window's energy; active are the times in which anything used
// the GPU, sorted and apart. It is nil where nothing is known.
func (t *Timeline) Curve(active []Interval, r *Reading) *Curve {
	switch {
	case len(t.Energy.Points) > 1:
		c := t.counterCurve(active, r)
		if stuck := c.stuck(); stuck != nil && len(t.PowerInstant.Points) > 1 {
			c = t.powerCurve(active) // all that is known
			c.faults = stuck
		}
		return c
	case len(t.PowerInstant.Points) > 1:
		return t.powerCurve(active)
	case len(t.PowerAverage.Points) > 1:
		return t.averageCurve(active)
	}
	return nil
}

// counterCurve is the curve of a counter: between dated changes, and never between reads.
func (t *Timeline) counterCurve(active []Interval, r *Reading) *Curve {
	c := &Curve{Method: MethodCounter, Period: t.counter.Period(), lag: r.lag(&t.counter), share: cmp.Or(r.Share, sampledShare(t.Model))}
	changes := slices.Clone(t.counter.dates)
	for i := range changes {
		changes[i].at -= r.Lag.Nanoseconds()
	}
	c.findCells(changes, t, r)
	c.findRestless(active)
	shape := t.freshPower()
	c.age = uniform * t.power.interval / 1e9 / shortDoubt
	for i := range c.cells {
		c.refine(i, active, shape)
	}
	return c
}

// findCells makes the cells of a counter's changes, without what cannot be energy.
func (c *Curve) findCells(changes []dated, t *Timeline, r *Reading) {
	total := 0.0
	for i := range changes[:max(len(changes)-1, 0)] {
		a, b := &changes[i], &changes[i+1]
		x := cell{Interval: Interval{a.at, b.at}, joules: b.value - a.value, doubts: [2]int64{a.doubt, b.doubt}, first: a.first}
		longest := max(b.by-a.after, c.Period.Nanoseconds())
		switch {
		case x.joules < 0:
			c.faults = append(c.faults, fault{x.Interval, ReasonReset})
			x.joules = 0
		case r.MaxWatts > 0 && x.joules > maxOfLimit*r.MaxWatts*float64(longest)/1e9:
			c.faults = append(c.faults, fault{x.Interval, ReasonJump})
			x.joules = 0
		case c.isStuck(x, t, r):
			c.faults = append(c.faults, fault{x.Interval, ReasonStuck})
		}
		c.put(x.From, total)
		total += x.joules
		c.cells = append(c.cells, x)
	}
	if n := len(changes); n > 0 {
		c.put(changes[n-1].at, total)
		// A counter that stands still has no change that would end the last cell.
		newest, _ := t.Energy.Newest()
		x := cell{Interval: Interval{changes[n-1].at, newest}}
		if x.Length() > 0 && c.isStuck(x, t, r) {
			c.faults = append(c.faults, fault{x.Interval, ReasonStuck})
			c.cells = append(c.cells, x)
			c.put(x.To, total)
		}
	}
}

// maxOfLimit is how many times its power limit a GPU may draw for a moment.
const maxOfLimit = 1.5

// stuckPeriods is for how many periods a counter may stand still under load.
const stuckPeriods = 10

func (c *Curve) isStuck(x cell, t *Timeline, r *Reading) bool {
	least := max(stuckPeriods*c.Period.Nanoseconds(), time.Second.Nanoseconds())
	if !r.RestKnown || x.Length() < least {
		return false
	}
	joules, seen := t.PowerInstant.Integral(x.Interval)
	return seen > least/2 && joules/(float64(seen)/1e9) > 1.2*r.Rest+5
}

// stuck are the times in which the counter stood still.
func (c *Curve) stuck() (all []fault) {
	for _, f := range c.faults {
		if f.reason == ReasonStuck {
			all = append(all, f)
		}
	}
	return all
}

func (c *Curve) put(at int64, joules float64) { c.total.Put(at, joules) }

// freshPower is the instant power if it is refreshed often enough to show where within a
// cell energy was used.
func (t *Timeline) freshPower() *Stream {
	if len(t.PowerInstant.Points) < 2 || t.power.Period() > 2*fresh || t.power.reads < settledReads {
		return nil
	}
	return &t.PowerInstant
}

// fresh is the age up to which instant power shows where energy was used within a step of
// the counter.
const fresh = 25 * time.Millisecond

// inAnyOf reports whether any of some intervals has a part in common with a time.
func inAnyOf(active []Interval, w Interval) bool {
	for _, a := range active {
		if a.From < w.To && a.To > w.From {
			return true
		}
	}
	return false
}

// idleEnds are the times without any use at both ends of an interval; whole is true if
// nothing used all of it.
func idleEnds(active []Interval, w Interval) (lead, tail int64, whole bool) {
	lead, tail, whole = w.To, w.From, true
	for _, a := range active {
		if a.From < w.To && a.To > w.From {
			lead, tail, whole = min(lead, max(a.From, w.From)), max(tail, min(a.To, w.To)), false
		}
	}
	return lead, tail, whole
}

// refine finds out where within a cell its energy was used.
func (c *Curve) refine(i int, active []Interval, shape *Stream) {
	x := &c.cells[i]
	lead, tail, whole := idleEnds(active, x.Interval)
	if whole {
		return
	}
	start, _ := c.at(x.From)
	inside, joules := x.Interval, x.joules
	if lead > x.From && i > 0 && !c.cells[i-1].first && !inAnyOf(active, c.cells[i-1].Interval) {
		x.lead = c.outside(i, -1, lead)
	}
	if tail < x.To && i+1 < len(c.cells) && !inAnyOf(active, c.cells[i+1].Interval) {
		x.tail = c.outside(i, 1, tail)
	}
	var before, after float64
	if x.lead != nil {
		before = x.lead.watts * float64(lead-x.From) / 1e9
	}
	if x.tail != nil {
		after = x.tail.watts * float64(x.To-tail) / 1e9
	}
	if over := before + after; over > joules && over > 0 {
		before, after = before*joules/over, after*joules/over
	}
	joules -= before + after
	if x.lead != nil {
		inside.From = lead
		c.put(lead, start+before)
	}
	if x.tail != nil {
		inside.To = tail
		c.put(tail, start+before+joules)
	}
	if shape != nil {
		x.shaped = c.shape(inside, start+before, joules, shape)
	}
}

// outside is the rate of the neighbouring cell, which nothing used.
func (c *Curve) outside(i, next int, to int64) *outside {
	o := &outside{to: to, watts: c.cells[i+next].rate(), spread: c.restless}
	if work := i - next; next > 0 && work >= 0 {
		o.spread = max(o.spread, glow*(c.cells[work].rate()-o.watts))
	}
	if j := i + 2*next; j >= 0 && j < len(c.cells) {
		o.spread = max(o.spread, min(math.Abs(c.cells[j].rate()-o.watts), o.watts))
	}
	return o
}

// glow is how much of the power of the work may remain for a moment after its end.
const glow = 0.05

// findRestless finds by how much the power differs between neighbouring cells that nothing
// used, in W.
func (c *Curve) findRestless(active []Interval) {
	sum, n, rest := 0.0, 0, 0.0
	for i := 1; i < len(c.cells); i++ {
		a, b := &c.cells[i-1], &c.cells[i]
		if inAnyOf(active, Interval{a.From, b.To}) {
			continue
		}
		sum += square(b.rate() - a.rate())
		rest += b.rate()
		n++
	}
	if n > 0 {
		c.restless = min(math.Sqrt(sum/float64(n)), rest/float64(n)/4)
	}
}

// shapeStep is the distance of the points of a shape.
const shapeStep = int64(10 * time.Millisecond)

// shape divides the energy of a time by the power in it, which sums to that energy.
func (c *Curve) shape(w Interval, start, joules float64, power *Stream) bool {
	all, seen := power.Integral(w)
	if seen < w.Length() || all <= 0 || joules <= 0 {
		return false
	}
	part, _ := power.Integral(Interval{w.From, w.From})
	for at := w.From + shapeStep; at < w.To; at += shapeStep {
		more, _ := power.Integral(Interval{at - shapeStep, at})
		part += more
		c.put(at, start+joules*part/all)
	}
	return true
}

// at is the curve at a time, and whether it is known there.
func (c *Curve) at(at int64) (joules float64, ok bool) {
	i := c.total.Search(at)
	points := c.total.Points
	switch {
	case i < len(points) && points[i].At == at:
		return points[i].Value, true
	case i == 0 || i == len(points):
		return 0, false
	}
	p, q := points[i-1], points[i]
	return p.Value + (q.Value-p.Value)*float64(at-p.At)/float64(q.At-p.At), true
}

// Joules is the energy of an interval, and of how many ns of it that is known.
func (c *Curve) Joules(w Interval) (sum float64, seen int64) {
	sum, seen = c.total.Rise(w)
	for _, f := range c.faults {
		if part, ok := w.Clip(f.Interval); ok && f.reason != ReasonStuck {
			seen -= part.Length()
		}
	}
	return sum, max(seen, 0)
}

// Reason is why the energy of an interval is only an estimate; empty if it is measured.
func (c *Curve) Reason(w Interval) string {
	for _, f := range c.faults {
		if f.From < w.To && f.To > w.From {
			return f.reason
		}
	}
	switch {
	case c.Method == MethodAverage:
		return ReasonAverage
	case c.Period > 0 && w.Length() < 3*c.Period.Nanoseconds():
		return ReasonSlow
	}
	return ""
}
