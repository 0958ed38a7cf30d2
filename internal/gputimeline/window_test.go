// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// figures are all that is computed from a stream in an interval.
func figures(s *Stream, w Interval) []any {
	rise, seenRise := s.Rise(w)
	integral, seen := s.Integral(w)
	heldIntegral, seenHeld := s.HeldIntegral(w)
	highest, found := s.Max(w)
	from, _ := s.Nearest(w.From)
	to, _ := s.Nearest(w.To)
	return []any{rise, seenRise, integral, seen, heldIntegral, seenHeld, highest, found, from, to, len(s.Within(w)), len(s.Points) > 0}
}

func TestAWindowGivesTheFiguresOfTheWholeTimeline(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		whole := newTimeline("GPU-a")
		whole.ProcessMemory[7], whole.ProcessMemory[8] = &Stream{sparse: true}, &Stream{sparse: true}
		whole.Throttle["x"] = &Stream{sparse: true}
		at := int64(1000)
		for range r.IntN(60) {
			at += int64(r.IntN(20))
			whole.eachStream(func(s *Stream) { s.Put(at, float64(r.IntN(4))) })
		}
		w := Interval{From: 900 + int64(r.IntN(900))}
		w.To = w.From + int64(r.IntN(300))
		part := whole.Window(w, map[int64]bool{7: true})
		for range 5 { // any interval within
			in := Interval{From: w.From + int64(r.IntN(int(w.Length())+1))}
			in.To = in.From + int64(r.IntN(int(w.To-in.From)+1))
			require.Equal(t, figures(&whole.Energy, in), figures(&part.Energy, in), "seed %d", seed)
			require.Equal(t, figures(&whole.Temperature, in), figures(&part.Temperature, in), "seed %d: a sparse stream", seed)
			require.Equal(t, figures(whole.Throttle["x"], in), figures(part.Throttle["x"], in), "seed %d", seed)
			require.Equal(t, figures(whole.ProcessMemory[7], in), figures(part.ProcessMemory[7], in), "seed %d", seed)
		}
		assert.NotContains(t, part.ProcessMemory, int64(8), "nobody asked for it")
		before := figures(&part.Energy, w)
		whole.eachStream(func(s *Stream) { s.Put(w.From, 100); s.Put(w.To, 100) })
		require.Equal(t, before, figures(&part.Energy, w), "seed %d: samples that come later change no copy", seed)
	}
}

func TestATimelineRestartsWhenTheClockWasSetBack(t *testing.T) {
	set := NewSet(Limits{GPUs: 1, Samples: 10, Processes: 1})
	var counts Counts
	add := func(s int64) *Timeline {
		changed, _ := set.Add(&Sample{GPU: "GPU-a", Host: "h", At: s * int64(time.Second), Value: 1, of: memory, simulated: true}, &counts)
		return changed
	}
	add(100)
	tl := add(101)
	assert.False(t, tl.SetBack(101*int64(time.Second), time.Second))
	assert.False(t, tl.SetBack(50*int64(time.Second), time.Second), "nothing came since: its samples may be of another clock")
	add(50)
	assert.False(t, tl.SetBack(101*int64(time.Second), time.Second), "one that is late")
	require.True(t, tl.SetBack(50*int64(time.Second), time.Second))
	assert.Equal(t, 3, tl.Restart())
	assert.False(t, tl.SetBack(50*int64(time.Second), time.Second))
	assert.Empty(t, tl.Memory.Points)
	assert.Equal(t, "h", tl.Host)
	assert.True(t, tl.Simulated)
	assert.Same(t, tl, set.Get("GPU-a"))
}
