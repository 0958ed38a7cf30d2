// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// crowded are servers a and b on a GPU of 8 GiB, of which each prompt needs 4.2 GiB with its context
// and margin 4.7.
func crowded(t *testing.T) *world {
	w := newWorld(t, "a", "b")
	w.gpu.Capacity = 8 * gib
	w.learned("a", 20)
	return w
}

// holds has a server's allocator hold so much.
func (w *world) holds(name string, reserved int64) {
	s := w.servers[name]
	s.Memory.Reserved, s.Memory.At = reserved, w.now
	w.sampled()
}

func TestAnIdleNeighbourIsFreed(t *testing.T) {
	w := crowded(t)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.holds("b", 4*gib)
	d := w.ask("a", "people", 512)
	is(t, d, admission.Hold, admission.MemoryIdle)
	assert.Equal(t, "b", d.Free)
	assert.Equal(t, 8*gib-cuda-4*gib, d.Memory.Room)
	assert.InDelta(t, 4.7, float64(d.Memory.Need)/float64(gib), 0.1)
	assert.InDelta(t, 4.1, float64(d.Memory.Least)/float64(gib), 0.1)
	w.holds("b", 0)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
}

func TestAWorkingNeighbourIsWaitedFor(t *testing.T) {
	w := crowded(t)
	w.rested()
	w.queued("b", "people", 512)
	d := w.ask("a", "people", 512)
	is(t, d, admission.Hold, admission.MemoryBusy, "it is about to need what it does not hold yet")
	assert.InDelta(t, 2, d.RetryAfter.Seconds(), 0.2, "until the neighbour has ended")
	w.queued("b", "people", 512)
	w.queued("b", "people", 512)
	assert.InDelta(t, 6, w.ask("a", "people", 512).RetryAfter.Seconds(), 0.2, "all that waits for it, too")
	for range 2 {
		w.ended("b")
		w.sampled()
	}
	w.pass(2 * time.Second)
	w.ended("b")
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
}

func TestTwoClaimsDoNotTakeTheSameRoom(t *testing.T) {
	w := crowded(t)
	first := w.claimed("a", "people", 512)
	is(t, first, admission.Admit, admission.Fits)
	is(t, w.claimed("b", "people", 512), admission.Hold, admission.MemoryBusy)
	w.Settle(first.Claim, "")
	is(t, w.claimed("b", "people", 512), admission.Admit, admission.Fits)
}

func TestMemoryOfOtherProgramsIsWaitedFor(t *testing.T) {
	w := crowded(t)
	w.gpu.Used += 5 * gib
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy)
	w.MemoryRead(theGPU, w.gpu.Used-5*gib, w.now.Add(time.Millisecond))
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "a sampler saw that it has gone")
}

func TestTheDriversListIsNewerThanTheServersWord(t *testing.T) {
	w := crowded(t)
	w.holds("b", 5*gib)
	w.pass(time.Second)
	w.gpu.At, w.gpu.Listed, w.gpu.Processes = w.now, w.now, map[int]int64{100: cuda, 101: cuda + gib}
	w.gpu.Used = 2*cuda + gib
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "b gave most of it back")
	w.gpu.Processes[101] = cuda + 4*gib
	w.gpu.Used = 2*cuda + 4*gib
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryIdle)
	w.pass(time.Second)
	w.servers["b"].Memory.At, w.servers["b"].Memory.Reserved = w.now, gib
	w.seen(w.servers["b"])
	w.MemoryRead(theGPU, 2*cuda+gib, w.now)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "now the server's word is the newer one")
}

func TestWhatNeverFitsIsRefusedForGood(t *testing.T) {
	w := newWorld(t, "a")
	for range 10 {
		w.run("a", 512, 2*time.Second, 4*gib)
	}
	w.gpu.Capacity = 4 * gib
	w.sampled()
	d := w.ask("a", "people", 512)
	is(t, d, admission.Reject, admission.TooLarge)
	assert.Zero(t, d.RetryAfter)
}

