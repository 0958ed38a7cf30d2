// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"
	"slices"
	"time"
)

// prediction is what was said when a prompt was admitted.
type prediction struct {
	at time.Time
	// completion is in seconds from then, deviation its own.
	completion, deviation float64
	low, high             float64
	// missAbove is the share of such predictions whose completions are to be above the band.
	missAbove float64
}

// calibration compares predictions of a class with what happened: how many deviations the
// completions were off. What is not modelled, as prompts that come later and precede, is in it.
type calibration struct {
	off    []float64 // the last of them, in the order of time
	sorted []float64
	// within are which of them were in their bands.
	within []bool
	// covered are which of the last needs of memory lay at or below their bounds.
	covered []bool
	// below and above are how many deviations the next band has on each side: a little less after a
	// completion that was in its band, more after one that was beyond it there, so that a tenth is
	// missed whatever was modelled wrongly (adaptive conformal inference). Prompts that are rare and
	// slow make others late, and none early.
	below, above float64
	// last is when it learned last.
	last time.Time
}

const (
	maxOff = 200
	// minOff is from how many predictions on their errors count.
	minOff = 40
)

// calibration is a class's; that of one that nothing was learned of is not kept.
func (e *Engine) calibration(class string) *calibration {
	if c := e.classes[class]; c != nil {
		return c
	}
	if c := e.classes[""]; c != nil && len(e.classes) >= maxClasses-1 {
		return c
	}
	return &calibration{below: normal95, above: normal95}
}

// calibrationOf is calibration, and kept. Beyond the bound, all others share one.
func (e *Engine) calibrationOf(class string) *calibration {
	c := e.classes[class]
	if c == nil {
		if len(e.classes) >= maxClasses-1 {
			class = ""
		}
		if c = e.classes[class]; c == nil {
			c = &calibration{below: normal95, above: normal95}
			e.classes[class] = c
		}
	}
	return c
}

// add compares a prediction with when the prompt ended.
func (c *calibration) add(p prediction, ended time.Time) {
	actual := ended.Sub(p.at).Seconds()
	c.last = ended
	c.off = append(c.off, (actual-p.completion)/max(p.deviation, 1e-3))
	c.off = c.off[max(len(c.off)-maxOff, 0):]
	c.within = append(c.within, actual >= p.low && actual <= p.high)
	c.within = c.within[max(len(c.within)-maxOff, 0):]
	c.sorted = append(c.sorted[:0], c.off...)
	slices.Sort(c.sorted)
	c.below = adapted(c.below, actual < p.low, missBelow)
	c.above = adapted(c.above, actual > p.high, p.missAbove)
}

// adapted is one side of a band after a completion.
func adapted(wide float64, missed bool, share float64) float64 {
	change := -share
	if missed {
		change++
	}
	return min(max(wide*math.Exp(pace*change), minWide), maxWide)
}

const (
	// missBelow and missAbove are the shares of completions that are beyond their bands, together a
	// tenth. Where neighbours slow prompts down, whose errors come together, fewer are to be above;
	// of batch, whose bands begin at the least time that is possible, more. pace is how fast bands
	// follow.
	missBelow, missAbove, missShared, missBatch, pace = 0.025, 0.075, 0.04, 0.095, 0.1
	// The least and the most deviations of a band on each side.
	minWide, maxWide = 0.3, 6
)

// quantile is how many deviations above its prediction a completion is at most, in a share of
// the cases; normal is that of the normal distribution, which counts until enough was seen.
func (c *calibration) quantile(share, normal float64) float64 {
	n := len(c.sorted)
	if n < minOff {
		return normal
	}
	rank := int(math.Ceil(float64(n+1) * share))
	return c.sorted[min(max(rank, 1), n)-1]
}

// The quantiles of the normal distribution.
const (
	normal80 = 0.842
	normal95 = 1.645
	normal99 = 2.326
	// maxOff99 is the most deviations by which a prompt is taken to be late: what a neighbour adds to
	// short predictions must not count several times in long ones.
	maxOff99 = 4
)

// band is the 90 % band of a completion.
func (c *calibration) band(completion, deviation float64) (low, high float64) {
	return max(completion-c.below*deviation, 0), completion + c.above*deviation
}

// Coverage is how well a cost of a class's prompts is predicted.
type Coverage struct {
	Class string
	// Cost is CostTime or CostMemory.
	Cost string
	// Share is the part of the last Predictions that held: of completions those that were in their
	// 90 % bands, of needs of memory those that were at or below their bounds.
	Share       float64
	Predictions int
}

// coverage is that of each class and cost of which something was predicted.
func (e *Engine) coverage() (all []Coverage) {
	for class, c := range e.classes {
		for _, of := range []struct {
			cost string
			held []bool
		}{{CostTime, c.within}, {CostMemory, c.covered}} {
			if n := len(of.held); n > 0 {
				all = append(all, Coverage{class, of.cost, share(of.held), n})
			}
		}
	}
	return all
}

// share is the part that is true.
func share(all []bool) float64 {
	n := 0
	for _, ok := range all {
		if ok {
			n++
		}
	}
	return float64(n) / float64(len(all))
}

// mayMissAbove is the share of predictions of such prompts whose completions are to be above the band.
func (j *job) mayMissAbove() float64 {
	switch {
	case j.batch:
		return missBatch
	case len(j.server.gpu.servers) > 1:
		return missShared
	}
	return missAbove
}
