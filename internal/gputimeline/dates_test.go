// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

const ms = int64(time.Millisecond)

// unsteady is power that is never the same twice.
func unsteady(seconds int, random *rand.Rand) *gpumodel.Signal {
	watts := make([]float64, seconds*1000)
	for i := range watts {
		watts[i] = 200 + 30*random.NormFloat64()
	}
	return gpumodel.NewSignal(watts)
}

// A counter's period is known within 3 % after 50 changes, and that of one that steps within
// a read interval is not claimed.
func TestACountersPeriodIsLearnedAndNotInvented(t *testing.T) {
	for _, period := range []time.Duration{0, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 137 * time.Millisecond, 200 * time.Millisecond} {
		for seed := range uint64(10) {
			random := rand.New(rand.NewPCG(seed, 1))
			power := unsteady(60, random)
			meter := gpumodel.NewMeter(gpumodel.Model{Counter: gpumodel.Counter{Period: period}}, power, time.Duration(random.Int64N(int64(time.Second))))
			var d dater
			changes, last := 0, 0.0
			for at := 50 * ms; changes <= 50; at += 50 * ms {
				read := at + random.Int64N(8*ms) - 4*ms
				joules, _ := meter.Energy(read)
				if joules != last {
					changes, last = changes+1, joules
				}
				d.read(read, joules)
			}
			if period <= 50*time.Millisecond {
				assert.Zero(t, d.Period(), "period %v, seed %d", period, seed)
			} else {
				assert.InEpsilon(t, period, d.Period(), 0.03, "period %v, seed %d", period, seed)
			}
		}
	}
}

// The date of each step is within what it says of itself.
func TestTheDateOfAStepIsWithinItsDoubt(t *testing.T) {
	for _, period := range []int64{100 * ms, 137 * ms, 200 * ms} {
		t.Run(fmt.Sprint(time.Duration(period)), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(period), 2))
			phase := random.Int64N(period)
			meter := gpumodel.NewMeter(gpumodel.Model{Counter: gpumodel.Counter{Period: time.Duration(period)}}, unsteady(200, random), time.Duration(phase))
			var d dater
			for at := 50 * ms; at < 199_000*ms; {
				joules, _ := meter.Energy(at)
				d.read(at, joules)
				at += 46*ms + random.Int64N(8*ms)
				switch random.IntN(200) {
				case 0: // a late read
					at += 60 * ms
				case 1: // a rest, in which it is read at 5 Hz
					for range 10 {
						at += 200 * ms
						joules, _ := meter.Energy(at)
						d.read(at, joules)
					}
				}
			}
			off, tight := 0, 0
			learned := d.dates[50:]
			for _, x := range learned {
				// The nearest step is the one that it dates, give or take one after a rest.
				error := (x.at - phase) % period
				error = min(error, period-error)
				if error > x.doubt+period/500 {
					off++
				}
				if x.doubt < period/8 {
					tight++
				}
			}
			require.Greater(t, len(learned), 500)
			assert.LessOrEqual(t, off, len(learned)/100, "of %d dates", len(learned))
			assert.Greater(t, tight, len(learned)/2, "of %d dates", len(learned))
		})
	}
}

// What somebody has asked for stays as it is.
func TestDatesThatWereAskedForDoNotChange(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 5))
	meter := gpumodel.NewMeter(gpumodel.Model{Counter: gpumodel.Counter{Period: 100 * time.Millisecond}}, unsteady(60, random), 33*time.Millisecond)
	var d dater
	for at := 50 * ms; at < 10_000*ms; at += 50*ms + random.Int64N(5*ms) {
		joules, _ := meter.Energy(at)
		d.read(at, joules)
	}
	d.freeze(8000 * ms)
	before := d.around(Interval{0, 8000 * ms}).dates
	for at := 10_000 * ms; at < 50_000*ms; at += 50*ms + random.Int64N(5*ms) {
		joules, _ := meter.Energy(at)
		d.read(at, joules)
	}
	after := d.around(Interval{0, 8000 * ms}).dates
	for i, x := range before {
		if x.at <= 8000*ms {
			assert.Equal(t, x, after[i])
		}
	}
}
