// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// kindOfAll is that of a world's prompts.
func (w *world) kindOfAll(server string) *kind {
	k := w.kinds.Find(w.kindOf(w.Engine.servers[server], "colour", "ddcolor"))
	require.NotNil(w.t, k)
	return k
}

func TestTheTimeOfTwoServersIsShared(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 3)
	before := len(w.kindOfAll("a").time.samples)
	first := w.queued("a", "people", 512)
	w.pass(time.Second) // alone
	second := w.queued("b", "people", 512)
	w.pass(4 * time.Second) // both
	w.ended("a")
	w.pass(time.Second) // alone again
	w.ended("b")
	for server, id := range map[string]string{"a": first, "b": second} {
		w.Executed(&Execution{ID: id, Server: server, Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: 5 * time.Second, Succeeded: true})
	}
	k := w.kindOfAll("a")
	assert.Len(t, k.time.samples, before+1, "b's is a cold one")
	assert.InDelta(t, 3, k.time.samples[before].Cost, 1e-6, "1 s alone and half of 4 s")
	require.Len(t, k.loading, 1, "of a's first one, the time was not known yet")
	assert.InDelta(t, 1, k.loading[0], 0.1, "b's took 3 s instead of 2 s")
}

func TestTwoServersAreSlowerTogether(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.learned("b", 20)
	w.rested()
	assert.InDelta(t, 2, w.ask("a", "people", 512).Completion.Seconds(), 0.1)
	w.queued("b", "people", 512)
	w.queued("b", "people", 512)
	assert.InDelta(t, 4, w.ask("a", "people", 512).Completion.Seconds(), 0.1, "half as fast as long as the neighbour works")
}

func TestColdExecutionsAreLearnedApart(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 10)
	s := w.servers["a"]
	s.Unloaded = w.now.Add(time.Millisecond)
	w.pass(time.Second)
	w.seen(s)
	w.run("a", 512, 9*time.Second, 0)
	k := w.kindOfAll("a")
	assert.InDelta(t, 7, k.load(), 0.1, "it loaded for so long")
	assert.InDelta(t, 2, k.time.model.Predict(sizeOf(512, 1, 0)), 0.1)
	w.sampled()
	assert.InDelta(t, 2, w.ask("a", "people", 512).Completion.Seconds(), 0.2, "its model is loaded")
	s.Unloaded = w.now.Add(time.Millisecond)
	w.pass(time.Second)
	w.sampled()
	assert.InDelta(t, 9, w.ask("a", "people", 512).Completion.Seconds(), 0.2, "it is not")
}

func TestWhatWasCachedOrFailedTellsNoTime(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 5)
	for _, x := range []Execution{{Cached: true, Succeeded: true}, {}} {
		id := w.queued("a", "people", 512)
		w.pass(10 * time.Millisecond)
		w.ended("a")
		x.ID, x.Server, x.Workflow, x.Model, x.Side, x.Batch, x.Ended, x.Ran = id, "a", "colour", "ddcolor", 512, 1, w.now, 10*time.Millisecond
		w.Executed(&x)
	}
	assert.Len(t, w.kindOfAll("a").time.samples, 5)
}

func TestOldSamplesDoNotCount(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 30)
	w.pass(maxSampleAge + time.Hour)
	for range 6 { // slower than before
		w.run("a", 512, 5*time.Second, 0)
	}
	w.sampled()
	assert.InDelta(t, 5, w.ask("a", "people", 512).Completion.Seconds(), 0.1)
	assert.LessOrEqual(t, len(w.kindOfAll("a").time.samples), 6)
}

func TestSamplesAreBounded(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 3*maxSamples)
	k := w.kindOfAll("a")
	assert.LessOrEqual(t, len(k.time.samples), maxSamples*11/10+1)
	assert.LessOrEqual(t, len(k.memory.least), maxSamples)
	for i := range 2 * w.settings.Kinds {
		w.Executed(&Execution{ID: fmt.Sprint("x", i), Server: "a", Workflow: fmt.Sprint("w", i), Side: 512, Ended: w.now, Ran: time.Second, Succeeded: true})
	}
	for _, b := range w.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
}

