// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"slices"
	"time"
)

// cadence learns how often a quantity is read, and how often the driver refreshes it, from
// the reads that show another value than the read before. It needs no more memory the
// longer it learns.
type cadence struct {
	at    int64 // of the last read
	value float64
	reads int
	// interval is the usual time between two reads, in ns; slower reads move it little.
	interval float64
	// fast is the usual time between reads that could show the same value twice, in ns.
	fast float64
	// same is the recent share of reads that showed the value of the read before.
	same float64

	// first are the first distances between changes, from which the period is guessed.
	first [15]float64
	n     int
	// apart is by how much the sum of first may be off, in ns: what the ends of each run of
	// successive distances may be off by.
	apart float64
	// change is when the value changed last, in ns: the middle of the time in which it did.
	change float64
	clear  bool // all reads since then came in the usual interval
	// follows: the distance to the change before is in first.
	follows bool

	grid
}

// minReads is how many reads there must be in a period: with fewer, reads that come late or
// early are taken for refreshes that do.
const minReads = 1.3

// shortShare is the share of reads without a change below which a quantity is refreshed at
// least as often as it is read.
const shortShare = 0.12

// add adds a read that is newer than those before.
func (c *cadence) add(at int64, value float64) {
	before, old := c.at, c.value
	c.at, c.value = at, value
	if c.reads++; c.reads == 1 {
		return
	}
	distance := float64(at - before)
	switch {
	case c.interval == 0:
		c.interval = distance
	case distance < c.interval:
		c.interval += 0.2 * (distance - c.interval)
	default:
		c.interval += 0.02 * (min(distance, 2*c.interval) - c.interval)
	}
	usual := distance < 1.4*c.interval
	if c.known() { // slower reads see a change each time, and say nothing
		usual = distance < 0.7*c.period()
	}
	if !usual {
		c.clear = false
	}
	if usual {
		seen := 1.0
		if value != old {
			seen = 0
		}
		if c.fast == 0 {
			c.fast = distance
		}
		c.fast += 0.05 * (distance - c.fast)
		c.same += max(0.02, 1/float64(c.reads)) * (seen - c.same)
	}
	if value != old {
		c.changed(float64(before+at) / 2)
	}
}

// changed adds a change, until there are enough to guess the period.
func (c *cadence) changed(middle float64) {
	distance, clear, follows := middle-c.change, c.clear && c.change > 0, c.follows
	c.change, c.clear, c.follows = middle, true, false
	switch {
	case c.known():
		return
	case c.same < shortShare:
		c.n, c.apart = 0, 0
		return
	case !clear:
		return
	}
	if c.follows = true; !follows || c.n == 0 {
		c.apart += c.interval
	}
	c.first[c.n] = distance
	if c.n++; c.n < len(c.first) {
		return
	}
	apart := c.apart
	c.n, c.apart = 0, 0
	sorted := c.first
	slices.Sort(sorted[:])
	usual, sum, steps := sorted[len(sorted)/2], 0.0, 0.0
	for _, d := range sorted {
		sum += d
		steps += max(math.Round(d/usual), 1)
	}
	c.fast = c.interval // the first reads may have been slow
	c.begin(sum/steps, max(2*c.interval, 1.4*apart)/steps)
}

// isShort reports whether the quantity is refreshed at least as often as it is read, as
// far as the reads can tell.
func (c *cadence) isShort() bool {
	return c.same < shortShare || c.known() && c.period() < minReads*c.fast
}

// Period is the time between two refreshes; 0 if it is not longer than that between two
// reads, or not known.
func (c *cadence) Period() time.Duration {
	if c.isShort() || !c.known() {
		return 0
	}
	return time.Duration(c.period())
}

// likely is the period as far as it can be told: while it is not known, that of most
// counters.
func (c *cadence) likely() time.Duration {
	if c.reads < settledReads || !c.known() && !c.isShort() {
		return usualPeriod
	}
	return c.Period()
}

// grid is what is known of refreshes that come periodically: bounds of the period, and of
// the time of the last refresh. Each refresh lies a number of periods after those before,
// and between two reads; so the bounds approach each other as reads come at different
// phases of the grid. All times are in ns.
type grid struct {
	minPeriod, maxPeriod float64 // the period; 0 while it is not known
	earliest, latest     float64 // the last refresh; 0 if there was none since the period is known
	// The anchor is an earlier refresh, since which there were steps.
	anchorEarliest, anchorLatest, steps float64
	// misfit is the recent share of refreshes that did not lie on the grid.
	misfit float64
}

const (
	// maxMisfit is the share of misfits above which there is no period.
	maxMisfit = 0.3
	// longRun is after how many steps the period is measured from a later refresh on.
	longRun = 6000
	// slack is by how much the driver's clock may differ from ours, relative to the period.
	slack = 2e-4
)

func (g *grid) known() bool     { return g.maxPeriod > 0 }
func (g *grid) period() float64 { return (g.minPeriod + g.maxPeriod) / 2 }

// begin begins with a period that may be off.
func (g *grid) begin(period, off float64) {
	*g = grid{minPeriod: period - off, maxPeriod: period + off}
}

// anchor begins to count steps from the last refresh on.
func (g *grid) anchor(least, most float64) {
	g.earliest, g.latest, g.anchorEarliest, g.anchorLatest, g.steps = least, most, least, most, 0
}

// fit finds the bounds of a refresh that lies between two reads.
func (g *grid) fit(after, by float64) {
	period := g.period()
	if g.latest == 0 {
		g.anchor(after, by)
		return
	}
	steps := max(math.Round(((after+by)/2-(g.earliest+g.latest)/2)/period), 1)
	least, most := g.after(steps)
	if g.reaches(steps-1, after, by) || g.reaches(steps+1, after, by) || most-least > period {
		g.anchor(after, by) // there may have been more steps or fewer
		return
	}
	missed := 0.0
	if most < after || least > by {
		missed = 1
	}
	g.misfit += 0.05 * (missed - g.misfit)
	switch {
	case g.misfit > maxMisfit:
		*g = grid{}
	case most < after: // later than the grid says: as little as possible
		g.anchor(after, min(by, after+(after-most)))
	case least > by:
		g.anchor(max(after, by-(least-by)), by)
	default:
		g.earliest, g.latest = max(least, after), min(most, by)
		g.narrow(steps)
	}
}

// after are the bounds of the refresh that comes a number of steps after the last one.
func (g *grid) after(steps float64) (least, most float64) {
	wide := slack * g.period()
	return g.earliest + steps*(g.minPeriod-wide), g.latest + steps*(g.maxPeriod+wide)
}

// reaches reports whether a number of steps leads from the last refresh to between two
// reads.
func (g *grid) reaches(steps, after, by float64) bool {
	least, most := g.after(steps)
	return steps >= 1 && most >= after && least <= by
}

// narrow finds the bounds of the period from the steps since the anchor.
func (g *grid) narrow(more float64) {
	g.steps += more
	least, most := (g.earliest-g.anchorLatest)/g.steps, (g.latest-g.anchorEarliest)/g.steps
	if most < g.minPeriod || least > g.maxPeriod { // it is another than before
		g.anchor(g.earliest, g.latest)
		g.minPeriod, g.maxPeriod = min(g.minPeriod, least), max(g.maxPeriod, most)
		return
	}
	g.minPeriod, g.maxPeriod = max(g.minPeriod, least), min(g.maxPeriod, most)
	if g.steps > longRun {
		wide := slack * g.period()
		g.anchor(g.earliest, g.latest)
		g.minPeriod, g.maxPeriod = g.minPeriod-wide, g.maxPeriod+wide
	}
}
