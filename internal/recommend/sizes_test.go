// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// perPixel are costs of 1 s for each 512 × 512 pixels, for models that are known.
type perPixel struct {
	unknown map[string]bool
	safe    map[string]int
}

func (c perPixel) Time(r *admission.Request) (float64, bool) {
	return float64(r.Side*r.Side) / (512 * 512), !c.unknown[r.Model]
}

func (c perPixel) Safe(r *admission.Request) (int, Bound) {
	if side := c.safe[r.Model]; side > 0 {
		return side, ByMemory
	}
	return 0, NotKnown
}

// replayOf replays requests as they came, and returns how many met their objectives by class.
func replayOf(t *testing.T, caps map[string]int, requests ...*Request) map[string]int {
	t.Helper()
	w := New(settings())
	for _, r := range requests {
		w.Add(r)
	}
	r := newReplay(w.Copy(begin.Add(24*time.Hour)), perPixel{})
	limits := make([]int, len(r.classes))
	for i := range r.classes {
		limits[i] = caps[r.classes[i].name]
	}
	r.run(limits)
	r.run(limits)
	met := map[string]int{}
	for i := range r.classes {
		met[r.classes[i].name] = r.classes[i].met
	}
	return met
}

// long is a request that uses the GPU for so many seconds.
func long(class, server string, after time.Duration, used float64) *Request {
	return of(class, after, time.Hour).with(func(r *Request) { r.Server, r.Used, r.Side = server, used, 1024 })
}

func TestServersOfAGPUShareItsTime(t *testing.T) {
	assert.Equal(t, map[string]int{"people": 1}, replayOf(t, nil, long("people", "a", 0, 16), long("people", "a", 0, 16)), "one after the other: 16, 32 s")
	assert.Equal(t, map[string]int{"people": 0}, replayOf(t, nil, long("people", "a", 0, 16), long("people", "b", 0, 16)), "side by side: both 32 s")
	assert.Equal(t, map[string]int{"people": 2}, replayOf(t, nil, long("people", "a", 0, 14.9), long("people", "b", 0, 14.9)))
	other := long("people", "b", 0, 16)
	other.GPU = "GPU-2"
	assert.Equal(t, map[string]int{"people": 2}, replayOf(t, nil, long("people", "a", 0, 16), other))
	nowhere, neither := long("people", "a", 0, 16), long("people", "b", 0, 16)
	nowhere.GPU, neither.GPU = "", ""
	assert.Equal(t, map[string]int{"people": 2}, replayOf(t, nil, nowhere, neither), "without a known GPU each has one")
	assert.Equal(t, map[string]int{"people": 2}, replayOf(t, nil, long("people", "a", 0, 16), long("people", "a", 16*time.Second, 29)))
}

func TestLargerRequestsAreReplayedAtTheLimit(t *testing.T) {
	two := []*Request{long("people", "a", 0, 16), long("people", "a", 0, 16)}
	assert.Equal(t, map[string]int{"people": 1}, replayOf(t, map[string]int{"people": 1024}, two...))
	assert.Equal(t, map[string]int{"people": 2}, replayOf(t, map[string]int{"people": 512}, two...), "4 s each")
	loads := long("people", "a", 0, 40)
	loads.Loading = 28
	assert.Equal(t, map[string]int{"people": 0}, replayOf(t, map[string]int{"people": 512}, loads), "loading is not shorter: 31 s")
}

func TestBatchIsReplayedLastWhereTheQueueIsSorted(t *testing.T) {
	all := []*Request{long("people", "a", 0, 10), long("buildings", "a", time.Second, 25), long("people", "a", 2*time.Second, 10)}
	assert.Equal(t, map[string]int{"people": 1, "buildings": 1}, replayOf(t, nil, all...))
	for _, r := range all {
		r.Ordered = true
	}
	assert.Equal(t, map[string]int{"people": 2, "buildings": 1}, replayOf(t, nil, all...))
}

// crowded is a week of so many requests of each class at one server, each a minute after the
// last, that use the GPU for so long.
func crowded(requests int, classes map[string]float64) *Week {
	w := New(settings())
	for i := range requests {
		for n, class := range []string{"buildings", "people"} {
			if used := classes[class]; used > 0 {
				w.Add(long(class, "a", time.Duration(i)*time.Minute+time.Duration(n)*time.Millisecond, used))
			}
		}
	}
	return w
}

func objectives(w *Week, costs Costs) map[string]Objective {
	all := map[string]Objective{}
	for _, o := range w.Copy(begin.Add(24 * time.Hour)).Recommend(costs).Objectives {
		all[o.Class] = o
	}
	return all
}

