// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math"
	"net/http"
	"slices"
	"time"
)

// Figures are those of a run, as parts of 1 unless they say otherwise.
type Figures struct {
	// Useful is the exclusive GPU time of prompts whose image reached the client within its limit,
	// Dead the GPU time of those whose client had given up or that failed; both of capacity.
	Useful, Dead float64
	// Core and Batch are the parts of each class's clients that got their image within their limit,
	// from the first try, retries included. NaN where none came.
	Core, Batch float64
	// BatchOfRest is batch's useful time, of what core's leaves of capacity.
	BatchOfRest float64
	// OutOfMemory is the part of the prompts with an end that ran out of memory.
	OutOfMemory float64
	// Idle is the time that the GPU had nothing to do though something that fits was held, or was
	// refused and waited.
	Idle float64
	// DrainError is the 95th percentile, over the refusals with a predicted wait, of how far it was
	// from the time until all that the server had accepted by then had ended: relative to that time,
	// or 0 where it is off by 2 s or less. NaN where there is none.
	DrainError float64
	// CoreCovered and BatchCovered are the parts of each class's prompts that ended within the band
	// that was predicted; CoreCoveredMax and BatchCoveredMax are the same, for which the largest is the
	// worst. NaN where none was predicted.
	CoreCovered, BatchCovered, CoreCoveredMax, BatchCoveredMax float64
	// CoreWidth is the median width of core's bands, relative to the predicted median, where that is at
	// least 10 s. NaN where there is none.
	CoreWidth float64
	// CoreWidths is how many bands that is the median of.
	CoreWidths float64
	// Retries are the tries after the first, per client.
	Retries float64
	// FirstRetry is the part of the refused clients that tried again whose first retry was accepted.
	FirstRetry float64
}

// drainMargin is the error of a predicted wait that is not counted.
const drainMargin = 2 * time.Second

// Figures computes them.
func (r *Result) Figures() Figures {
	end := r.Begin.Add(r.Plan.Lasts)
	offered := r.Capacity * r.Plan.Lasts.Seconds()
	var f Figures
	var useful, got, came [2]float64
	retries, retried, first, ended, short := 0, 0, 0, 0, 0
	for _, c := range r.Records {
		if c.At <= r.Plan.Lasts {
			came[c.Class]++
			if c.Got {
				got[c.Class]++
			}
			retries += c.retries()
			if len(c.Refusals) > 0 && c.retries() > 0 {
				retried++
				if len(c.Refusals) == 1 {
					first++
				}
			}
		}
		if c.Got && !c.Left.After(end) {
			useful[c.Class] += c.Worked.Exclusive.Seconds()
		}
		if c.Ended.IsZero() || c.Ended.After(end) {
			continue
		}
		ended++
		if c.Worked.OutOfMemory {
			short++
		}
		if !c.Worked.Made || !c.Got && c.Left.Before(c.Ended) {
			f.Dead += c.Worked.Exclusive.Seconds() / offered
		}
	}
	f.Useful = (useful[0] + useful[1]) / offered
	f.BatchOfRest = useful[1] / (offered - useful[0])
	f.Core, f.Batch = got[0]/came[0], got[1]/came[1]
	f.OutOfMemory = float64(short) / float64(ended)
	f.Idle = r.Idle.Seconds() / r.Plan.Lasts.Seconds()
	f.Retries = float64(retries) / (came[0] + came[1])
	f.FirstRetry = float64(first) / float64(retried)
	f.DrainError = r.drainError()
	f.CoreCovered, f.BatchCovered = r.covered(0), r.covered(1)
	f.CoreCoveredMax, f.BatchCoveredMax = f.CoreCovered, f.BatchCovered
	f.CoreWidth, f.CoreWidths = r.coreWidth()
	return f
}

