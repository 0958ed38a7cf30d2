// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const gib = 1 << 30

// at is a time after the start of a test.
func at(after time.Duration) time.Time { return time.Unix(1000, 0).Add(after) }

// history holds answers that took 10 ms each: when they were asked, active and reserved
// memory in GiB.
func history(all ...[3]float64) *History {
	h := &History{}
	for _, s := range all {
		asked := at(time.Duration(s[0] * float64(time.Second)))
		h.Add(Sample{Asked: asked, At: asked.Add(10 * ms), Active: s[1] * gib, Reserved: s[2] * gib})
	}
	return h
}

func gibibytes(v *float64) any {
	if v == nil {
		return nil
	}
	return *v / gib
}

func TestUseOfAPrompt(t *testing.T) {
	h := history([3]float64{0.5, 1, 2}, [3]float64{1.5, 3, 4}, [3]float64{2, 5, 6}, [3]float64{2.5, 4, 6}, [3]float64{3.1, 1, 7}, [3]float64{3.6, 9, 9})
	u := h.Use(at(time.Second), at(3*time.Second))
	assert.EqualValues(t, 5, gibibytes(u.ActivePeak), "the answer after the end is not the prompt's")
	assert.EqualValues(t, 1, gibibytes(u.ActiveStart))
	assert.EqualValues(t, 7, gibibytes(u.ReservedPeak), "up to the first answer after the end")
	assert.EqualValues(t, 5, gibibytes(u.ReservedGrowth))
	assert.Equal(t, 3, u.Samples)
	assert.Equal(t, 510*ms, u.Gap, "from the start to the first answer")
}

func TestAnswersAtAnEdgeOfAPromptAreNotItsOwn(t *testing.T) {
	h := history([3]float64{0.995, 9, 9}, [3]float64{1.5, 3, 9}, [3]float64{1.995, 8, 9}, [3]float64{2.1, 1, 9})
	u := h.Use(at(time.Second), at(2*time.Second))
	assert.EqualValues(t, 3, gibibytes(u.ActivePeak), "answers that were under way at an edge may be of another prompt")
	assert.Nil(t, gibibytes(u.ActiveStart))
	assert.Equal(t, 1, u.Samples)
	assert.Nil(t, u.ReservedGrowth, "what was reserved before is unknown")
}

func TestUseWithoutAnswersWithinIsAbsent(t *testing.T) {
	h := history([3]float64{0.5, 1, 2}, [3]float64{3.1, 1, 4})
	u := h.Use(at(time.Second), at(3*time.Second))
	assert.Nil(t, u.ActivePeak)
	assert.EqualValues(t, 2, gibibytes(u.ReservedGrowth), "the reserve grew in this prompt")
	assert.EqualValues(t, 4, gibibytes(u.ReservedPeak))
	assert.Equal(t, 2*time.Second, u.Gap)
	assert.Equal(t, Use{Gap: time.Second}, (&History{}).Use(at(0), at(time.Second)))
}

func TestReserveThatShrankIsNoUpperBound(t *testing.T) {
	h := history([3]float64{0.5, 1, 6}, [3]float64{1.5, 3, 4}, [3]float64{2, 5, 7}, [3]float64{3.1, 1, 8})
	assert.Nil(t, h.Use(at(time.Second), at(3*time.Second)).ReservedGrowth)
	h = history([3]float64{0.5, 1, 2}, [3]float64{1.5, 3, 4})
	assert.Nil(t, h.Use(at(time.Second), at(3*time.Second)).ReservedGrowth, "no answer after the end yet")
	assert.False(t, h.Has(at(3*time.Second)))
	assert.True(t, h.Has(at(1500*ms)))
}

func TestHistoryIsBoundedAndForgetsAtARestart(t *testing.T) {
	h := &History{}
	for i := range 3*maxSamples + 7 {
		h.Add(Sample{Asked: at(time.Duration(i) * ms), At: at(time.Duration(i) * ms), Active: float64(i)})
		if b := h.Bounds()[0]; b.Size > b.Max {
			t.Fatalf("%d answers, limit %d", b.Size, b.Max)
		}
	}
	u := h.Use(at(0), at(time.Hour))
	assert.Equal(t, maxSamples, u.Samples, "the newest are kept")
	assert.InDelta(t, 3*maxSamples+6, *u.ActivePeak, 0)
	h.Restarted()
	assert.Zero(t, h.Use(at(0), at(time.Hour)).Samples)
}

func TestClockThatIsSetBackEndsTheHistory(t *testing.T) {
	h := history([3]float64{60, 9, 9}, [3]float64{61, 9, 9}, [3]float64{0.5, 1, 2}, [3]float64{1.5, 2, 2}, [3]float64{70, 1, 2})
	u := h.Use(at(time.Second), at(80*time.Second))
	assert.EqualValues(t, 2, gibibytes(u.ActivePeak), "what was used by the former clock is another prompt's")
	assert.Equal(t, 2, u.Samples)
}

func TestMemoryGrowsWhereWeightsAreLoaded(t *testing.T) {
	of := func(all ...[2]float64) *History {
		h := &History{}
		for _, s := range all {
			asked := at(time.Duration(s[0] * float64(time.Second)))
			h.Add(Sample{Asked: asked, At: asked.Add(10 * ms), Used: s[1] * gib})
		}
		return h
	}
	grew := func(h *History) bool {
		grew, known := h.Grew(at(time.Second), at(2*time.Second), at(5*time.Second))
		assert.True(t, known || !grew)
		return grew
	}
	assert.True(t, grew(of([2]float64{0.5, 1}, [2]float64{1.5, 2}, [2]float64{1.7, 1})))
	assert.False(t, grew(of([2]float64{0.5, 1}, [2]float64{1.5, 1.01}, [2]float64{3, 9}, [2]float64{6, 9})), "an answer of the time says that it did not")
	assert.True(t, grew(of([2]float64{0.5, 1}, [2]float64{3, 9}, [2]float64{6, 2})), "no answer is of the time: the weights stayed")
	assert.False(t, grew(of([2]float64{0.5, 1}, [2]float64{3, 9}, [2]float64{6, 1})), "tensors went with the prompt")
	assert.False(t, grew(of([2]float64{0.5, 1}, [2]float64{3, 9})), "no answer after the end")
	assert.False(t, grew(of([2]float64{1.5, 2}, [2]float64{6, 9})), "what was used before is unknown")
	assert.False(t, grew(&History{}))
}