func TestEqualGPUsLearnTogether(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	other := GPU{ID: "GPU-2", Product: "RTX", Capacity: 24 * gib, At: w.now}
	w.SetGPU(other)
	b := *w.servers["a"]
	b.Name, b.GPUs = "b", []string{"GPU-2"}
	w.seen(&b)
	d := w.ask("b", "people", 512)
	is(t, d, admission.Admit, admission.Fits)
	assert.Equal(t, 20, d.Executions)
	other.Product = "A100"
	w.SetGPU(other)
	is(t, w.ask("b", "people", 512), admission.Admit, admission.Unknown)
}

func TestNothingIsPredictedFarBeyondWhatWasSeen(t *testing.T) {
	w := newWorld(t, "a")
	for range 5 {
		for _, side := range []int{512, 724, 1024} {
			w.run("a", side, time.Duration(float64(side*side)/(512*512)*float64(time.Second)), 0)
		}
	}
	w.sampled()
	assert.Positive(t, w.ask("a", "people", 1100).Completion, "1.15 times the pixels")
	assert.Zero(t, w.ask("a", "people", 1200).Completion, "1.37 times")
}

func TestTheLeastThatWasNeededIsThatOfTheLastTwenty(t *testing.T) {
	var c costs
	size := sizeOf(512, 1, 0)
	c.lower(size, 9, time.Time{})
	for range 19 {
		c.lower(size, 5, time.Time{})
	}
	assert.InDelta(t, 9, c.leastOf(size), 0)
	c.lower(sizeOf(768, 1, 0), 20, time.Time{})
	c.lower(size, 5, time.Time{})
	assert.InDelta(t, 5, c.leastOf(size), 0)
}

func TestABandCoversNineTenths(t *testing.T) {
	for _, real := range []float64{0.4, 1, 3} { // deviations, of those that were predicted
		c := &calibration{below: normal95, above: normal95}
		at, covered, width := time.Unix(0, 0), 0, 0.0
		const all = 3000
		random := newRandom(7)
		for range all {
			low, high := c.band(100, 1)
			took := 100 + real*random.NormFloat64()
			if took >= low && took <= high {
				covered++
			}
			width += high - low
			c.add(prediction{at: at, completion: 100, deviation: 1, low: low, high: high, missAbove: missAbove}, at.Add(seconds(took)))
		}
		assert.InDelta(t, 1-missBelow-missAbove, float64(covered)/all, 0.03, real)
		assert.InDelta(t, (1.96+1.44)*real, width/all, 0.6*real, real)
	}
}

// TestABandIsWideOnTheSideOfTheErrors: one completion in eight is late by far.
func TestABandIsWideOnTheSideOfTheErrors(t *testing.T) {
	c := &calibration{below: normal95, above: normal95}
	random := newRandom(7)
	at := time.Unix(0, 0)
	for range 3000 {
		low, high := c.band(100, 1)
		took := 100 + random.NormFloat64()
		if random.IntN(8) == 0 {
			took += 4
		}
		c.add(prediction{at: at, completion: 100, deviation: 1, low: low, high: high, missAbove: missAbove}, at.Add(seconds(took)))
	}
	assert.InDelta(t, 2, c.below, 0.5)
	assert.Greater(t, c.above, c.below+0.5)
}

func TestTheFirstPassageIsThatOfAQueue(t *testing.T) {
	random := newRandom(3)
	const load, mean, deviation, waits = 0.6, 1.75, 0.6, 4.0
	p := passage{level: waits, fall: 1 - load, variance: load * (mean + deviation*deviation/mean)}
	var passages []float64
	for range 4000 {
		left, now := waits, 0.0
		for left > 0 && now < 500 {
			gap := random.ExpFloat64() * mean / load
			if gap > left {
				now += left
				break
			}
			now, left = now+gap, left-gap+max(mean+deviation*random.NormFloat64(), 0.1)
		}
		passages = append(passages, now)
	}
	sum := 0.0
	for _, v := range passages {
		sum += v
	}
	assert.InEpsilon(t, sum/float64(len(passages)), p.mean(), 0.1)
	for _, after := range []float64{15, 25, 40} {
		beyond := 0.0
		for _, v := range passages {
			if v > after {
				beyond += 1 / float64(len(passages))
			}
		}
		assert.InDelta(t, beyond, p.longer(after), 0.03, after)
	}
	assert.InDelta(t, 0.1, p.longer(p.quantile(0.9)), 0.01)
	assert.InDelta(t, 0, (&passage{fall: 1}).longer(1), 0, "nothing waits")
	assert.InDelta(t, 4, (&passage{level: 4, fall: 1}).quantile(0.9), 0.01, "nothing comes")
}