// covered is the part of a class's prompts that ended within their band.
func (r *Result) covered(class int) float64 {
	covered, all := 0.0, 0.0
	for _, c := range r.Records {
		if c.Class != class || c.PredictedAt.IsZero() || c.Ended.IsZero() {
			continue
		}
		all++
		if took := c.Ended.Sub(c.PredictedAt); took >= c.Predicted.Low && took <= c.Predicted.High {
			covered++
		}
	}
	return covered / all
}

// wideFrom is the prediction from which on the width of its band counts.
const wideFrom = 10 * time.Second

// coreWidth is [Figures.CoreWidth], and of how many.
func (r *Result) coreWidth() (median, of float64) {
	var widths []float64
	for _, c := range r.Records {
		if c.Class == 0 && c.Predicted.Median >= wideFrom {
			widths = append(widths, (c.Predicted.High-c.Predicted.Low).Seconds()/c.Predicted.Median.Seconds())
		}
	}
	if len(widths) == 0 {
		return math.NaN(), 0
	}
	slices.Sort(widths)
	return widths[len(widths)/2], float64(len(widths))
}

// retries are the client's tries after the first: it leaves after a refusal that it does not try again.
func (c *Record) retries() int {
	if c.Accepted.IsZero() {
		return max(len(c.Refusals)-1, 0)
	}
	return len(c.Refusals)
}

// drainError is [Figures.DrainError].
func (r *Result) drainError() float64 {
	var errors []float64
	for _, c := range r.Records {
		for _, refused := range c.Refusals {
			if !refused.Predicted {
				continue
			}
			drained, known := r.drained(c.Server, refused.At)
			if !known {
				continue
			}
			off := (refused.Wait - drained).Abs()
			if off <= drainMargin {
				errors = append(errors, 0)
			} else {
				errors = append(errors, off.Seconds()/drained.Seconds())
			}
		}
	}
	if len(errors) == 0 {
		return math.NaN()
	}
	slices.Sort(errors)
	return errors[int(0.95*float64(len(errors)-1))]
}

// drained is the time until all that a server had accepted at a time had ended. It is not known if
// the run ended before that.
func (r *Result) drained(server int, at time.Time) (drained time.Duration, known bool) {
	for _, c := range r.Records {
		if c.Server != server || c.Accepted.IsZero() || c.Accepted.After(at) {
			continue
		}
		if c.Ended.IsZero() {
			return 0, false
		}
		drained = max(drained, c.Ended.Sub(at))
	}
	return drained, true
}

// FalseRefusals is the part of the clients that were refused, or held beyond their deadline, and
// that got their image in time in the run of the same seed without response. A batch prompt whose
// image still came in time by a later try is none.
func FalseRefusals(with, without *Result) float64 {
	got := map[string]bool{}
	for _, c := range without.Records {
		got[c.ID] = c.Got
	}
	wrong, all := 0, 0
	for _, c := range with.Records {
		if c.At > with.Plan.Lasts {
			continue
		}
		all++
		held := c.Accepted.IsZero() && len(c.Refusals) == 0
		wasRefused := held || len(c.Refusals) > 0 && (c.Class == 0 || !c.Got)
		if wasRefused && got[c.ID] {
			wrong++
		}
	}
	return float64(wrong) / float64(all)
}

// BurstRetries are the parts of the burst's refused clients that were accepted at their first retry,
// and at the third or before.
func (r *Result) BurstRetries() (refused int, first, third float64) {
	for _, c := range r.Records {
		if !c.Burst || len(c.Refusals) == 0 {
			continue
		}
		refused++
		if c.Accepted.IsZero() {
			continue
		}
		if len(c.Refusals) == 1 {
			first++
		}
		if len(c.Refusals) <= 3 {
			third++
		}
	}
	return refused, first / float64(refused), third / float64(refused)
}

// neverFits reports whether a client was refused for good.
func (c *Record) neverFits() bool {
	return slices.ContainsFunc(c.Refusals, func(r Refused) bool { return r.Status == http.StatusBadRequest })
}
