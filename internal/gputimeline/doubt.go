// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"sort"
	"time"
)

// uniform is the standard deviation of a value that lies anywhere within a half-width.
const uniform = 1 / 1.7320508

// lag is the deviation of what nobody knows of a counter's lag, in s: it is anything up to
// half a period until it was calibrated.
func (r *Reading) lag(d *dater) float64 {
	if r.Calibrated {
		return 0
	}
	return time.Duration(d.Period()).Seconds() / 2 * uniform
}

// cellAt finds the cell that holds a time.
func (c *Curve) cellAt(at int64) int {
	return sort.Search(len(c.cells), func(i int) bool { return c.cells[i].To >= at })
}

func square(v float64) float64 { return v * v }

// Variance is that of the energy of an interval, in J², from what is not known of its edges
// and of the counter. late is by how much the interval's own edges may be late, in s.
func (c *Curve) Variance(w Interval, late float64) float64 {
	sum := c.edge(w.From, -1, late) + c.edge(w.To, 1, late)
	first, last := c.cellAt(w.From), c.cellAt(w.To)
	if c.scatter > 0 {
		for i := first; i <= last && i < len(c.cells); i++ {
			part, _ := c.cells[i].Clip(w)
			sum += square(c.scatter * float64(part.Length()) / 1e9)
		}
	}
	return sum
}

// edge is the variance that one edge of an interval adds; side is 1 for its end.
func (c *Curve) edge(at int64, side int, late float64) float64 {
	i := c.cellAt(at)
	if i == len(c.cells) {
		return 0
	}
	x := &c.cells[i]
	rate := func(i int) float64 { return c.cells[min(max(i, 0), len(c.cells)-1)].rate() }
	before, after := rate(i-1), rate(i+1)
	step := math.Abs(after - before)
	// Where the edge itself lies: anywhere from its time to late before it.
	sum := square(late / 2 * uniform * max(before, x.rate(), after))
	if c.Method == MethodAverage {
		return sum + square(float64(averageWindow)/1e9/4*max(step, c.swing(at)))
	}
	f := float64(at-x.From) / float64(x.Length())
	seconds := float64(x.Length()) / 1e9
	date := uniform * ((1-f)*float64(x.doubts[0]) + f*float64(x.doubts[1])) / 1e9
	if c.share < 1 { // what it did not sample of a step
		sum += square(step*seconds) * f * (1 - f) * (1 - c.share)
	}
	o := x.lead
	if side > 0 {
		o = x.tail
	}
	if o != nil && o.to == at {
		out := f * seconds
		if side > 0 {
			out = (1 - f) * seconds
		}
		if c.Method == MethodInstant { // how soon after the edge the reading's power began
			return sum + square(uniform/2*(seconds-out)*step) + square(date*step)
		}
		// Of a late counter, what lies beyond the cell is missed.
		missed := c.lag * min(c.lag/max(out, 1e-9), 1)
		return sum + square(date*o.watts) + square(o.spread*out) + square(missed*step)
	}
	uneven := min(step/max(before+after, 1e-9), 1)
	if x.shaped {
		uneven /= 2
	}
	return sum + square(date*x.rate()) + square(x.joules*f*(1-f)*uneven) + square(c.lag*step)
}

// swing is by how much an average differs within its window on both sides of a time.
func (c *Curve) swing(at int64) float64 {
	least, most := math.Inf(1), math.Inf(-1)
	for i := c.cellAt(at - averageWindow); i < len(c.cells) && c.cells[i].From < at+averageWindow; i++ {
		least, most = min(least, c.cells[i].rate()), max(most, c.cells[i].rate())
	}
	return max(most-least, 0)
}
