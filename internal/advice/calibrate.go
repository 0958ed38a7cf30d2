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
}

// calibration compares predictions of a class with what happened: how many deviations the
// completions were off. What is not modelled, as prompts that come later and precede, is in it.
type calibration struct {
	off    []float64 // the last of them, in the order of time
	sorted []float64
	// beyond is the share of the completions that the next band is to miss: a little more after one
	// that was in its band, a little less after one that was not, so that on average a tenth is
	// missed whatever was modelled wrongly (adaptive conformal inference).
	beyond float64
}

const (
	maxOff = 200
	// minOff is from how many predictions on their errors count.
	minOff = 40
)

// calibrationOf is a class's. Beyond the bound, all others share one.
func (e *Engine) calibrationOf(class string) *calibration {
	c := e.classes[class]
	if c == nil {
		if len(e.classes) >= maxClasses-1 {
			class = ""
		}
		if c = e.classes[class]; c == nil {
			c = &calibration{beyond: miss}
			e.classes[class] = c
		}
	}
	return c
}

func (c *calibration) add(p prediction, ended time.Time) {
	actual := ended.Sub(p.at).Seconds()
	c.off = append(c.off, (actual-p.completion)/max(p.deviation, 1e-3))
	c.off = c.off[max(len(c.off)-maxOff, 0):]
	c.sorted = append(c.sorted[:0], c.off...)
	slices.Sort(c.sorted)
	change := miss
	if actual < p.low || actual > p.high {
		change--
	}
	c.beyond = min(max(c.beyond+pace*change, minMiss), maxMiss)
}

const (
	// miss is the share of completions that are not in their bands, a little less than a tenth, since
	// errors come together; pace is how fast bands follow.
	miss, pace = 0.08, 0.05
	// The least and the largest share that a single band may miss.
	minMiss, maxMiss = 0.02, 0.3
)

// missed is the share of completions that the next band is to miss.
func (c *calibration) missed() float64 { return c.beyond }

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
	normal95 = 1.645
	normal99 = 2.326
)

// band is the 90 % band of a completion: the narrowest that had so many of the last errors within it.
// Most are small, and a few are large and all of one sign, since one slow prompt delays all that wait.
func (c *calibration) band(completion, deviation float64) (low, high float64) {
	n := len(c.sorted)
	from, to := -normal95, normal95
	if n >= minOff {
		within := min(int(math.Ceil(float64(n+1)*(1-c.beyond))), n)
		from, to = c.sorted[0], c.sorted[n-1]
		for i := 0; i+within <= n; i++ {
			if a, b := c.sorted[i], c.sorted[i+within-1]; b-a < to-from {
				from, to = a, b
			}
		}
	}
	low, high = completion+from*deviation, completion+to*deviation
	return max(low, 0), max(high, low)
}
