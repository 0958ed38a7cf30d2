// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

func newRandom(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

// level is the GPU's after its level could change.
func (w *world) level() Level {
	w.pass(dwell + time.Second)
	w.sampled()
	return w.Load(theGPU, w.now).Level
}

// waiting has so many prompts run and wait at server a, of which the first one just began.
func (w *world) waiting(n int) {
	s := w.servers["a"]
	s.Prompts, s.Queued = nil, 0
	w.seen(s)
	for range n {
		w.queued("a", "people", 512)
	}
}

func TestLevelsFollowTheWait(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	at := func(waiting int) Level {
		w.pass(dwell + time.Second)
		w.waiting(waiting)
		w.sampled()
		return w.Load(theGPU, w.now).Level
	}
	assert.Equal(t, Normal, at(0))
	assert.Equal(t, Normal, at(1), "nothing waits")
	assert.Equal(t, Busy, at(3), "the GPU is 90 % busy and something waits")
	assert.InDelta(t, 6, w.Load(theGPU, w.now).Wait.Seconds(), 0.1, "three of 2 s")
	w.gpu.Utilization = 0.7
	assert.Equal(t, Normal, at(3))
	assert.Equal(t, Saturated, at(8), "16 s of 30 s")
	assert.Equal(t, Saturated, at(6), "12 s: it leaves below 10.5 s")
	assert.Equal(t, Normal, at(5))
	assert.Equal(t, Critical, at(16))
	assert.Equal(t, Critical, at(12))
	assert.Equal(t, Saturated, at(10))
	assert.Equal(t, Normal, at(1))
	ofBatch := func(waiting int, by func() float64) Load {
		w.pass(dwell + time.Second)
		w.waiting(1)
		s := w.servers["a"]
		for range waiting {
			w.queued("a", "buildings", 512)
			s.Prompts[len(s.Prompts)-1].Number = by()
		}
		w.sampled()
		return w.Load(theGPU, w.now)
	}
	number := 0.0
	inOrder := func() float64 { number++; return number }
	last := func() float64 { return Number(w.now, w.now, true) }
	w.settings.Classes["buildings"] = Class{Objective: 2 * time.Minute, Batch: true}
	assert.Equal(t, Critical, ofBatch(16, inOrder).Level, "in a queue without an order of ours a new image waits for them")
	load := ofBatch(16, last)
	assert.Equal(t, Normal, load.Level, "a new image begins once the first has ended")
	assert.InDelta(t, 34, load.Wait.Seconds(), 0.5, "of batch, which is more of its objective: 34 s of 120 s, 2 s of 30 s")
	assert.Equal(t, Saturated, ofBatch(32, last).Level, "66 s of 120 s")
	assert.Equal(t, Critical, ofBatch(64, last).Level)
	delete(w.settings.Classes, "buildings")
	assert.Equal(t, Normal, at(0))
	w.gpu.Unhealthy = true
	w.sampled()
	assert.Equal(t, Unhealthy, w.Load(theGPU, w.now).Level, "at once")
	w.gpu.Unhealthy = false
	w.sampled()
	assert.Equal(t, Unhealthy, w.Load(theGPU, w.now).Level, "for a while")
	assert.Equal(t, Normal, at(0))
	assert.Equal(t, Normal, w.Load("no such GPU", w.now).Level)
}

func TestLevelsDoNotFlap(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	random := newRandom(1)
	was, changes := w.level(), 0
	for range 10 * 60 { // ten minutes around the threshold of 15 s
		w.pass(time.Second)
		w.waiting(4 + random.IntN(8))
		w.sampled()
		if l := w.Load(theGPU, w.now).Level; l != was {
			was = l
			changes++
		}
	}
	assert.Positive(t, changes)
	assert.LessOrEqual(t, changes, 10)
}

// TestAHealthyGPUAdmits has anything happen, and then nothing: what fits is admitted, once the idle
// neighbours have freed what they still hold. Only after two tries in a row that ran out of memory it may
// have to wait for an hour.
func TestAHealthyGPUAdmits(t *testing.T) {
	held := 0
	for seed := range uint64(60) {
		random := newRandom(seed)
		w := newWorld(t, "a", "b")
		w.gpu.Capacity = 12 * gib
		w.learned("a", 20)
		w.learned("b", 20)
		w.rested()
		before := w.all()
		failed, failures := time.Time{}, 0
		names := []string{"a", "b"}
		for range 200 {
			name := names[random.IntN(2)]
			s := w.servers[name]
			class := []string{"people", "buildings", "other"}[random.IntN(3)]
			switch random.IntN(10) {
			case 0, 1, 2:
				if d := w.claimed(name, class, 512); d.Claim != 0 && random.IntN(4) > 0 {
					w.Settle(d.Claim, w.queued(name, class, 512))
				} else if d.Claim != 0 && random.IntN(2) == 0 {
					w.Settle(d.Claim, "")
				}
			case 3, 4:
				if len(s.Prompts) > 0 {
					x := &Execution{ID: w.ended(name), Server: name, Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: 2 * time.Second}
					if x.OutOfMemory = random.IntN(20) == 0; x.OutOfMemory {
						failed, x.Reserved = w.now, 3*gib
					}
					if x.Succeeded = !x.OutOfMemory && random.IntN(4) > 0; random.IntN(5) > 0 {
						w.Executed(x)
						if x.OutOfMemory {
							failures++
						} else if x.Succeeded {
							failures = 0
						}
					}
				}
			case 5:
				s.Memory.Reserved, s.Memory.At = random.Int64N(6*gib), w.now
			case 6:
				w.gpu.Unhealthy = random.IntN(2) == 0
			case 7:
				w.RemoveServer(name)
				s.Prompts, s.Queued, s.Memory.Reserved = nil, 0, 0
			case 9: // its process ends, with its prompts; or it is back
				if s.Unreachable.IsZero() {
					s.Unreachable = w.now
				} else {
					s.Unreachable, s.Prompts, s.Queued, s.Memory.Reserved = time.Time{}, nil, 0, 0
				}
				w.seen(s)
			case 8:
				w.pass(time.Duration(random.IntN(60)) * time.Second) // samples may be old
			}
			w.pass(time.Duration(random.IntN(3000)) * time.Millisecond)
			if random.IntN(3) > 0 {
				w.sampled()
			}
		}
		f := newFreeing(w, random)
		for _, s := range w.servers {
			if random.IntN(2) == 0 { // the cause has gone, or the process has
				s.Unreachable = time.Time{}
			}
			if s.Unreachable.IsZero() {
				s.Prompts, s.Queued, s.Memory.Reserved, s.Memory.At = nil, 0, random.Int64N(9*gib), w.now
			}
		}
		w.gpu.Unhealthy = false
		w.sampled()
		w.pass(time.Minute)
		w.sampled()
		now := f.all()
		if failures >= 2 && slices.ContainsFunc(now, func(v admission.Verdict) bool { return v != admission.Admit }) {
			held++
			w.pass(probeAgain - w.now.Sub(failed))
			w.sampled()
			now = f.all()
		}
		assert.Equal(t, before, now, "seed %d", seed)
		assert.Zero(t, w.Claims())
	}
	assert.Less(t, held, 30, "not always by a prompt that ran out of memory")
}

// all are the verdicts about all classes at both servers.
func (w *world) all() (all []admission.Verdict) {
	for _, name := range []string{"a", "b"} {
		for _, class := range []string{"people", "buildings", "other"} {
			all = append(all, w.ask(name, class, 512).Verdict)
		}
	}
	return all
}

// all are those that are decided in the end, when the proxy has had what is idle freed.
func (f *freeing) all() (all []admission.Verdict) {
	for _, name := range []string{"a", "b"} {
		for _, class := range []string{"people", "buildings", "other"} {
			all = append(all, f.settled(name, class, 20*time.Second).Verdict)
		}
	}
	return all
}

// TestCoreIsWhatIsMarked, and all that is not batch where nothing is.
func TestCoreIsWhatIsMarked(t *testing.T) {
	settings := DefaultSettings()
	settings.Classes = map[string]Class{
		"people":    {Deadline: 5 * time.Minute, Objective: 10 * time.Second, Core: true},
		"previews":  {Deadline: 5 * time.Minute, Objective: time.Second},
		"buildings": {Deadline: 5 * time.Minute, Objective: time.Second, Batch: true},
	}
	w := newWorld(t, "a")
	w.Engine = New(settings)
	w.sampled()
	assert.Equal(t, 10*time.Second, w.objective(), "of people")
	w.learned("a", 20)
	w.rested()
	w.queued("a", "people", 512) // runs
	for _, class := range []string{"buildings", "buildings", "previews"} {
		w.queued("a", class, 512)
	}
	is(t, w.ask("a", "buildings", 512), admission.Admit, admission.Fits, "previews do not hold batch back")
	w.queued("a", "people", 512)
	is(t, w.ask("a", "buildings", 512), admission.Reject, admission.BatchWaits)

	for name, c := range settings.Classes {
		c.Core = false
		settings.Classes[name] = c
	}
	unmarked := New(settings)
	assert.True(t, unmarked.isCore("previews"))
	assert.True(t, unmarked.isCore("another"))
	assert.False(t, unmarked.isCore("buildings"))
	assert.Equal(t, time.Second, unmarked.objective(), "of previews")
	settings.Default.Objective = 0
	settings.Classes = nil
	assert.Zero(t, New(settings).objective())
	w.Engine = New(settings)
	w.sampled()
	assert.Equal(t, Busy, w.Load(theGPU, w.now).Level, "without an objective no wait is too long")
}
