// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// freeing plays the proxy, and the servers that it asks to free their memory: each at most once a minute,
// what is more often is ignored.
type freeing struct {
	*world
	random *rand.Rand
	// leaves are what servers cannot give back, foreign is what other programs hold, in bytes.
	leaves  map[string]int64
	foreign int64
	// asked is when a server freed its memory last, order in which they were asked.
	asked map[string]time.Time
	order []string
	// silent is true if servers do not say that they have freed their memory: the driver does.
	silent bool
	// hidden is what each gave back without a word, in bytes.
	hidden map[string]int64
}

func newFreeing(w *world, random *rand.Rand) *freeing {
	return &freeing{world: w, random: random, leaves: map[string]int64{}, asked: map[string]time.Time{}, hidden: map[string]int64{}}
}

// free has a server free its memory.
func (f *freeing) free(name string) {
	if n := len(f.order); n == 0 || f.order[n-1] != name {
		f.order = append(f.order, name)
	}
	if last, ok := f.asked[name]; ok && f.now.Sub(last) < time.Minute {
		return
	}
	f.asked[name] = f.now
	s := f.servers[name]
	if gives := max(s.Memory.Reserved-f.leaves[name], 0); f.silent {
		f.hidden[name] = gives
	} else {
		s.Memory.Reserved, s.Memory.At = s.Memory.Reserved-gives, f.now
	}
	s.Unloaded = f.now
}

// sampled is the world's, of which the driver has the truth.
func (f *freeing) sampled() {
	f.world.sampled()
	f.gpu.Used += f.foreign
	for _, gave := range f.hidden {
		f.gpu.Used -= gave
	}
	f.SetGPU(f.gpu)
}

// settled asks for a prompt at a server until it is not held, or for so long.
func (f *freeing) settled(name, class string, atMost time.Duration) (d admission.Decision) {
	for begun := f.now; ; {
		d = f.claimed(name, class, 512)
		if f.Settle(d.Claim, ""); d.Verdict != admission.Hold || f.now.Sub(begun) > atMost {
			return d
		}
		f.pass(200 * time.Millisecond)
		if d.Free != "" {
			f.free(d.Free)
		}
		if f.random.IntN(3) > 0 { // the driver is read a little later
			f.sampled()
		}
	}
}

func TestTwoIdleNeighboursAreBothFreed(t *testing.T) {
	w := newWorld(t, "a", "b", "c")
	w.gpu.Capacity = 12 * gib
	for range 21 {
		w.run("a", 512, 2*time.Second, 78*gib/10)
	}
	f := newFreeing(w, newRandom(1))
	f.sampled()
	w.holds("b", 3*gib)
	w.holds("c", 35*gib/10)
	d := w.ask("a", "people", 512)
	is(t, d, admission.Hold, admission.MemoryIdle, "neither of them holds enough")
	assert.Equal(t, "c", d.Free, "it gives back most")
	assert.Zero(t, w.Load(theGPU, w.now).Shortage, "what idle neighbours hold is not missing")
	assert.Equal(t, admission.Admit, f.settled("a", "people", 20*time.Second).Verdict)
	assert.Equal(t, []string{"c", "b"}, f.order)

	// c holds memory again within its minute; b, which holds less, may be asked.
	w.pass(50 * time.Second)
	w.holds("b", 5*gib)
	f.order, f.asked = nil, map[string]time.Time{}
	assert.Equal(t, admission.Admit, f.settled("a", "people", 20*time.Second).Verdict)
	assert.Equal(t, []string{"b"}, f.order)
	w.pass(20 * time.Second)
	w.queued("b", "people", 512)
	w.ended("b")
	w.holds("b", 4*gib)
	w.holds("c", 3*gib)
	assert.Equal(t, "c", w.claimed("a", "people", 512).Free, "b was asked just now")
	w.pass(time.Second)
	assert.Equal(t, "c", w.claimed("a", "people", 512).Free, "it has not answered yet")
	w.pass(freeTakes)
	assert.Equal(t, "b", w.claimed("a", "people", 512).Free, "c does not answer; b may be asked soonest")
}

func TestWhatAServerCannotGiveBackIsNotWaitedFor(t *testing.T) {
	w := crowded(t)
	f := newFreeing(w, newRandom(1))
	f.leaves["b"] = 33 * gib / 10 // of 3.1 that would have to go
	w.holds("b", 4*gib)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryIdle)
	is(t, f.settled("a", "people", 20*time.Second), admission.Admit, admission.Probe, "only the least fits")
	w.pass(time.Minute)
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryIdle, "it is asked again after a minute")
}

