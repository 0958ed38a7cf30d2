// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

// readsFrom reads a counter of 100 ms: some times a rest's pause apart, then while work runs,
// which is interrupted by a rest after every few reads if runs is not 0.
func readsFrom(random *rand.Rand, slow, fast, runs int, each func(at int64, joules float64)) {
	meter := gpumodel.NewMeter(gpumodel.Model{Counter: gpumodel.Counter{Period: 100 * time.Millisecond}}, unsteady(60, random), time.Duration(random.Int64N(100*ms)))
	at := int64(0)
	for i := range slow + fast {
		at += 46*ms + random.Int64N(8*ms)
		if i < slow || runs > 0 && i%runs == 0 {
			at += 150 * ms
		}
		joules, _ := meter.Energy(at)
		each(at, joules)
	}
}

// Reads at rest are slower than the counter's steps, and show another value each time. Once
// work has shown the steps, no read without a change is taken for one.
func TestACounterThatWasReadSlowlyAtFirstIsNotTakenForAContinuousOne(t *testing.T) {
	for seed := range uint64(20) {
		var d dater
		readsFrom(rand.New(rand.NewPCG(seed, 6)), 8, 60, 0, func(at int64, joules float64) {
			before := d.value
			dates := len(d.dates)
			d.read(at, joules)
			if joules == before {
				assert.Len(t, d.dates, dates, "seed %d: at %d ms a read without a change", seed, at/ms)
			}
		})
		assert.True(t, d.known(), "seed %d", seed)
	}
}

// The period that is guessed from runs of changes with pauses between them is as uncertain
// as all their ends.
func TestTheFirstGuessOfAPeriodHoldsIt(t *testing.T) {
	for seed := range uint64(300) {
		var d dater
		readsFrom(rand.New(rand.NewPCG(seed, 7)), 3, 400, 9, func(at int64, joules float64) {
			known := d.known()
			d.read(at, joules)
			if !known && d.known() {
				assert.LessOrEqual(t, d.minPeriod, float64(100*ms), "seed %d", seed)
				assert.GreaterOrEqual(t, d.maxPeriod, float64(100*ms), "seed %d", seed)
			}
		})
		assert.True(t, d.known(), "seed %d", seed)
	}
}

// What the first read shows may be a period old, so the energy up to the first step is that
// of a longer time than passes until then: no rate of the time without work is taken from it.
func TestTheRateUpToTheFirstStepIsNoNeighbours(t *testing.T) {
	timeline := newTimeline("GPU-a")
	arrive := func(at int64, joules float64) {
		timeline.date(&Sample{of: energy, At: at, Value: joules}, timeline.Energy.Put(at, joules), 1000)
	}
	arrive(0, 0)
	for i := range int64(40) { // steps of 6 J, the first right after the first read, and of 20 J with the work
		at := 5*ms + i*50*ms
		joules := 6 * float64(1+(at-5*ms)/(100*ms))
		if at > 105*ms {
			joules += 14 * float64((at-105*ms)/(100*ms))
		}
		arrive(at, joules)
	}
	work := []Interval{{80 * ms, 1000 * ms}}
	curve := timeline.Curve(work, &Reading{MaxWatts: 2000})
	assert.True(t, curve.cells[0].first)
	assert.Greater(t, curve.cells[0].rate(), 1000.0, "6 J in a few ms")
	assert.Nil(t, curve.cells[curve.cellAt(80*ms)].lead)
}

// While nothing is known of a counter it may be as late as most are.
func TestAnUnknownCounterMayBeLate(t *testing.T) {
	var d dater
	r := &Reading{}
	d.read(0, 0)
	assert.Equal(t, usualPeriod.Nanoseconds()/2, r.lag(&d))
	for i := range int64(100) { // it changes with every read
		d.read((i+1)*20*ms, float64(i))
	}
	assert.Zero(t, r.lag(&d))
	assert.Zero(t, (&Reading{Calibrated: true}).lag(&dater{}))
}
