// SPDX-License-Identifier: Apache-2.0

package fit

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// drawn are n samples of a law with noise; a share of them costs so many times as much.
func drawn(n int, seed uint64, noise, share, times float64, law func(Size) float64) []Sample {
	r := rand.New(rand.NewPCG(seed, 1))
	all := make([]Sample, n)
	for i := range all {
		side := float64(300 + r.IntN(1000))
		s := Size{Pixels: side * side, Batch: float64(1 + r.IntN(4)), Steps: float64(10 + 5*r.IntN(5))}
		cost := law(s) * math.Exp(noise*r.NormFloat64())
		if r.Float64() < share {
			cost *= times
		}
		all[i] = Sample{s, cost}
	}
	return all
}

func TestTheFormIsChosenByWhatItPredicts(t *testing.T) {
	for name, law := range map[string]struct {
		want Form
		of   func(Size) float64
	}{
		"constant":                          {Form{Curve: Constant}, func(Size) float64 { return 4 }},
		"linear in the pixels":              {Form{Curve: Linear}, func(s Size) float64 { return 1 + 2.5*s.Pixels/1e6 }},
		"linear in pixels and batch":        {Form{Linear, true, false}, func(s Size) float64 { return 0.5 + 2*s.Pixels/1e6*s.Batch }},
		"linear in pixels, batch and steps": {Form{Linear, true, true}, func(s Size) float64 { return 2 + 0.3*s.Pixels/1e6*s.Batch*s.Steps }},
		"a power of the pixels":             {Form{Curve: Power}, func(s Size) float64 { return 3 * math.Pow(s.Pixels/1e6, 1.8) }},
	} {
		t.Run(name, func(t *testing.T) {
			right := 0
			const seeds = 10
			for seed := range uint64(seeds) {
				m := Of(drawn(100, seed, 0.05, 0.01, 3, law.of))
				if m.Form == law.want {
					right++
				}
				for _, side := range []float64{320, 800, 1280} {
					s := Size{side * side, 2, 20}
					assert.InEpsilon(t, law.of(s), m.Predict(s), 0.08, "side %v, %+v", side, m.Form)
				}
			}
			assert.GreaterOrEqual(t, right, seeds*7/10)
		})
	}
}

// TestBoundsCoverWhatTheyPromise: of prompts that the model has not seen, and 1 % of which cost
// 15 % more.
func TestBoundsCoverWhatTheyPromise(t *testing.T) {
	law := func(s Size) float64 { return 1 + 2.5*s.Pixels/1e6 }
	for _, c := range []struct {
		samples      int
		share, least float64
	}{{20, 0.95, 0.89}, {40, 0.95, 0.93}, {200, 0.95, 0.935}, {200, 0.99, 0.97}} {
		covered, all := 0, 0
		for seed := range uint64(40) {
			m := Of(drawn(c.samples, seed, 0.03, 0.01, 1.15, law))
			for _, s := range drawn(200, 1000+seed, 0.03, 0.01, 1.15, law) {
				if all++; s.Cost <= m.Upper(s.Size, c.share) {
					covered++
				}
			}
		}
		assert.GreaterOrEqual(t, float64(covered)/float64(all), c.least, "%+v", c)
	}
}

func TestFewSamples(t *testing.T) {
	var none Model
	assert.False(t, none.Knows(Size{1, 1, 1}))
	assert.Zero(t, none.Upper(Size{1, 1, 1}, 0.95))
	s := Size{500 * 500, 1, 1}
	m := Of([]Sample{{s, 3}})
	assert.InDelta(t, 3, m.Predict(s), 1e-9)
	assert.InDelta(t, 3, m.Upper(s, 0.99), 1e-9)
	m = Of([]Sample{{s, 3}, {s, 3.3}, {s, 2.9}})
	assert.InDelta(t, 3, m.Predict(s), 1e-9)
	assert.InDelta(t, 3.3, m.Upper(s, 0.99), 1e-9, "the most that was seen")
}

func TestSizesBeyondTheLargestAreNotKnown(t *testing.T) {
	m := Of(drawn(50, 1, 0.03, 0, 1, func(s Size) float64 { return 1 + 2.5*s.Pixels/1e6 }))
	largest := m.Largest * 1e6
	assert.True(t, m.Knows(Size{largest * 1.19, 1, 1}))
	assert.False(t, m.Knows(Size{largest * 1.21, 1, 1}))
}

func TestTheRestOfWhatRunsLong(t *testing.T) {
	s := Size{1e6, 1, 1}
	samples := make([]Sample, 100)
	for i := range samples {
		samples[i] = Sample{s, 2}
	}
	samples[0].Cost, samples[1].Cost = 6, 6 // three times as long
	m := Of(samples)
	rest, _ := m.Remaining(s, 0)
	assert.InDelta(t, 2.08, rest, 1e-9, "the mean")
	rest, _ = m.Remaining(s, 1.5)
	assert.InDelta(t, 0.58, rest, 1e-9)
	rest, _ = m.Remaining(s, 3)
	assert.InDelta(t, 3, rest, 1e-9, "one of those that take three times as long")
	rest, deviation := m.Remaining(s, 8)
	assert.Positive(t, rest)
	assert.Positive(t, deviation)
	mean, deviation := m.Mean(s)
	assert.InDelta(t, 2.08, mean, 1e-9)
	assert.InDelta(t, 0.5629, deviation, 1e-3)
}

func FuzzOf(f *testing.F) {
	f.Add(uint64(1), uint8(40), 1.0, 3.0)
	f.Add(uint64(2), uint8(1), 1e-12, 1e12)
	f.Fuzz(func(t *testing.T, seed uint64, n uint8, low, high float64) {
		if !(low > 1e-15 && high < 1e15 && low < high) {
			return
		}
		r := rand.New(rand.NewPCG(seed, 2))
		samples := make([]Sample, n)
		for i := range samples {
			side := float64(1 + r.IntN(9000))
			samples[i] = Sample{Size{side * side, float64(1 + r.IntN(64)), float64(1 + r.IntN(200))}, low + (high-low)*r.Float64()}
		}
		m := Of(samples)
		for i := range samples {
			p := m.Predict(samples[i].Size)
			assert.False(t, math.IsNaN(p) || math.IsInf(p, 0) || p < 0, "%v", p)
			assert.False(t, math.IsNaN(m.Upper(samples[i].Size, 0.99)))
		}
	})
}

func TestUsualCostsAreThoseWithoutRareOnes(t *testing.T) {
	var samples []Sample
	for i := range 200 {
		cost := 2 + 0.2*math.Sin(float64(i)) // a deviation of 0.14
		if i%100 == 7 {
			cost *= 3
		}
		samples = append(samples, Sample{Size{1e6, 1, 1}, cost})
	}
	m := Of(samples)
	mean, deviation := m.Mean(samples[0].Size)
	usual, spread := m.Usual(samples[0].Size)
	assert.InDelta(t, 2.04, mean, 0.02)
	assert.InDelta(t, 0.42, deviation, 0.05)
	assert.InDelta(t, 2, usual, 0.02)
	assert.InDelta(t, 0.14, spread, 0.03)
	rest, _ := m.UsualRest(samples[0].Size, 1)
	assert.InDelta(t, 1, rest, 0.03)
	rest, _ = m.UsualRest(samples[0].Size, 2.5)
	assert.InDelta(t, 3.6, rest, 0.4, "it is one of the rare ones")
	rest, spread = m.UsualRest(samples[0].Size, 20)
	assert.InDelta(t, 5, rest, 0.01, "longer than any")
	assert.InDelta(t, 5, spread, 0.01)
}