// oom has a server's prompt run out of memory.
func (w *world) oom(name string, reserved int64) {
	id := w.queued(name, "people", 512)
	w.pass(time.Second)
	w.ended(name)
	w.Executed(&Execution{ID: id, Server: name, Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: time.Second, OutOfMemory: true, Reserved: reserved})
	w.sampled()
}

// triedInVain has a prompt be admitted, and run out of memory.
func (w *world) triedInVain(name string) {
	w.t.Helper()
	d := w.claimed(name, "people", 512)
	require.Equal(w.t, admission.Admit, d.Verdict)
	id := w.queued(name, "people", 512)
	w.Settle(d.Claim, id)
	w.pass(time.Second)
	w.ended(name)
	w.Executed(&Execution{ID: id, Server: name, Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: time.Second, OutOfMemory: true, Reserved: 2 * gib})
	w.sampled()
}

// room is what prompts have that run out of memory.
const room = 4 * gib

func TestAfterAnOutOfMemoryAsLittleRoomIsATry(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.gpu.Capacity, w.others = 6*gib, gib // which may leave
	w.learned("a", 20)
	w.oom("a", room)
	w.over(&job{id: "cached"}, w.now)
	w.Executed(&Execution{ID: "cached", Server: "a", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Succeeded: true, Cached: true})
	tried := w.claimed("a", "people", 512)
	is(t, tried, admission.Admit, admission.Probe, "results that were cached fit anywhere")
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy, "one at a time")
	id := w.queued("a", "people", 512)
	w.Settle(tried.Claim, id)
	w.pass(time.Second)
	w.ended("a")
	w.Executed(&Execution{ID: id, Server: "a", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: time.Second, OutOfMemory: true, Reserved: room})
	w.sampled()
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy, "two tries in a row failed")
	w.pass(59 * time.Minute)
	w.sampled()
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy)
	w.pass(2 * time.Minute)
	w.sampled()
	again := w.claimed("a", "people", 512)
	is(t, again, admission.Admit, admission.Probe, "an hour later")
	id = w.queued("a", "people", 512)
	w.Settle(again.Claim, id)
	w.pass(2 * time.Second)
	w.ended("a")
	w.Executed(&Execution{ID: id, Server: "a", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: 2 * time.Second, Succeeded: true})
	w.sampled()
	for range 3 {
		d := w.claimed("a", "people", 512)
		is(t, d, admission.Admit, admission.Probe, "one that fitted ends the caution")
		w.Settle(d.Claim, "")
	}
}

// TestWhatRanOutOfNearlyAllMemoryIsRefusedForGood: the neighbours' contexts, and what a screen or the driver
// has, are never there for it. It is tried again an hour later, and at once where there is more than it had.
func TestWhatRanOutOfNearlyAllMemoryIsRefusedForGood(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.gpu.Capacity, w.others = 5*gib, 50<<20
	for range 20 {
		w.run("a", 512, 2*time.Second, 3*gib)
	}
	w.rested()
	w.triedInVain("a")
	w.pass(time.Second)
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Probe)
	w.triedInVain("a")
	d := w.ask("a", "people", 512)
	is(t, d, admission.Reject, admission.TooLarge)
	assert.Zero(t, d.RetryAfter)
	w.queued("b", "people", 512)
	is(t, w.ask("a", "people", 512), admission.Reject, admission.TooLarge, "whatever a neighbour does")
	w.ended("b")
	w.foreign(0)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "with more than it had")
	w.others = 50 << 20
	w.pass(probeAgain)
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Probe, "an hour later")
}

