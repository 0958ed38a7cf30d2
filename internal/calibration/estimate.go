// SPDX-License-Identifier: Apache-2.0

package calibration

import (
	"errors"
	"math"
	"slices"
	"time"
)

// Reading is one reading of a GPU while a load is switched on and off. Times are in ns.
type Reading struct {
	At     int64
	Joules float64 // the counter
	Watts  float64 // the instant power; 0 if there is none
}

// Interval is a time in which the load was on, in ns.
type Interval struct{ From, To int64 }

const (
	// minSteps is how many steps of the counter are needed.
	minSteps = 100
	// maxLag is the longest lag that is searched for, maxRamp the longest time in which the
	// power follows the load.
	maxLag  = 250 * time.Millisecond
	maxRamp = 40 * time.Millisecond
)

// Estimate finds a counter's period, lag and share of the time sampled from readings that
// are much closer than its steps, while a load is a square wave of several periods. It
// assumes that a counter that samples a part of each step samples the last part.
func Estimate(on []Interval, readings []Reading) (Counter, error) {
	steps := stepsOf(readings)
	if len(steps) < minSteps {
		return Counter{}, errors.New("the energy counter did not rise often enough: is the load on the GPU?")
	}
	c := Counter{Share: 1, Ratio: ratioOf(readings)}
	period := periodOf(steps)
	interval := float64(readings[len(readings)-1].At-readings[0].At) / float64(len(readings)-1)
	if period > 2*interval {
		c.Period = time.Duration(period).Round(100 * time.Microsecond)
		steps = joinSteps(steps, period)
	} else {
		steps = thin(steps, 20*time.Millisecond.Nanoseconds())
	}
	references := []reference{}
	if power := newPower(readings); power != nil {
		references = append(references, power)
	} else {
		for ramp := time.Duration(0); ramp <= maxRamp; ramp += maxRamp / 8 {
			references = append(references, newLoad(on, ramp.Nanoseconds()))
		}
	}
	best := math.Inf(1)
	try := func(r reference, lag int64, share float64) {
		if off := misfit(r, steps, lag, share); off < best*0.999 { // the simpler of two that fit alike
			best, c.Lag, c.Share = off, time.Duration(lag), math.Round(100*share)/100
		}
	}
	const ms = int64(time.Millisecond)
	for _, r := range references {
		for lag := int64(0); lag <= maxLag.Nanoseconds(); lag += 4 * ms {
			for share := 1.0; share > 0.04; share -= 0.05 {
				if try(r, lag, share); c.Period == 0 {
					break
				}
			}
		}
	}
	return c, nil
}

// stepAt is a step of the counter: when it came, and the counter after it.
type stepAt struct {
	at     int64
	joules float64
}

// stepsOf are the changes of the counter, each in the middle of the two readings.
func stepsOf(readings []Reading) (all []stepAt) {
	for i := 1; i < len(readings); i++ {
		if a, b := &readings[i-1], &readings[i]; b.Joules != a.Joules {
			all = append(all, stepAt{(a.At + b.At) / 2, b.Joules})
		}
	}
	return all
}

// periodOf is the usual distance of two steps: the mean over all, in which missed ones
// count as several.
func periodOf(steps []stepAt) float64 {
	distances := make([]float64, 0, len(steps))
	for i := 1; i < len(steps); i++ {
		distances = append(distances, float64(steps[i].at-steps[i-1].at))
	}
	sorted := slices.Sorted(slices.Values(distances))
	usual := sorted[len(sorted)/2]
	n := 0.0
	for _, d := range distances {
		n += max(math.Round(d/usual), 1)
	}
	return float64(steps[len(steps)-1].at-steps[0].at) / n
}

// joinSteps leaves out steps that are no whole period after the one before, and puts the
// others on the grid of the period that fits them best.
func joinSteps(steps []stepAt, period float64) []stepAt {
	out := steps[:1]
	for _, s := range steps[1:] {
		if float64(s.at-out[len(out)-1].at) > period/2 {
			out = append(out, s)
		}
	}
	first, n := out[0].at, float64(len(out))
	var k, kk, y, ky float64
	for _, s := range out {
		i, at := math.Round(float64(s.at-first)/period), float64(s.at-first)
		k, kk, y, ky = k+i, kk+i*i, y+at, ky+i*at
	}
	exact := (n*ky - k*y) / (n*kk - k*k)
	phase := (y - exact*k) / n
	for i := range out {
		out[i].at = first + int64(phase+exact*math.Round(float64(out[i].at-first)/period))
	}
	return out
}

