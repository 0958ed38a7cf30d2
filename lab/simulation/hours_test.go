// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestEveningsBringPeopleAndOfficeHoursBuildings(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	buildings := func(hour int) float64 {
		n := 0
		for range 10_000 {
			if pick(random, time.Date(2026, 3, 1, hour, 30, 0, 0, time.UTC)) >= 960 {
				n++
			}
		}
		return float64(n) / 10_000
	}
	assert.InDelta(t, 1.0/13, buildings(20), 0.02)
	assert.InDelta(t, 0.5, buildings(11), 0.03)
	assert.Zero(t, buildings(3))
	busiest := 0
	for hour := range 24 {
		if rate(time.Date(2026, 3, 1, hour, 0, 0, 0, time.UTC)) > rate(time.Date(2026, 3, 1, busiest, 0, 0, 0, time.UTC)) {
			busiest = hour
		}
	}
	assert.Equal(t, 20, busiest)
	assert.InDelta(t, 1, rate(time.Date(2026, 3, 1, busiest, 0, 0, 0, time.UTC)), 1e-9)
}

func TestFramesAreSometimesLateByAsMuchAsRecorded(t *testing.T) {
	late := Late(1)
	held := 0
	for range 100_000 {
		if d := late(); d > 0 {
			held++
			assert.GreaterOrEqual(t, d, 60*time.Millisecond)
			assert.LessOrEqual(t, d, 150*time.Millisecond)
		}
	}
	assert.InDelta(t, 500, held, 100)
}

func TestThePhotosLoadVariesAndItsMemoryPeaksWithin(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	m := modelOf("ddcolor_paper.pth")
	peak, lasts := demand(1280, m)
	loaded, first := photo(usual(1280, m), m, true, random), photo(usual(1280, m), m, false, random)
	assert.Greater(t, len(first), len(loaded), "on first use the model is loaded")
	var total time.Duration
	var most int64
	levels := map[int64]bool{}
	for _, s := range loaded {
		total += s.lasts
		most = max(most, s.memory)
		levels[s.gpu] = true
	}
	assert.InDelta(t, lasts.Seconds(), total.Seconds(), 0.01)
	assert.Equal(t, peak, most)
	assert.Less(t, loaded[len(loaded)-1].memory, peak)
	assert.Greater(t, len(levels), 10)
}
