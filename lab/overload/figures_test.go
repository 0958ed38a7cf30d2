// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// byHand is a run of 100 s at a capacity of 1, of which the begin is zero.
func byHand(records ...*Record) *Result {
	r := &Result{Plan: Plan{Lasts: 100 * time.Second}, Capacity: 1, Begin: time.Unix(1000, 0), Records: records}
	for i, c := range records {
		c.ID, c.Number = string(rune('a'+i)), i
	}
	return r
}

// at is a time of such a run.
func at(seconds float64) time.Time { return time.Unix(1000, int64(seconds*1e9)) }

// done is a client that came, was accepted at once and left, and its prompt's work, in seconds.
func done(class int, came, left, began, ended, exclusive float64, got bool) *Record {
	return &Record{
		Request: &Request{Class: class, At: time.Duration(came * 1e9), Limit: 30 * time.Second}, Came: at(came), Accepted: at(came), Left: at(left),
		Got: got, Began: at(began), Ended: at(ended), Worked: sharedgpu.Worked{Exclusive: time.Duration(exclusive * 1e9), Made: true},
	}
}

func TestFiguresAreTheirDefinitions(t *testing.T) {
	short := done(1, 50, 62, 50, 62, 6, false) // ran out of memory
	short.Worked.Made, short.Worked.OutOfMemory = false, true
	late := done(0, 10, 40, 39, 49, 10, false) // its client had given up
	f := byHand(
		done(0, 1, 21, 1, 21, 20, true), late, done(1, 5, 34, 21, 34, 13, true), short,
		done(0, 90, 110, 90, 110, 20, true), // in time, but after the measured time
	).Figures()
	assert.InDelta(t, 0.33, f.Useful, 1e-9)
	assert.InDelta(t, 0.16, f.Dead, 1e-9)
	assert.InDelta(t, 2.0/3, f.Core, 1e-9)
	assert.InDelta(t, 0.5, f.Batch, 1e-9)
	assert.InDelta(t, 13.0/80, f.BatchOfRest, 1e-9)
	assert.InDelta(t, 0.25, f.OutOfMemory, 1e-9, "of four that ended")
	assert.True(t, math.IsNaN(f.DrainError))
	assert.True(t, math.IsNaN(f.FirstRetry))
}

func TestDrainErrorComparesWithTheEndOfWhatWasAccepted(t *testing.T) {
	refusedAt := func(seconds, wait float64) *Record {
		c := done(0, seconds, 30, 0, 0, 0, false)
		c.Accepted, c.Began, c.Ended = time.Time{}, time.Time{}, time.Time{}
		c.Refusals = []Refused{{At: at(seconds), Status: http.StatusTooManyRequests, Wait: time.Duration(wait * 1e9), Predicted: true}}
		return c
	}
	queue := []*Record{done(0, 0, 20, 0, 20, 20, true), done(0, 1, 25, 20, 25, 5, true)}
	elsewhere := done(0, 0, 99, 0, 99, 1, true)
	elsewhere.Server = 1
	after := done(0, 6, 90, 25, 90, 5, true)
	for wait, want := range map[float64]float64{20: 0, 18: 0, 22: 0, 15: 0.25, 30: 0.5} {
		f := byHand(queue[0], queue[1], elsewhere, after, refusedAt(5, wait)).Figures()
		assert.InDelta(t, want, f.DrainError, 1e-9, "predicted %g s, and 20 s passed", wait)
	}
	after.Accepted, after.Ended = at(4), time.Time{}
	assert.True(t, math.IsNaN(byHand(queue[0], after, refusedAt(5, 20)).Figures().DrainError), "one had not ended by the end of the run")
}

