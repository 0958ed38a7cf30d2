// SPDX-License-Identifier: Apache-2.0

package law

import (
	"math"
	"time"
)

// timeLog is the normal distribution of the logarithm of a prompt's time, relative to the typical
// one, outliers aside: its mean is 1, its coefficient of variation timeVariation.
var timeLog = func() (l struct{ mean, deviation float64 }) {
	variance := math.Log1p(timeVariation * timeVariation)
	l.mean, l.deviation = -variance/2, math.Sqrt(variance)
	return l
}()

// normal is the distribution function of the standard normal distribution.
func normal(x float64) float64 { return math.Erfc(-x/math.Sqrt2) / 2 }

// timeUpTo is the probability that a prompt's relative time is at most x.
func timeUpTo(x float64) float64 {
	ordinary := func(x float64) float64 { return normal((math.Log(x) - timeLog.mean) / timeLog.deviation) }
	return (1-outliers)*ordinary(x) + outliers*ordinary(x/timeOfOutliers)
}

// needUpTo is the probability that a prompt's relative need is at most x.
func needUpTo(x float64) float64 {
	ordinary := func(x float64) float64 { return normal((x - 1) / needDeviation) }
	return (1-outliers)*ordinary(x) + outliers*ordinary(x/needOfOutliers)
}

// invert finds the x between low and high at which a distribution function reaches q.
func invert(upTo func(float64) float64, q, low, high float64) float64 {
	for range 100 {
		if middle := (low + high) / 2; upTo(middle) < q {
			low = middle
		} else {
			high = middle
		}
	}
	return high
}

// MeanTime is the mean exclusive time of prompts with a load.
func (l *Law) MeanTime(w Load) time.Duration {
	return seconds(l.typicalTime(w) * (1 - outliers + outliers*timeOfOutliers))
}

// TimeQuantile is the exclusive time that a part q of the prompts with a load keep within.
func (l *Law) TimeQuantile(w Load, q float64) time.Duration {
	return seconds(l.typicalTime(w) * invert(timeUpTo, q, 0.01, 10))
}

// TimeWithin is the probability that a prompt's exclusive time is at most so long.
func (l *Law) TimeWithin(w Load, t time.Duration) float64 {
	return timeUpTo(t.Seconds() / l.typicalTime(w))
}

// NeedQuantile is the need that a part q of the prompts with a load, or more, keep within.
func (l *Law) NeedQuantile(w Load, q float64) int64 {
	return inSteps(l.typicalNeed(w) * invert(needUpTo, q, 0.01, 10))
}

// NeedWithin is the probability that a prompt's need is at most so many bytes.
func (l *Law) NeedWithin(w Load, bytes int64) float64 {
	whole := bytes / NeedStep * NeedStep // needs come in steps
	return needUpTo(float64(whole) / l.typicalNeed(w))
}
