// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const heldMS = int64(time.Millisecond)

// machine is a GPU whose memory is sampled ten times a second, and whose processes are listed
// now and then.
type machine struct {
	*Timeline
	set *Set
}

func newMachine() *machine {
	set := NewSet(Limits{GPUs: 1, Samples: 10_000, Processes: 8})
	return &machine{set.Ensure("GPU-a"), set}
}

func (m *machine) put(of quantity, pid, at int64, v float64) {
	m.set.Add(&Sample{GPU: "GPU-a", At: at * heldMS, Value: v, of: of, pid: pid}, &Counts{})
}

// run samples two processes from one time to another in ms, and lists them every so many
// samples.
func (m *machine) run(from, to int64, lists int64, own, other func(at int64) float64) {
	for at := from; at <= to; at += 100 {
		m.put(memory, 0, at, 500+own(at)+other(at))
		if at/100%lists == 0 {
			m.put(processMemory, 7, at+3, own(at))
			m.put(processMemory, 8, at+3, other(at))
		}
	}
}

func steps(at int64) float64 { return float64(1000 * (at / 1300)) }

func TestProcessMemoryBetweenListsIsTheGPUsLessTheOthers(t *testing.T) {
	m := newMachine()
	m.run(0, 10_000, 50, steps, func(int64) float64 { return 2000 })
	h := m.Held(7, Interval{2000 * heldMS, 4000 * heldMS})
	require.NotNil(t, h)
	assert.True(t, h.Between)
	assert.Zero(t, h.Others)
	for _, p := range h.Points {
		assert.InDelta(t, steps(p.At/heldMS), p.Value, 0, "at %d ms", p.At/heldMS)
	}
	assert.Equal(t, 1900*heldMS, h.Points[0].At, "and the sample before")
	assert.Equal(t, 4100*heldMS, h.Points[len(h.Points)-1].At, "and the sample after")
	assert.Nil(t, m.Held(9, Interval{2000 * heldMS, 4000 * heldMS}), "a process that no list has")
}

func TestProcessMemoryIsNeverTooSmallWhereOthersChange(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 1))
		m := newMachine()
		turn, other := random.Int64N(5000), 1000+float64(random.IntN(3000))
		m.run(0, 10_000, 50, steps, func(at int64) float64 {
			if at > turn {
				return other
			}
			return 2000
		})
		h := m.Held(7, Interval{1000 * heldMS, 4500 * heldMS})
		require.NotNil(t, h)
		assert.InDelta(t, max(other-2000, 2000-other), h.Others, 0, "seed %d", seed)
		for _, p := range h.Points {
			assert.GreaterOrEqual(t, p.Value, steps(p.At/heldMS), "seed %d at %d ms", seed, p.At/heldMS)
		}
	}
}

// TestListWhileTheProcessAllocatesIsLeftOut has a list that is read after the process has
// allocated 4 GB, and the sample of that time before.
func TestListWhileTheProcessAllocatesIsLeftOut(t *testing.T) {
	m := newMachine()
	const gb = 1e9
	process := func(at int64) float64 {
		if at > 2000 {
			return 6 * gb
		}
		return 2 * gb
	}
	for at := int64(0); at <= 8000; at += 100 {
		m.put(memory, 0, at, 1*gb+process(at))
	}
	for _, at := range []int64{1000, 2020, 6000} {
		m.put(processMemory, 7, at, process(at))
	}
	h := m.Held(7, Interval{1500 * heldMS, 3000 * heldMS})
	require.NotNil(t, h)
	assert.Zero(t, h.Others, "the others held the same")
	for _, p := range h.Points {
		assert.InDelta(t, process(p.At/heldMS), p.Value, 0, "at %d ms", p.At/heldMS)
	}
}

// The first list after the start may come while the process allocates: what the others hold is
// not known then.
func TestOnlyListWhileTheProcessAllocatesSaysNothingOfTheOthers(t *testing.T) {
	m := newMachine()
	for at := int64(0); at <= 2000; at += 100 {
		m.put(memory, 0, at, float64(3<<30+at<<20)) // it allocates all the time
	}
	m.put(processMemory, 7, 1040, float64(2<<30))
	h := m.Held(7, Interval{1100 * heldMS, 1700 * heldMS})
	require.NotNil(t, h)
	assert.True(t, h.Between)
	assert.Greater(t, h.Others, float64(SameMemory))
	m = newMachine()
	for at := int64(0); at <= 2000; at += 100 {
		m.put(memory, 0, at, 3<<30)
	}
	m.put(processMemory, 7, 1040, 2<<30)
	h = m.Held(7, Interval{1100 * heldMS, 1700 * heldMS})
	require.NotNil(t, h)
	assert.LessOrEqual(t, h.Others, float64(SameMemory), "nothing was allocated")
}

func TestFrequentListsNeedNoAssumption(t *testing.T) {
	m := newMachine()
	m.run(0, 10_000, 1, steps, func(at int64) float64 { return float64(at) })
	h := m.Held(7, Interval{2000 * heldMS, 4000 * heldMS})
	require.NotNil(t, h)
	assert.False(t, h.Between)
	assert.Zero(t, h.Others)
	for _, p := range h.Points {
		assert.InDelta(t, steps(p.At/heldMS), p.Value, 0, "at %d ms", p.At/heldMS)
	}
}

func TestProcessThatIsNotListedHoldsNothingThatIsKnown(t *testing.T) {
	m := newMachine()
	m.put(memory, 0, 0, 900)
	m.put(processMemory, 7, 500, 100)
	assert.Nil(t, m.Held(7, Interval{0, 400 * heldMS}), "no sample of the list's time")
}

func TestGrowthOfAQuantity(t *testing.T) {
	s := &Stream{}
	for at, v := range []float64{1, 1, 3, 2, 5, 9} {
		s.Put(int64(at)*1000*heldMS, v)
	}
	growth := func(from, to float64, gap time.Duration) []any {
		before, most, shrank, ok := s.Growth(Interval{int64(from * 1e9), int64(to * 1e9)}, gap)
		return []any{before, most, shrank, ok}
	}
	assert.Equal(t, []any{1.0, 3.0, false, true}, growth(0.5, 1.5, time.Second), "up to the sample after the end")
	assert.Equal(t, []any{1.0, 5.0, true, true}, growth(1.5, 3.5, time.Second))
	assert.Equal(t, []any{3.0, 2.0 + 1, true, true}, growth(2, 3, time.Second), "samples at the edges are those before and after")
	assert.Equal(t, []any{0.0, 0.0, false, false}, growth(0.5, 1.5, 400*time.Millisecond), "too far away")
	assert.Equal(t, []any{0.0, 0.0, false, false}, growth(-1, 1, time.Second))
	assert.Equal(t, []any{0.0, 0.0, false, false}, growth(4, 6, time.Second))
}

func TestUtilizationOfTheDriversBufferDoesNotBeginATimeline(t *testing.T) {
	m := newMachine()
	m.put(utilization, 0, 100, 0.5)
	_, ok := m.Pace.Newest()
	assert.False(t, ok)
	m.put(memory, 0, 5000, 1)
	m.put(utilization, 0, 4000, 0.5)
	m.put(utilization, 0, 5100, 0.5)
	assert.Equal(t, []Point{{5000 * heldMS, 0}, {5100 * heldMS, 0}}, m.Pace.Points)
	assert.Len(t, m.Utilization.Points, 3, "it is kept")
}