func TestCoverageAndWidthOfBands(t *testing.T) {
	// predicted is a prompt that ended 20 s after it was accepted, and its band.
	predicted := func(class int, low, median, high float64) *Record {
		c := done(class, 0, 20, 0, 20, 20, true)
		c.PredictedAt, c.Predicted = c.Accepted, Band{time.Duration(low * 1e9), time.Duration(median * 1e9), time.Duration(high * 1e9)}
		return c
	}
	open := predicted(0, 1, 2, 3)
	open.Ended = time.Time{}
	f := byHand(
		predicted(0, 18, 20, 22), predicted(0, 10, 15, 19), predicted(0, 21, 30, 90), predicted(0, 1, 9, 20),
		predicted(1, 0, 10, 100), done(0, 0, 20, 0, 20, 20, true), open,
	).Figures()
	assert.InDelta(t, 0.5, f.CoreCovered, 1e-9, "one of four ended later, one earlier; those without a band or an end do not count")
	assert.InDelta(t, 0.5, f.CoreCoveredMax, 1e-9)
	assert.InDelta(t, 1, f.BatchCovered, 1e-9)
	assert.InDelta(t, 3, f.CoreWidths, 0)
	assert.InDelta(t, 9.0/15, f.CoreWidth, 1e-9, "the median of 4/20, 9/15 and 69/30: that of 9 s does not count")
	none := byHand(done(0, 0, 20, 0, 20, 20, true)).Figures()
	assert.True(t, math.IsNaN(none.CoreCovered))
	assert.True(t, math.IsNaN(none.CoreWidth))
}

func TestFalseRefusalsAreThoseThatWouldHaveBeenInTime(t *testing.T) {
	client := func(class, refusals int, accepted, got bool) *Record {
		c := done(class, 1, 20, 10, 20, 5, got)
		if !accepted {
			c.Accepted = time.Time{}
		}
		c.Refusals = make([]Refused, refusals)
		return c
	}
	without := byHand(client(0, 0, true, true), client(0, 0, true, true), client(0, 0, true, false), client(1, 0, true, true), client(1, 0, true, true), client(0, 0, true, true), client(0, 0, true, true), client(0, 0, true, true))
	with := byHand(
		client(0, 0, true, true),   // accepted
		client(0, 1, true, true),   // core, refused though its image came: false
		client(0, 1, false, false), // would not have been in time
		client(1, 2, true, true),   // batch whose image still came
		client(1, 2, false, false), // batch whose image did not: false
		client(0, 0, false, false), // held beyond its deadline: false
		client(0, 0, true, false),  // accepted, and too late: not a refusal
		client(0, 0, true, true),
	)
	assert.InDelta(t, 3.0/8, FalseRefusals(with, without), 1e-9)
}

func TestRetriesOfABurst(t *testing.T) {
	client := func(burst bool, refusals int, accepted bool) *Record {
		c := done(0, 1, 20, 10, 20, 5, accepted)
		c.Burst, c.Refusals = burst, make([]Refused, refusals)
		if !accepted {
			c.Accepted = time.Time{}
		}
		return c
	}
	refused, first, third := byHand(
		client(true, 0, true), client(true, 1, true), client(true, 2, true), client(true, 3, true), client(true, 4, true), client(true, 1, false), client(false, 1, true),
	).BurstRetries()
	assert.Equal(t, 5, refused)
	assert.InDelta(t, 0.2, first, 1e-9)
	assert.InDelta(t, 0.6, third, 1e-9)
}

func TestTheWorstOfEachFigureIsReported(t *testing.T) {
	nan := math.NaN()
	worst := Worst([]Figures{
		{Useful: 0.9, Dead: 0.1, Core: 1, DrainError: nan, FirstRetry: nan, CoreCovered: 0.9, CoreCoveredMax: 0.9},
		{Useful: 0.8, Dead: 0, Core: nan, DrainError: 0.3, FirstRetry: nan, CoreCovered: 0.8, CoreCoveredMax: 0.8},
	})
	assert.InDelta(t, 0.8, worst.Useful, 0)
	assert.InDelta(t, 0.1, worst.Dead, 0)
	assert.InDelta(t, 1, worst.Core, 0)
	assert.InDelta(t, 0.3, worst.DrainError, 0)
	assert.True(t, math.IsNaN(worst.FirstRetry))
	assert.InDelta(t, 0.8, worst.CoreCovered, 0)
	assert.InDelta(t, 0.9, worst.CoreCoveredMax, 0)
}
