// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"slices"
	"sort"
)

// uniform is the standard deviation of a value that lies anywhere within a half-width.
const uniform = 1 / 1.7320508

// lag is the most by which a counter may be late, in ns: half a period, until it was
// calibrated.
func (r *Reading) lag(d *dater) int64 {
	if r.Calibrated {
		return 0
	}
	return d.likely().Nanoseconds() / 2
}

// cellAt finds the cell that holds a time.
func (c *Curve) cellAt(at int64) int {
	return sort.Search(len(c.cells), func(i int) bool { return c.cells[i].To >= at })
}

func square(v float64) float64 { return v * v }

// Variance is that of the energy of an interval, in J², from what is not known of its edges
// and of the counter. late is by how much the interval's own edges may be late, in ns.
func (c *Curve) Variance(w Interval, late Lateness) float64 {
	from, before := c.edge(w.From, -1, late.From)
	to, after := c.edge(w.To, 1, late.To)
	// What the energy would be if the counter were as late as it can be.
	sum := from + to + square(unknownLag*(after-before))
	first, last := c.cellAt(w.From), min(c.cellAt(w.To), len(c.cells)-1)
	if scatter := c.scatter(first, last); scatter > 0 {
		for i := first; i <= last; i++ {
			part, _ := c.cells[i].Clip(w)
			seconds := float64(part.Length()) / 1e9
			sum += square(scatter * seconds)
			if c.Method == MethodInstant && i > first { // the power changed anywhere between two readings
				sum += square(uniform / 2 * (c.cells[i].watts - c.cells[i-1].watts) * seconds)
			}
		}
	}
	return sum
}

// scatter is the standard deviation of what one step of a counter that samples a part of
// the time, or one reading of the power, says of a cell's mean power, in W. It is found
// from the differences of successive ones: from their third quartile, so that the few at
// which all of the load began or ended do not count.
func (c *Curve) scatter(first, last int) float64 {
	if c.Method == MethodCounter && c.share == 1 || last-first < 3 {
		return 0
	}
	differences := make([]float64, 0, last-first)
	for i := first + 1; i <= last; i++ {
		d := c.cells[i].rate() - c.cells[i-1].rate()
		if c.Method == MethodInstant {
			d = c.cells[i].watts - c.cells[i-1].watts
		}
		differences = append(differences, math.Abs(d))
	}
	slices.Sort(differences)
	const normal = 1.627 // that quartile of the absolute difference of two normal values of deviation 1
	scatter := differences[len(differences)*3/4] / normal
	if c.Method == MethodCounter {
		scatter *= math.Sqrt(1 - c.share)
	}
	return scatter
}

// Lateness is by how much the edges of an interval may be late, in ns.
type Lateness struct{ From, To int64 }

// timeError is by how much the time of any edge may be off, in ns: what a message of a
// service takes, and the resolution of its times.
const timeError = 3_000_000

// unknownLag is the deviation of what an unknown lag makes of an energy, as a part of what
// the longest lag makes of it: an interval of 90 % reaches 1.35 times as far.
const unknownLag = 1.35 / 1.65

// edge is the variance that one edge of an interval adds, and how much energy a counter that
// is as late as it can be shows after it, in J; side is 1 for its end.
func (c *Curve) edge(at int64, side int, late int64) (sum, delayed float64) {
	i := c.cellAt(at)
	if i == len(c.cells) {
		return 0, 0
	}
	x := &c.cells[i]
	rate := func(i int) float64 { return c.cells[min(max(i, 0), len(c.cells)-1)].rate() }
	before, after := rate(i-1), rate(i+1)
	step := math.Abs(after - before)
	// The edge itself lies anywhere within its lateness before its time.
	moved, _ := c.total.Rise(Interval{at - max(late, timeError), at})
	sum = square(uniform * moved)
	if c.Method == MethodAverage {
		return sum + square(c.blur/5*max(step, c.swing(at))), 0
	}
	f := float64(at-x.From) / float64(x.Length())
	seconds := float64(x.Length()) / 1e9
	date := uniform * ((1-f)*float64(x.doubts[0]) + f*float64(x.doubts[1])) / 1e9
	if c.share < 1 { // what it did not sample of a step
		sum += square(step*seconds*(1-c.share)) * f * (1 - f)
	}
	lag := float64(c.lag) / 1e9
	o := x.lead
	if side > 0 {
		o = x.tail
	}
	if o != nil && o.to == at {
		out := f * seconds
		if side > 0 {
			out = (1 - f) * seconds
		}
		if c.Method == MethodInstant { // the work begins anywhere between the edge and the reading
			return sum + square(uniform*(seconds-out)*step) + square(date*step), 0
		}
		sum += square(date*o.watts) + square(o.spread*out)
		// Work that lies beyond the cell is missed: if its boundary lies further in than its
		// date says, and at the end if the counter is late.
		if side > 0 {
			// What such a counter shows late is in the next cell, so the rest begins after that.
			whole := max(step, math.Abs(rate(i+2)-before))
			return sum + missed(float64(x.doubts[1])/1e9, out)/2*square(step) + missed(lag, out)*square(whole), o.watts * lag
		}
		return sum + missed(float64(x.doubts[0])/1e9, out)/2*square(step), o.watts * lag
	}
	// Within a step the power may be that of one neighbour first and then that of the other,
	// or differ from both as much as the step does.
	swing := max(step, math.Abs(before-x.rate()), math.Abs(after-x.rate()))
	if x.shaped { // by two reads or more, which may be old
		sum += square(c.age * swing)
		swing /= 3
	}
	if lag > 0 {
		delayed, _ = c.total.Rise(Interval{at, at + c.lag})
	}
	return sum + square(date*x.rate()) + square(uniform*swing*seconds*f*(1-f)), delayed
}

// missed is the mean square of by how much a value that lies anywhere between 0 and most
// is beyond a threshold.
func missed(most, threshold float64) float64 {
	if most <= threshold {
		return 0
	}
	d := most - threshold
	return d * d * d / (3 * most)
}

// swing is by how much an average differs within its window on both sides of a time.
func (c *Curve) swing(at int64) float64 {
	least, most := math.Inf(1), math.Inf(-1)
	reach := averageWindow
	for i := c.cellAt(at - reach); i < len(c.cells) && c.cells[i].From < at+reach; i++ {
		least, most = min(least, c.cells[i].rate()), max(most, c.cells[i].rate())
	}
	return max(most-least, 0)
}
