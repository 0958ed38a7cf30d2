// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"sort"
)

const (
	// lagDoubt is by how much a counter that was not calibrated may be late, in s: the
	// deviation of what its spans showed.
	lagDoubt = 0.010
	// uniform is the standard deviation of a value that lies anywhere within a half-width.
	uniform = 1 / 1.7320508
)

// cellAt finds the cell that holds a time.
func (c *Curve) cellAt(at int64) int {
	return sort.Search(len(c.cells), func(i int) bool { return c.cells[i].To >= at })
}

// Variance is that of the energy of an interval, in J², from what is not known of its edges
// and of the counter. late is by how much the interval's own edges may be late, in s.
func (c *Curve) Variance(w Interval, late float64) float64 {
	sum := c.edge(w.From, -1, late) + c.edge(w.To, 1, late)
	first, last := c.cellAt(w.From), c.cellAt(w.To)
	if c.scatter > 0 {
		for i := first; i <= last && i < len(c.cells); i++ {
			part, _ := c.cells[i].Clip(w)
			j := c.scatter * float64(part.Length()) / 1e9
			sum += j * j
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
	square := func(v float64) float64 { return v * v }
	sum := square(late * uniform / 2 * max(before, x.rate(), after))
	if c.unknownLag {
		sum += square(lagDoubt * step)
	}
	if c.Method == MethodAverage {
		return sum + square(float64(averageWindow)/1e9/4*max(step, c.swing(at)))
	}
	o := x.lead
	if side > 0 {
		o = x.tail
	}
	if o != nil && o.to == at {
		out := float64(at-x.From) / 1e9
		if side > 0 {
			out = float64(x.To-at) / 1e9
		}
		if c.Method == MethodInstant { // how soon after the edge the reading's power began
			inside := float64(x.Length())/1e9 - out
			return sum + square(uniform/2*inside*step) + square(uniform*c.doubt*step)
		}
		return sum + square(uniform*c.doubt*o.watts) + square(0.7*o.spread*out)
	}
	f := float64(at-x.From) / float64(x.Length())
	uneven := min(step/max(before+after, 1e-9), 1)
	if x.shaped {
		uneven /= 2
	}
	return sum + square(uniform*c.doubt*x.rate()) + square(x.joules*f*(1-f)*uneven)
}

// swing is by how much an average differs within its window on both sides of a time.
func (c *Curve) swing(at int64) float64 {
	least, most := math.Inf(1), math.Inf(-1)
	for i := c.cellAt(at - averageWindow); i < len(c.cells) && c.cells[i].From < at+averageWindow; i++ {
		least, most = min(least, c.cells[i].rate()), max(most, c.cells[i].rate())
	}
	return max(most-least, 0)
}
