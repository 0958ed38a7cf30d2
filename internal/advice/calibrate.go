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
	off     []float64 // the last of them, in the order of time
	sorted  []float64
	covered int // of all, within the band
	all     int
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
			c = &calibration{}
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
	c.all++
	if actual >= p.low && actual <= p.high {
		c.covered++
	}
}

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

// tail is the share of the errors beyond each side of a band of 90 %. It is less than 5 %, since
// errors come together: one slow prompt delays all that wait.
const tail = 0.03

// band is the 90 % band of a completion.
func (c *calibration) band(completion, deviation float64) (low, high float64) {
	low = completion + c.quantile(tail, -normal95)*deviation
	high = completion + c.quantile(1-tail, normal95)*deviation
	return max(low, 0), max(high, low)
}
