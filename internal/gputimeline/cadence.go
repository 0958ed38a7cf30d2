// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"slices"
	"time"
)

// cadence learns how often the driver refreshes a quantity from the times at which its
// value changed. It needs no more memory the longer it learns.
type cadence struct {
	at    int64 // of the last read
	value float64
	reads int
	// interval is the usual time between two reads, in ns; slower reads move it little.
	interval float64
	// same is the recent share of reads that showed the value of the read before.
	same float64

	// first are the first distances between changes, from which the period is guessed.
	first [15]float64
	n     int
	// change is when the value changed last, in ns: the middle of the time in which it did.
	change float64
	clear  bool // all reads since then came in the usual interval

	// period is in ns, 0 while it is not known; it is the time since the anchor divided by
	// the steps since then.
	period float64
	anchor float64
	steps  float64
	// sure is over how many steps the period was measured at most.
	sure float64
	// misfit is the recent share of changes that did not lie where the period puts them.
	misfit  float64
	changes int
}

const (
	// shortShare is the share of reads without a change below which a quantity is refreshed
	// at least as often as it is read.
	shortShare = 0.12
	// maxMisfit is the share of misfits above which there is no period.
	maxMisfit = 0.3
	// longRun is after how many steps the period is measured from a later change on.
	longRun = 6000
	// minDrift is by how much two clocks may differ, relative to the period.
	minDrift = 2e-4
)

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
	if c.period > 0 { // slower reads see a change each time, and say nothing
		usual = distance < 0.7*c.period
	}
	if !usual {
		c.clear = false
	}
	changed := value != old
	if usual {
		seen := 1.0
		if changed {
			seen = 0
		}
		c.same += max(0.02, 1/float64(c.reads)) * (seen - c.same)
	}
	if changed {
		c.changed(float64(before), float64(at))
	}
}

// changed adds a change between two reads.
func (c *cadence) changed(after, by float64) {
	if c.period > 0 {
		after = max(after, by-c.period) // the last of several
	}
	middle := (after + by) / 2
	distance, clear := middle-c.change, c.clear && c.change > 0
	c.change, c.clear = middle, true
	if c.period == 0 {
		if c.same < shortShare {
			c.n = 0
		} else if clear {
			c.guess(distance)
		}
		return
	}
	c.changes++
	steps := math.Round((middle - c.anchor) / c.period)
	off := math.Abs(middle - c.anchor - steps*c.period)
	missed := 0.0
	if off > (by-after)/2+0.1*c.period {
		missed = 1
	}
	c.misfit += 0.03 * (missed - c.misfit)
	switch {
	case missed == 1 && c.misfit > maxMisfit:
		c.period, c.n = 0, 0
	case missed == 1 || steps > longRun:
		c.anchor, c.steps = middle, 0
	case steps > c.steps && steps >= 10:
		c.steps, c.sure = steps, max(c.sure, steps)
		if fresh := (middle - c.anchor) / steps; c.changes < 30 || math.Abs(fresh-c.period) < 0.05*c.period {
			// The first steps say little beside what is known.
			weight := min(1, steps/float64(max(10, min(c.changes, 500))))
			c.period += weight * (fresh - c.period)
		}
	}
}

// guess finds a first period.
func (c *cadence) guess(distance float64) {
	c.first[c.n] = distance
	if c.n++; c.n < len(c.first) {
		return
	}
	c.n = 0
	sorted := c.first
	slices.Sort(sorted[:])
	middle, sum, steps := sorted[len(sorted)/2], 0.0, 0.0
	for _, d := range sorted {
		sum += d
		steps += max(math.Round(d/middle), 1)
	}
	c.period, c.anchor, c.steps, c.sure, c.misfit, c.changes = sum/steps, c.change, 0, 0, 0, 0
}

// isShort reports whether the quantity is refreshed at least as often as it is read, as
// far as the reads can tell.
func (c *cadence) isShort() bool { return c.same < shortShare }

// drift is by how much a step may differ from the period, in ns.
func (c *cadence) drift() float64 {
	return max(c.interval/max(c.sure, 10), minDrift*c.period)
}

// Period is the time between two refreshes; 0 if it is not longer than that between two
// reads, or not known.
func (c *cadence) Period() time.Duration {
	if c.period == 0 || c.isShort() {
		return 0
	}
	return time.Duration(c.period)
}