// TestWhatIsLargerThanWhatRanOutOfMemoryIsATry, too: it needs no less.
func TestWhatIsLargerThanWhatRanOutOfMemoryIsATry(t *testing.T) {
	w := newWorld(t, "a")
	w.gpu.Capacity = 6 * gib
	for range 10 { // the largest size that was seen is larger than what runs out of memory
		for _, side := range []int{480, 512, 560} {
			w.run("a", side, 2*time.Second, ofSide(side))
		}
	}
	w.rested()
	is(t, w.ask("a", "people", 520), admission.Admit, admission.Fits)
	w.oom("a", 6*gib-cuda)
	w.rested()
	is(t, w.ask("a", "people", 480), admission.Admit, admission.Fits, "it is smaller")
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Probe)
	is(t, w.ask("a", "people", 520), admission.Admit, admission.Probe)
	for _, side := range []int{520, 560, 800} {
		is(t, w.ask("a", "people", side), admission.Admit, admission.Probe, side)
	}
	tried := w.claimed("a", "people", 520)
	is(t, tried, admission.Admit, admission.Probe)
	is(t, w.ask("a", "people", 528), admission.Hold, admission.MemoryBusy, "one at a time, whatever their sizes")
	w.Settle(tried.Claim, "")
	w.oom("a", 6*gib-cuda)
	w.rested()
	is(t, w.ask("a", "people", 520), admission.Reject, admission.TooLarge, "two of a smaller size ran out of all that there is")
	assert.LessOrEqual(t, w.ask("a", "people", 560).MaxSide, 504)
	w.run("a", 560, 2*time.Second, ofSide(560))
	w.rested()
	is(t, w.ask("a", "people", 520), admission.Admit, admission.Fits, "a larger one needed less")
}

// TestTheOldestOutOfMemoryIsForgottenFirst: what clients call their workflows is theirs to choose.
func TestTheOldestOutOfMemoryIsForgottenFirst(t *testing.T) {
	g := &gpu{probes: map[probeKey]*probe{}}
	at := time.Unix(1_800_000_000, 0)
	key := func(i int) probeKey { return probeKey{Kind{Workflow: "colour"}, sizeOf(512+i, 1, 0)} }
	for i := range maxProbes + 10 {
		at = at.Add(time.Second)
		g.probed(key(i).Kind, key(i).Size, &Execution{OutOfMemory: true, Ended: at, Reserved: gib}, 0)
		if i == 3 {
			g.probes[key(i)].running = &job{}
		}
	}
	assert.Len(t, g.probes, maxProbes)
	for i := range maxProbes + 10 {
		assert.Equal(t, i == 3 || i > 10, !g.probes[key(i)].none(), i)
	}
}

func TestATryThatIsNotRunIsNoTry(t *testing.T) {
	w := newWorld(t, "a")
	w.gpu.Capacity = 5 * gib
	w.learned("a", 20)
	w.oom("a", 4500*gib/1000)
	tried := w.claimed("a", "people", 512)
	is(t, tried, admission.Admit, admission.Probe)
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy)
	w.Settle(tried.Claim, "")
	is(t, w.claimed("a", "people", 512), admission.Admit, admission.Probe, "the next one may")
	w.pass(admission.ClaimTimeout + time.Second)
	w.sampled()
	is(t, w.claimed("a", "people", 512), admission.Admit, admission.Probe, "nor one whose claim ended")
	w.RemoveServer("a")
	w.sampled()
	last := w.claimed("a", "people", 512)
	is(t, last, admission.Admit, admission.Probe, "nor one whose server has left")
	w.Settle(last.Claim, w.queued("a", "people", 512))
	w.ended("a") // and no trace comes
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy)
	w.pass(traceDelay + time.Second)
	w.sampled()
	is(t, w.claimed("a", "people", 512), admission.Admit, admission.Probe)
}

func TestWhereWeightsAreElasticOnlyAnOutOfMemoryRefuses(t *testing.T) {
	w := crowded(t)
	w.servers["a"].Memory.Dynamic = true
	w.holds("b", 6*gib)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.queued("b", "people", 512)
	another := w.Advise(&admission.Request{Server: "a", Class: "people", Workflow: "another", Model: "ddcolor", Side: 512, Batch: 1}, w.now)
	is(t, another, admission.Admit, admission.Unknown, "a workflow that is new, beside a neighbour that works")
	w.ended("b")
	w.oom("a", 2*gib)
	assert.Equal(t, admission.Hold, w.ask("a", "people", 512).Verdict)
}

func TestFullnessAloneRefusesNothing(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.holds("a", 23*gib) // its own allocator has it all
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.gpu.Utilization = 1
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
}
