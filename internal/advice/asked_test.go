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

// TestWhatNeverFitsIsGivenTheLargestSizeThatDoes: its own size has never succeeded, so that its time
// is not known.
func TestWhatNeverFitsIsGivenTheLargestSizeThatDoes(t *testing.T) {
	w := newWorld(t, "a")
	w.gpu.Capacity = 8 * gib
	for i := range 40 {
		side := 400 + 8*(i%20)
		w.run("a", side, 2*time.Second, ofSide(side))
	}
	for range 2 { // with all that there is
		id := w.queued("a", "people", 1280)
		w.pass(time.Second)
		w.ended("a")
		w.Executed(&Execution{ID: id, Server: "a", Workflow: "colour", Model: "ddcolor", Side: 1280, Batch: 1, Ended: w.now, Ran: time.Second, OutOfMemory: true, Reserved: 8*gib - cuda})
	}
	w.rested()
	d := w.ask("a", "people", 1280)
	is(t, d, admission.Reject, admission.TooLarge)
	assert.Zero(t, d.Completion)
	assert.GreaterOrEqual(t, d.MaxSide, 552, "the largest that was seen")
	assert.LessOrEqual(t, d.MaxSide, 608, "and 1.2 times its pixels")
	is(t, w.ask("a", "people", d.MaxSide), admission.Admit, admission.Fits)
	for range 30 { // whatever waits
		w.queued("a", "people", 512)
	}
	assert.Equal(t, d.MaxSide, w.ask("a", "people", 1280).MaxSide)
}

// TestAskingChangesNothing: who only asks does not come again.
func TestAskingChangesNothing(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	for range 17 {
		w.queued("a", "people", 512)
	}
	w.queued("a", "buildings", 512)
	w.queued("a", "buildings", 512)
	before := w.ask("a", "people", 512)
	is(t, before, admission.Reject, admission.Late)
	require.Positive(t, before.RetryAfter)
	for i := range 100 {
		w.ask("a", "people", 512)
		w.ask("a", "buildings", 512)
		w.ask("a", fmt.Sprint("class ", i), 512)
	}
	assert.Empty(t, w.gpus[theGPU].promises.all)
	assert.Equal(t, before, w.ask("a", "people", 512))
	assert.Len(t, w.classes, 1, "nothing was learned of the others")
	w.claimed("a", "people", 512)
	assert.Len(t, w.gpus[theGPU].promises.all, 1)
	assert.Greater(t, w.ask("a", "people", 512).RetryAfter, before.RetryAfter)
}

// TestWhatRanOutOfMemoryIsForgottenAfterAWeek, in a process that goes on and in a new one.
func TestWhatRanOutOfMemoryIsForgottenAfterAWeek(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.oom("a", room)
	w.calibrationOf("people").add(prediction{at: w.now.Add(-time.Second), completion: 1, deviation: 1}, w.now)
	rest, probes := w.SaveRest(w.now), w.gpus[theGPU].probes
	require.Len(t, probes, 1)
	w.expireSamples(w.now.Add(6 * 24 * time.Hour))
	assert.Len(t, probes, 1)
	w.expireSamples(w.now.Add(8 * 24 * time.Hour))
	assert.Empty(t, probes)
	assert.Empty(t, w.classes)

	next := New(w.settings)
	next.SetGPU(w.gpu)
	later := w.now.Add(6*24*time.Hour + 23*time.Hour)
	require.NoError(t, next.LoadRest(rest, later))
	assert.Len(t, next.gpus[theGPU].probes, 1)
	next = New(w.settings)
	w.gpu.At = later.Add(time.Hour) // the GPU was there
	w.SetGPU(w.gpu)
	require.NoError(t, next.LoadRest(w.SaveRest(w.now), later.Add(2*time.Hour)))
	assert.Empty(t, next.gpus[theGPU].probes)
}

// TestAShortageOfMemorySaturates, though nothing waits.
func TestAShortageOfMemorySaturates(t *testing.T) {
	w := crowded(t)
	assert.Equal(t, Normal, w.level())
	w.pass(dwell + time.Second)
	w.foreign(6 * gib)
	load := w.Load(theGPU, w.now)
	assert.Positive(t, load.Shortage)
	assert.Equal(t, Saturated, load.Level)
	w.pass(dwell + time.Second)
	w.foreign(0)
	assert.Equal(t, Normal, w.Load(theGPU, w.now).Level)
}

// TestACrowdIsAServers: batch that comes again to a neighbour is none of this one's.
func TestACrowdIsAServers(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.rested()
	w.queued("b", "buildings", 512) // runs
	w.queued("b", "buildings", 512)
	w.crowd() // at a
	is(t, w.ask("b", "buildings", 512), admission.Admit, admission.Fits)
}

// TestASizeThatIsOfNoUseIsNotRecommended: the queue is full but for a moment.
func TestASizeThatIsOfNoUseIsNotRecommended(t *testing.T) {
	w := newWorld(t, "a")
	for range 8 {
		for _, side := range []int{64, 128, 256, 512, 1024} {
			w.run("a", side, time.Duration(float64(side*side)/(1024*1024)*4*float64(time.Second)), 0)
		}
	}
	w.rested()
	sides := map[int]bool{}
	for full := false; !full; { // by an eighth of a second each
		w.queued("a", "people", 181)
		d := w.ask("a", "people", 1024)
		full = w.ask("a", "people", 64).Verdict != admission.Admit
		if d.Verdict != admission.Admit {
			sides[d.MaxSide] = true
			assert.True(t, d.MaxSide == 0 || d.MaxSide >= w.settings.MinSide, d.MaxSide)
		}
	}
	assert.True(t, sides[0])
	assert.Greater(t, len(sides), 3, "larger ones are")
}

func TestPromptsPastTheProxyPrecede(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.servers["a"].Queued = 5
	w.seen(w.servers["a"])
	assert.InDelta(t, 10, w.ask("a", "people", 512).Wait.Seconds(), 0.5, "as long as others usually take")
}