func TestTheSizeThatMeetsTheObjective(t *testing.T) {
	got := objectives(crowded(200, map[string]float64{"people": 20, "buildings": 30}), perPixel{})
	people := got["people"]
	assert.True(t, people.Known)
	assert.False(t, people.Enough)
	assert.InDelta(t, 1, people.Share, 1e-9)
	assert.Zero(t, people.AsTheyCame)
	// A building and a person together take 50 s, and are to take 30; then one of both may be larger.
	both := got["buildings"]
	assert.True(t, both.Known)
	assert.False(t, both.Enough && people.Enough)
	together := wary * (20*float64(people.Side*people.Side) + 30*float64(both.Side*both.Side)) / (1024 * 1024)
	assert.Less(t, together, 30.0)
	assert.Greater(t, together, 29.0)
	assert.Zero(t, people.Side%8)
	again := crowded(200, map[string]float64{"people": 10, "buildings": 10})
	for class, o := range objectives(again, perPixel{}) {
		assert.True(t, o.Known && o.Enough, class)
		assert.Equal(t, 1024, o.Side, class)
	}
}

func TestAClassThatNoSizeHelpsHoldsNoOtherBack(t *testing.T) {
	w := New(settings())
	for i := range 200 {
		r := long("people", "a", time.Duration(i)*time.Minute, 45)
		if i%4 == 0 {
			r.Side = 0 // it is not known, so that it cannot be lowered
		}
		w.Add(r)
		w.Add(long("buildings", "b", time.Duration(i)*time.Minute, 1).with(func(r *Request) { r.GPU = "GPU-2" }))
	}
	c := w.Copy(begin.Add(24 * time.Hour))
	c.settings.Classes["people"] = Class{Objective: 30 * time.Second}
	r := newReplay(c, perPixel{})
	for i := range r.classes { // as if the time of those without a size were known
		r.classes[i].known = r.classes[i].work
	}
	all := r.objectives()
	require.Len(t, all, 2)
	assert.Equal(t, "buildings", all[0].Class)
	assert.Equal(t, 1024, all[0].Side)
	assert.True(t, all[1].Known)
	assert.Zero(t, all[1].Side)
	assert.Less(t, all[1].Share, Share)
}

func TestTooLittleIsNotKnown(t *testing.T) {
	got := objectives(crowded(99, map[string]float64{"people": 40}), perPixel{})
	assert.Equal(t, Objective{Class: "people", Requests: 99}, got["people"], "too few")
	got = objectives(crowded(200, map[string]float64{"people": 40}), perPixel{unknown: map[string]bool{"ddcolor": true}})
	assert.False(t, got["people"].Known, "what smaller ones take")
	assert.Zero(t, got["people"].Side)
	assert.Empty(t, objectives(New(settings()), perPixel{}))
}

func TestTheSafeSizeIsThatOfAllButRareKinds(t *testing.T) {
	w := New(settings())
	add := func(model, product string, n int) {
		for i := range n {
			w.Add(of("people", time.Duration(i)*time.Second, time.Second).with(func(r *Request) { r.Model, r.Product, r.GPU = model, product, product }))
		}
	}
	add("a", "RTX", 60)
	add("b", "RTX", 37)
	add("c", "RTX", 3)
	add("a", "A100", 10)
	add("d", "L4", 10)
	safe := w.Copy(begin.Add(time.Hour)).safe(perPixel{safe: map[string]int{"a": 1280, "b": 1024, "c": 512}})
	assert.Equal(t, []Safe{
		{Class: "people", Product: "A100", Requests: 10, Side: 1280, Bound: ByMemory},
		{Class: "people", Product: "L4", Requests: 10, Bound: NotKnown},
		{Class: "people", Product: "RTX", Requests: 100, Side: 1024, Bound: ByMemory},
	}, safe)
	add("e", "RTX", 20)
	safe = w.Copy(begin.Add(time.Hour)).safe(perPixel{safe: map[string]int{"a": 1280, "b": 1024}})
	assert.Equal(t, Safe{Class: "people", Product: "RTX", Requests: 120, Bound: NotKnown}, safe[2], "of a kind that is not rare nothing is known")
}

func TestSearchFindsTheLargestStep(t *testing.T) {
	for want := 512; want <= 1280; want += 8 {
		assert.Equal(t, want, search(512, 1280, func(side int) bool { return side <= want }))
	}
	assert.Equal(t, 1150, search(512, 1150, func(int) bool { return true }))
	assert.Equal(t, 1144, search(512, 1150, func(side int) bool { return side < 1150 }))
	assert.Equal(t, 512, search(512, 1150, func(int) bool { return false }))
}

// BenchmarkRecommend is of a GPU that is busy all the week.
func BenchmarkRecommend(b *testing.B) {
	w := New(settings())
	for i := range DefaultRequests {
		at := time.Duration(i) * Window / DefaultRequests
		class := [...]string{"people", "buildings"}[i%2]
		w.Add(of(class, at, 2*time.Second).with(func(r *Request) {
			r.Side = 512 + i%7*128
			r.Server = [...]string{"a", "b"}[i/2%2]
			r.Used = 3.4 * float64(r.Side*r.Side) / 1e6
		}))
	}
	b.ReportAllocs()
	for b.Loop() {
		got := w.Copy(begin.Add(Window)).Recommend(perPixel{})
		require.False(b, got.Objectives[0].Enough, "sizes are looked for")
		require.Positive(b, got.Objectives[0].Side)
	}
	b.ReportMetric(float64(w.count()), "requests")
}
