// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"math"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// EnergySettings say how energy is read and what it is compared with.
type EnergySettings struct {
	// Gain is the counter's energy divided by that of a meter at the wall or at the GPU's
	// supply; figures are divided by it. 1, and 0, is what nobody measured.
	Gain float64
	// RestPower is the power of a GPU on which nothing runs, in W; 0 if it is to be measured.
	RestPower float64
	// Calibrated are the counters that were measured, by hw.id or hw.model. It is not changed.
	Calibrated map[string]Calibration
}

// Calibration is what was measured of a kind of counter. Its period is learned from the readings.
type Calibration struct {
	Lag   time.Duration
	Share float64
}

// gainUncertainty is the relative uncertainty of a counter that nobody compared with a
// meter.
const gainUncertainty = 0.05

// defaultMaxWatts is more than any GPU's power limit.
const defaultMaxWatts = 1500

func (s *EnergySettings) reading(t *gputimeline.Timeline) *gputimeline.Reading {
	r := &gputimeline.Reading{MaxWatts: cmp.Or(t.MaxWatts, defaultMaxWatts)}
	r.Rest, r.RestKnown = s.rest(t)
	c, ok := s.Calibrated[t.ID]
	if !ok && t.Model != "" {
		c, ok = s.Calibrated[t.Model]
	}
	if ok {
		r.Lag, r.Share, r.Calibrated = c.Lag, c.Share, true
	}
	return r
}

// rest is the power at rest of a GPU.
func (s *EnergySettings) rest(t *gputimeline.Timeline) (watts float64, ok bool) {
	if s.RestPower > 0 {
		return s.RestPower, true
	}
	return t.Rest.Watts()
}

// settling is how long after a time the GPU's energy and memory in it are known.
func (g *gpu) settling() int64 {
	d := g.Settling()
	if len(g.ProcessUse) > 1 { // their next sample says how to divide it
		d = max(d, gputimeline.Margin-100*time.Millisecond.Nanoseconds())
	}
	return max(d, g.memorySettling())
}

// energyBill is what one span's time on a GPU came to in energy. Pointers are nil where it
// is not known.
type energyBill struct {
	energy      *float64 // J, divided among those that used the GPU
	marginal    *float64 // J, the same without the power at rest
	uncertainty float64  // J, half of an interval that holds the truth nine times of ten
	measured    bool     // the gain by which it was divided was
	rest        float64  // W
	restMemory  float64  // By, in use when that was measured
	method      string
	division    string
	reason      string // why it is absent or an estimate
	noRest      bool   // marginal is absent because the power at rest is not known
}

// ninety is the half-width of a 90 % interval in standard deviations.
const ninety = 1.65

// reasons for energy that is absent.
const (
	reasonMIG    = "mig"     // a GPU's energy is that of all its instances
	reasonNoRest = "no_rest" // the GPU was never seen without work
)

// energyOf adds up the energy of windows.
func energyOf(v *view, intervals []gputimeline.Interval, late gputimeline.Lateness, s *EnergySettings) energyBill {
	b := energyBill{division: divisionAlone}
	if v.curve == nil {
		if gpuname.IsMIG(v.ID) {
			b.reason = reasonMIG
		}
		return b
	}
	b.method = v.curve.Method
	watts, restKnown := s.rest(v.Timeline)
	var joules, marginal, variance, doubt float64
	var known int64
	for _, w := range intervals {
		b.reason = cmp.Or(b.reason, v.curve.Reason(w))
		energy, above, length := 0.0, 0.0, 0.0
		for _, p := range v.sharesWithin(w) {
			part, _ := w.Clip(p.Interval)
			j, seen := v.curve.Joules(part)
			known += seen
			seconds := float64(seen) / 1e9
			rest := watts * seconds
			own := (j - rest) * p.weight
			marginal += own
			if p.weight > 0 {
				own += rest / float64(p.n)
			}
			joules += own
			energy += j
			above += (j - rest) * p.weight
			length += seconds
			b.division = coarser(b.division, p.division)
			doubt += p.doubt * math.Abs(j-rest)
		}
		part := 1.0 // of the GPU's energy that is the span's
		if energy > 0 {
			part = min(max((above+watts*length*0.5)/energy, 0.2), 1)
			if b.division == divisionAlone {
				part = 1
			}
		}
		variance += v.curve.Variance(w, late) * part * part
	}
	if known == 0 && v.length(intervals) > 0 {
		return b
	}
	gain := cmp.Or(s.Gain, 1)
	joules, marginal = joules/gain, marginal/gain
	b.energy, b.measured = &joules, gain != 1
	b.uncertainty = ninety * math.Sqrt(variance+doubt*doubt) / gain
	if restKnown {
		b.marginal, b.rest, b.restMemory = &marginal, watts/gain, v.Rest.Memory()
	} else {
		b.noRest = true
	}
	return b
}

func (v *view) length(intervals []gputimeline.Interval) (sum int64) {
	for _, w := range intervals {
		sum += w.Length()
	}
	return sum
}

// lessExact is the method of two that says less.
func lessExact(a, b string) string {
	rank := map[string]int{gputimeline.MethodCounter: 1, gputimeline.MethodInstant: 2, gputimeline.MethodAverage: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// coarser is the division of two that says less.
func coarser(a, b string) string {
	rank := map[string]int{divisionAlone: 0, divisionUtilization: 1, divisionEven: 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