// thin keeps steps that are some time apart.
func thin(steps []stepAt, apart int64) []stepAt {
	out := steps[:1]
	for _, s := range steps[1:] {
		if s.at-out[len(out)-1].at >= apart {
			out = append(out, s)
		}
	}
	return out
}

// ratioOf is the counter's rise divided by the integrated instant power; 0 without it.
func ratioOf(readings []Reading) float64 {
	integral := 0.0
	for i := 1; i < len(readings); i++ {
		a, b := &readings[i-1], &readings[i]
		integral += (a.Watts + b.Watts) / 2 * float64(b.At-a.At) / 1e9
	}
	if integral <= 0 {
		return 0
	}
	return math.Round(1000*(readings[len(readings)-1].Joules-readings[0].Joules)/integral) / 1000
}

// reference is the work up to a time, in any unit times ns, as it is known without the counter.
type reference interface{ until(at int64) float64 }

// fresh is the age up to which instant power shows when the load began and ended.
const fresh = 25 * time.Millisecond

// power is the integrated instant power.
type power struct {
	readings []Reading
	sums     []float64 // up to each reading
	age      int64     // of a reading, on average
}

// newPower integrates instant power; nil if there is none, or if it is not fresh.
func newPower(readings []Reading) *power {
	p := &power{readings: readings, sums: make([]float64, len(readings))}
	changes := 0
	for i := 1; i < len(readings); i++ {
		a, b := &readings[i-1], &readings[i]
		p.sums[i] = p.sums[i-1] + (a.Watts+b.Watts)/2*float64(b.At-a.At)
		if a.Watts != b.Watts {
			changes++
		}
	}
	if changes == 0 {
		return nil
	}
	refresh := (readings[len(readings)-1].At - readings[0].At) / int64(changes)
	if refresh > fresh.Nanoseconds() {
		return nil
	}
	p.age = refresh / 2
	return p
}

func (p *power) until(at int64) float64 {
	at += p.age
	i, _ := slices.BinarySearchFunc(p.readings, at, func(r Reading, at int64) int { return int(min(max(r.At-at, -1), 1)) })
	if i == 0 || i == len(p.readings) {
		return p.sums[min(i, len(p.sums)-1)]
	}
	a, b := &p.readings[i-1], &p.readings[i]
	return p.sums[i-1] + (p.sums[i]-p.sums[i-1])*float64(at-a.At)/float64(b.At-a.At)
}

// load is for how long the load was on, where the power rises and falls in a ramp.
type load struct {
	on   []Interval
	sum  []float64 // up to the begin of each
	ramp int64
}

func newLoad(on []Interval, ramp int64) *load {
	l := &load{on: on, ramp: ramp}
	total := 0.0
	for _, w := range on {
		l.sum = append(l.sum, total)
		total += l.within(w, w.To)
	}
	return l
}

// within is the part of one interval up to a time.
func (l *load) within(w Interval, at int64) float64 {
	x, length, ramp := float64(min(at, w.To)-w.From), float64(w.To-w.From), float64(min(l.ramp, (w.To-w.From)/2))
	switch {
	case ramp == 0:
		return x
	case x < ramp:
		return x * x / (2 * ramp)
	case x < length-ramp:
		return x - ramp/2
	}
	return length - ramp - (length-x)*(length-x)/(2*ramp)
}

func (l *load) until(at int64) float64 {
	i, _ := slices.BinarySearchFunc(l.on, at, func(w Interval, at int64) int {
		if w.From <= at {
			return -1
		}
		return 1
	})
	if i == 0 {
		return 0
	}
	return l.sum[i-1] + l.within(l.on[i-1], at)
}

// misfit is how far the counter's steps are from those of one with a lag that samples a
// share of each step, with the powers at rest and under load that fit best to the reference.
func misfit(l reference, steps []stepAt, lag int64, share float64) float64 {
	var n, x, xx, y, xy, yy float64
	for i := 1; i < len(steps); i++ {
		from, to := steps[i-1].at-lag, steps[i].at-lag
		seconds := float64(to-from) / 1e9
		sampled := int64(share * float64(to-from))
		part := (l.until(to) - l.until(to-sampled)) / float64(sampled)
		watts := (steps[i].joules - steps[i-1].joules) / seconds
		n, x, xx = n+1, x+part, xx+part*part
		y, xy, yy = y+watts, xy+part*watts, yy+watts*watts
	}
	d := n*xx - x*x
	if d < 1e-9 {
		return math.Inf(1)
	}
	b := (n*xy - x*y) / d
	a := (y - b*x) / n
	return yy - a*y - b*xy
}
