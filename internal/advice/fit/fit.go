// SPDX-License-Identifier: Apache-2.0

// Package fit learns how a cost, as the time or the memory of a prompt, depends on its size. It
// has no clock and makes no assumption on the form: of a few forms it chooses the one with the
// least error on samples that it was not fitted to.
package fit

import (
	"math"
	"slices"
)

// Size is what a cost may depend on.
type Size struct {
	// Pixels is the square of the longer side, Batch the images, Steps the steps; at least 1 each.
	Pixels, Batch, Steps float64
}

// Or has the larger one of each part.
func (s Size) Or(o Size) Size {
	return Size{max(s.Pixels, o.Pixels), max(s.Batch, o.Batch), max(s.Steps, o.Steps)}
}

// Sample is the cost of one prompt.
type Sample struct {
	Size
	Cost float64
}

// Curve is how the cost depends on the work.
type Curve string

// The curves: a, a + b·w, a·w^b.
const (
	Constant Curve = "constant"
	Linear   Curve = "linear"
	Power    Curve = "power"
)

// Form is a curve and what counts as work: the pixels, times the batch, times the steps.
type Form struct {
	Curve        Curve
	Batch, Steps bool
}

// String names the form, for example linear(pixels*batch).
func (f Form) String() string {
	work := "pixels"
	if f.Batch {
		work += "*batch"
	}
	if f.Steps {
		work += "*steps"
	}
	if f.Curve == Constant {
		return string(f.Curve)
	}
	return string(f.Curve) + "(" + work + ")"
}

func (f Form) work(s Size) float64 {
	w := s.Pixels / 1e6
	if f.Batch {
		w *= s.Batch
	}
	if f.Steps {
		w *= s.Steps
	}
	return w
}

// forms are the candidates, the simpler ones first.
var forms = []Form{
	{Curve: Constant},
	{Linear, false, false}, {Linear, true, false}, {Linear, false, true}, {Linear, true, true},
	{Power, false, false}, {Power, true, false}, {Power, false, true}, {Power, true, true},
}

// Model predicts costs. The zero value predicts nothing.
type Model struct {
	Form Form
	// A and B are the curve's coefficients, of work in megapixels.
	A, B float64
	// Samples is how many it was made from, Error the median of the relative errors on samples
	// that it was not fitted to.
	Samples int
	Error   float64
	// Largest is the largest work that was seen, LargestSize the largest of each part of a size.
	Largest     float64
	LargestSize Size
	// ratios are the costs of samples divided by their predictions by a fit without them, in
	// ascending order.
	ratios []float64
	// mean and deviation are those of the ratios.
	mean, deviation float64
	// usualMean and usualDeviation are those of the ratios without rare ones.
	usualMean, usualDeviation float64
}

const (
	// folds is in how many parts the samples are divided: each is predicted from the others.
	folds = 5
	// minFolded is from how many samples on, and minForms from how many on other forms than the
	// simplest are tried.
	minFolded = 5
	minForms  = 8
	// better is how much smaller the error of a form with more parts must be.
	better = 0.9
	// extrapolated is how far beyond the largest work that was seen a model predicts.
	extrapolated = 1.2
)

// Of chooses and fits a model. The order of the samples does not matter much: each fifth is
// predicted from the others.
func Of(samples []Sample) *Model {
	if len(samples) == 0 {
		return &Model{}
	}
	best, bestError := Form{Curve: Linear}, math.Inf(1)
	switch {
	case constantSize(samples):
		best = Form{Curve: Constant}
	case len(samples) >= minForms:
		for _, f := range forms {
			if e := f.error(samples); e < bestError*better || f.Curve == Constant {
				best, bestError = f, e
			}
		}
	case !vary(samples):
		best = Form{Curve: Constant}
	default: // too few to hold any back
		power := Form{Curve: Power}
		if power.fit(samples).off(samples) < best.fit(samples).off(samples) {
			best = power
		}
	}
	m := best.fit(samples)
	for i := range samples {
		s := &samples[i]
		m.Largest = max(m.Largest, best.work(s.Size))
		m.LargestSize = m.LargestSize.Or(s.Size)
	}
	m.Samples = len(samples)
	m.calibrate(samples)
	return m
}

func constantSize(samples []Sample) bool {
	return !slices.ContainsFunc(samples, func(s Sample) bool { return s.Size != samples[0].Size })
}

// off is the mean of the relative errors on samples that the model was fitted to.
func (m *Model) off(samples []Sample) (mean float64) {
	for i := range samples {
		mean += math.Abs(samples[i].Cost-m.Predict(samples[i].Size)) / samples[i].Cost / float64(len(samples))
	}
	return mean
}

// vary reports whether sizes are so different that even a few samples say how the cost depends on
// them.
func vary(samples []Sample) bool {
	const enough = 1.5
	least, most := math.Inf(1), 0.0
	for i := range samples {
		least, most = min(least, samples[i].Pixels), max(most, samples[i].Pixels)
	}
	return most >= enough*least
}

// without are the samples that are not in a part, and those that are.
func without(samples []Sample, fold int) (others, part []Sample) {
	others, part = make([]Sample, 0, len(samples)), make([]Sample, 0, len(samples)/folds+1)
	for i := range samples {
		if i%folds == fold {
			part = append(part, samples[i])
		} else {
			others = append(others, samples[i])
		}
	}
	return others, part
}

// held calls do with each sample, and its prediction by a fit to the other parts.
func (f Form) held(samples []Sample, do func(s *Sample, predicted float64)) {
	for fold := range folds {
		others, part := without(samples, fold)
		if len(others) == 0 {
			continue
		}
		m := f.fit(others)
		for i := range part {
			do(&part[i], m.curve(f.work(part[i].Size)))
		}
	}
}