// TestIdleNeighboursAreFreedUntilItFits has idle neighbours hold anything, and other programs.
func TestIdleNeighboursAreFreedUntilItFits(t *testing.T) {
	admitted, freed := 0, 0
	for seed := range uint64(1000) {
		random := newRandom(seed)
		names := []string{"a", "b", "c", "d"}[:3+random.IntN(2)]
		w := newWorld(t, names...)
		random.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		w.gpu.Capacity = 14 * gib
		need := 3*gib + random.Int64N(6*gib)
		for range 21 {
			w.run(names[0], 512, 2*time.Second, need)
		}
		w.rested()
		f := newFreeing(w, random)
		f.silent = random.IntN(3) == 0
		f.foreign = random.Int64N(4 * gib)
		left := w.gpu.Capacity - f.foreign - cuda
		for _, name := range names[1:] {
			f.leaves[name] = random.Int64N(gib / 4)
			w.servers[name].Memory.Reserved = f.leaves[name] + random.Int64N(left/3)
			if random.IntN(3) == 0 { // it was asked a while ago, and has worked since
				f.asked[name] = w.now.Add(-time.Duration(random.IntN(60)) * time.Second)
			}
			left -= cuda + f.leaves[name]
		}
		f.sampled()
		bound := w.ask(names[0], "people", 512).Memory.Need - cuda
		d := f.settled(names[0], "people", 2*time.Minute)
		switch {
		case bound <= left:
			is(t, d, admission.Admit, admission.Fits, "seed %d", seed)
			admitted++
			if len(f.order) > 1 {
				freed++
			}
		case need <= left:
			assert.Equal(t, admission.Admit, d.Verdict, "seed %d", seed) // as a probe
		default:
			assert.NotEqual(t, admission.Fits, d.Reason, "seed %d", seed)
		}
	}
	assert.Greater(t, admitted, 100)
	assert.Greater(t, freed, 20, "more than one had to give its memory back")
}

// elastic has a server hold weights that it can evict, whether or not it says how many.
func (w *world) elastic(name string, bytes int64) {
	m := &w.servers[name].Memory
	m.Dynamic, m.Elastic, m.At = true, bytes, w.now
	w.sampled()
}

// TestANeighboursElasticWeightsAreFreed: its process evicts them for its own work only, and /free unloads
// them.
func TestANeighboursElasticWeightsAreFreed(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.rested()
	w.elastic("b", 20*gib)
	d := w.ask("a", "people", 512)
	is(t, d, admission.Hold, admission.MemoryIdle)
	assert.Equal(t, "b", d.Free)
	assert.Equal(t, 24*gib-20*gib-cuda, d.Memory.Room)
	assert.Zero(t, w.known(), "they are not missing")

	// By the driver's list, too.
	w.pass(time.Second)
	w.gpu.At, w.gpu.Listed, w.gpu.Processes = w.now, w.now, map[int]int64{100: cuda, 101: cuda + 20*gib}
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryIdle)
	w.gpu.Processes[101], w.gpu.Used = cuda+gib, 2*cuda+gib
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "the driver shows that it did")
	w.gpu.Listed, w.gpu.Processes = time.Time{}, nil
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "or shows less in use than the servers said")
}

func TestAWorkingNeighboursElasticWeightsAreWaitedFor(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.rested()
	w.queued("b", "people", 512)
	w.elastic("b", 20*gib)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy)
	assert.Zero(t, w.known(), "memory that is full by design is not short")
	w.ended("b")
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryIdle)
}

// TestOneOutOfMemoryHoldsNothingBackWhereWeightsAreElastic, neither on the server that holds them nor
// beside one that always works.
func TestOneOutOfMemoryHoldsNothingBackWhereWeightsAreElastic(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.rested()
	w.elastic("a", 20*gib)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.oom("a", 2*gib)
	d := w.ask("a", "people", 512)
	is(t, d, admission.Admit, admission.Fits, "its own weights make room, and it had 2 GiB only")
	assert.Equal(t, 24*gib-cuda, d.Memory.Room)

	w.elastic("a", 3*gib)
	w.queued("b", "people", 512)
	w.elastic("b", 20*gib)
	tried := w.claimed("a", "people", 512)
	is(t, tried, admission.Admit, admission.Probe)
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy, "one at a time")
	w.Settle(tried.Claim, "")
	w.servers["b"].Memory.Elastic = 0
	w.holds("b", 20*gib)
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy, "what tensors use is not evicted")
}
