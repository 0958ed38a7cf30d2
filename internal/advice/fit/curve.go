// SPDX-License-Identifier: Apache-2.0

package fit

import (
	"math"
	"slices"
)

func (m *Model) curve(work float64) float64 {
	switch m.Form.Curve {
	case Constant:
		return m.A
	case Power:
		return m.A * math.Pow(work, m.B)
	}
	return max(m.A+m.B*work, least)
}

// least keeps predictions positive: costs are divided by them.
const least = 1e-9

// fit fits a form's coefficients to the relative errors, so that a few samples that are far
// off count little (iteratively reweighted, Huber's weights).
func (f Form) fit(samples []Sample) *Model {
	m := &Model{Form: f}
	switch f.Curve {
	case Constant:
		costs := make([]float64, len(samples))
		for i := range samples {
			costs[i] = samples[i].Cost
		}
		m.A = median(costs)
	case Linear:
		m.A, m.B = robust(samples, f.work, func(s *Sample) (y, weight float64) { return s.Cost, 1 / (s.Cost * s.Cost) })
		if m.A < 0 || m.B < 0 { // no cost falls with the work
			m.A, m.B = max(m.A, 0), max(m.B, 0)
			m.scale(samples)
		}
	case Power:
		logWork := func(s Size) float64 { return math.Log(f.work(s)) }
		a, b := robust(samples, logWork, func(s *Sample) (y, weight float64) { return math.Log(s.Cost), 1 })
		m.A, m.B = math.Exp(a), max(b, 0)
		if b < 0 {
			m.scale(samples)
		}
	}
	return m
}

// scale makes the median of the relative errors 0.
func (m *Model) scale(samples []Sample) {
	ratios := make([]float64, len(samples))
	for i := range samples {
		ratios[i] = samples[i].Cost / max(m.curve(m.Form.work(samples[i].Size)), least)
	}
	by := median(ratios)
	m.A *= by
	if m.Form.Curve == Linear {
		m.B *= by
	}
}

const (
	rounds = 8
	// hubers is from how many deviations on a sample counts less.
	hubers = 1.345
)

// robust fits y = a + b·x.
func robust(samples []Sample, x func(Size) float64, of func(*Sample) (y, weight float64)) (a, b float64) {
	trust := make([]float64, len(samples))
	for i := range trust {
		trust[i] = 1
	}
	off := make([]float64, len(samples))
	for range rounds {
		var sum, sumX, sumY, sumXX, sumXY float64
		for i := range samples {
			y, w := of(&samples[i])
			w *= trust[i]
			v := x(samples[i].Size)
			sum, sumX, sumY, sumXX, sumXY = sum+w, sumX+w*v, sumY+w*y, sumXX+w*v*v, sumXY+w*v*y
		}
		spread := sum*sumXX - sumX*sumX
		if spread <= 1e-12*sum*sumXX { // one size
			a, b = sumY/sum, 0
		} else {
			b = (sum*sumXY - sumX*sumY) / spread
			a = (sumY - b*sumX) / sum
		}
		for i := range samples {
			y, w := of(&samples[i])
			off[i] = math.Abs(y-a-b*x(samples[i].Size)) * math.Sqrt(w)
		}
		deviation := median(slices.Clone(off)) / 0.6745
		if deviation < 1e-12 {
			return a, b
		}
		for i := range samples {
			trust[i] = min(1, hubers*deviation/max(off[i], 1e-300))
		}
	}
	return a, b
}