// farOff is the relative error from which on a sample is wrong: rare and slow prompts do not count for
// more.
const farOff = 0.5

// error is the mean of the relative errors. Other than the median it tells a form that is wrong for
// a few large sizes.
func (f Form) error(samples []Sample) (mean float64) {
	f.held(samples, func(s *Sample, predicted float64) {
		mean += min(math.Abs(s.Cost-predicted)/s.Cost, farOff) / float64(len(samples))
	})
	return mean
}

// calibrate compares what was seen with what was predicted without it (split-conformal, over
// the folds).
func (m *Model) calibrate(samples []Sample) {
	m.ratios = m.ratios[:0]
	if len(samples) >= minFolded {
		m.Form.held(samples, func(s *Sample, predicted float64) { m.ratios = append(m.ratios, s.Cost/predicted) })
	} else {
		for i := range samples {
			m.ratios = append(m.ratios, samples[i].Cost/m.curve(m.Form.work(samples[i].Size)))
		}
	}
	slices.Sort(m.ratios)
	sum, squares, off := 0.0, 0.0, make([]float64, 0, len(m.ratios))
	for _, r := range m.ratios {
		sum += r
		off = append(off, math.Abs(r-1))
	}
	m.mean = sum / float64(len(m.ratios))
	for _, r := range m.ratios {
		squares += (r - m.mean) * (r - m.mean)
	}
	m.deviation = math.Sqrt(squares / float64(max(len(m.ratios)-1, 1)))
	m.Error = median(off)
	m.usualMean, m.usualDeviation = m.usual(m.ratios, 1, 0)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// Knows reports whether a size is not far beyond those that were seen, in any of its parts: of what
// did not vary it is not known whether it counts.
func (m *Model) Knows(s Size) bool {
	return m.Samples > 0 && m.Nearest(s) == s && m.Form.work(s) <= extrapolated*m.Largest
}

// Nearest is a size of which each part is not far beyond those that were seen.
func (m *Model) Nearest(s Size) Size {
	return Size{min(s.Pixels, extrapolated*m.LargestSize.Pixels), min(s.Batch, extrapolated*m.LargestSize.Batch), min(s.Steps, extrapolated*m.LargestSize.Steps)}
}

// Predict is the usual cost of a size.
func (m *Model) Predict(s Size) float64 { return m.curve(m.Form.work(s)) }

// Mean is the expected cost of a size, which rare and slow prompts raise; deviation is the
// standard deviation.
func (m *Model) Mean(s Size) (mean, deviation float64) {
	usual := m.Predict(s)
	return usual * m.mean, usual * m.deviation
}

// Usual are the mean and the standard deviation of the costs of a size without rare ones.
func (m *Model) Usual(s Size) (mean, deviation float64) {
	usual := m.Predict(s)
	return usual * m.usualMean, usual * m.usualDeviation
}

// rare is the part of the samples at each end that does not count as usual.
const rare = 0.025

// usual are the mean and the deviation of ratios, without rare ones, times a cost, beyond what was
// seen of it.
func (m *Model) usual(ratios []float64, cost, seen float64) (mean, deviation float64) {
	if len(ratios) == 0 {
		return 0, 0
	}
	first := min(int(math.Ceil(rare*float64(len(m.ratios)))), (len(ratios)-1)/2)
	last := max(len(ratios)-first, first+1)
	if len(ratios) < len(m.ratios) { // those that took less are not among them
		first = 0
	}
	within := ratios[first:last]
	for _, r := range within {
		mean += r*cost - seen
	}
	mean /= float64(len(within))
	for _, r := range within {
		deviation += (r*cost - seen - mean) * (r*cost - seen - mean)
	}
	const trimmed = 1.15 // by so much the deviation is larger with the ends of a normal distribution
	return mean, trimmed * math.Sqrt(deviation/float64(len(within)))
}

// Upper is a cost that a share of prompts of a size, as 0.95, does not exceed. Of too few
// samples for so large a share it is the most that was seen.
func (m *Model) Upper(s Size, share float64) float64 {
	if len(m.ratios) == 0 {
		return 0
	}
	rank := int(math.Ceil(float64(len(m.ratios)+1) * share))
	return m.Predict(s) * m.ratios[min(max(rank, 1), len(m.ratios))-1]
}

// Remaining is the expected rest of a cost of which so much has been seen.
func (m *Model) Remaining(s Size, seen float64) (rest, deviation float64) {
	usual := m.Predict(s)
	if usual <= 0 {
		return 0, 0
	}
	from, _ := slices.BinarySearch(m.ratios, seen/usual)
	longer := m.ratios[from:]
	if len(longer) == 0 { // longer than any
		return seen / 4, seen / 4
	}
	sum, squares := 0.0, 0.0
	for _, r := range longer {
		sum += r*usual - seen
	}
	rest = sum / float64(len(longer))
	for _, r := range longer {
		squares += (r*usual - seen - rest) * (r*usual - seen - rest)
	}
	return rest, math.Sqrt(squares / float64(len(longer)))
}

// UsualRest is [Model.Remaining] without rare ones.
func (m *Model) UsualRest(s Size, seen float64) (rest, deviation float64) {
	usual := m.Predict(s)
	if usual <= 0 {
		return 0, 0
	}
	from, _ := slices.BinarySearch(m.ratios, seen/usual)
	if longer := m.ratios[from:]; len(longer) > 0 {
		return m.usual(longer, usual, seen)
	}
	return seen / 4, seen / 4
}
