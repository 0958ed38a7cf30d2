// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// shortage is the GPU's in GiB, once everything was read.
func (w *world) shortage() float64 {
	w.sampled()
	return w.known()
}

// known is the GPU's in GiB by what was read.
func (w *world) known() float64 { return float64(w.Load(theGPU, w.now).Shortage) / float64(gib) }

// foreign has another program hold so much from now on, and everything be read.
func (w *world) foreign(bytes int64) {
	w.others = bytes
	w.sampled()
}

// A prompt of crowded needs 4 GiB, with its margin and context 4.7.
func TestAnotherProgramsMemoryIsAShortage(t *testing.T) {
	w := crowded(t)
	assert.Zero(t, w.shortage())
	w.foreign(2 * gib)
	assert.Zero(t, w.known(), "5.5 GiB are left for a")
	w.foreign(6 * gib)
	assert.InDelta(t, 4.7-1.5, w.known(), 0.01, "8 less 6, and b's context")
	w.MemoryRead(theGPU, 2*cuda, w.now.Add(time.Millisecond))
	assert.Zero(t, w.known(), "a sampler saw that it has gone")
	assert.Zero(t, w.Load("no such GPU", w.now).Shortage)
}

func TestWhatAnIdleNeighbourGivesBackIsNoShortage(t *testing.T) {
	w := crowded(t)
	w.holds("b", 6*gib)
	assert.Zero(t, w.known())
	w.holds("b", 2*gib)
	w.foreign(5 * gib)
	assert.InDelta(t, 4.7-2.5, w.known(), 0.01, "8 less 5, and b's context")
}

func TestAWorkingNeighboursMemoryIsAShortage(t *testing.T) {
	w := crowded(t)
	w.queued("b", "people", 512)
	w.holds("b", 6*gib)
	assert.InDelta(t, 4.7-1.5, w.known(), 0.01)
	w.ended("b")
	assert.Zero(t, w.shortage())
}

func TestWhatAServerHoldsItselfIsNoShortage(t *testing.T) {
	w := crowded(t)
	w.holds("a", 5*gib)
	w.foreign(2 * gib)
	assert.Zero(t, w.known(), "its allocator has what it needs")
	w.holds("a", 2*gib)
	w.foreign(4500 * gib / 1000)
	assert.InDelta(t, 4.7-3, w.known(), 0.01, "some of it")
}

func TestServersThatShareTheMemoryInTurnsAreNotShort(t *testing.T) {
	w := crowded(t)
	w.holds("a", 4*gib)
	w.run("a", 512, 2*time.Second, 4*gib) // b holds nothing, and then 3.5 GiB
	w.holds("b", 3*gib)
	w.run("b", 512, 2*time.Second, 0)
	w.run("a", 512, 2*time.Second, 0)
	w.queued("b", "people", 512)
	assert.Zero(t, w.shortage(), "it succeeded with what its allocator held, without a margin")
}

func TestWhatSucceededWithAsLittleRoomIsNoShortage(t *testing.T) {
	w := crowded(t)
	w.foreign(2900 * gib / 1000)
	assert.InDelta(t, 0.1, w.known(), 0.01)
	w.run("a", 512, 2*time.Second, 4*gib)
	assert.Zero(t, w.known(), "4.6 GiB were enough")
	w.foreign(3 * gib)
	assert.Zero(t, w.known(), "what others hold fluctuates")
	w.foreign(4 * gib)
	assert.InDelta(t, 4.6/1.05-3.5, w.known(), 0.01)
}

func TestWhatRanOutOfMemoryIsAShortage(t *testing.T) {
	w := crowded(t)
	w.foreign(2900 * gib / 1000)
	w.run("a", 512, 2*time.Second, 4*gib)
	assert.Zero(t, w.known())
	w.oom("a", 3*gib)
	w.foreign(2900 * gib / 1000)
	assert.InDelta(t, 0.1, w.known(), 0.01, "4.6 GiB were not enough any longer")
	w.foreign(0)
	w.oom("a", 7*gib)
	assert.Zero(t, w.shortage(), "it had the whole GPU")
}

func TestWhatWouldNotFitIntoTheEmptyGPUIsNoShortage(t *testing.T) {
	w := newWorld(t, "a")
	w.gpu.Capacity = 4600 * gib / 1000
	w.learned("a", 20) // with 4.5 GiB
	assert.Zero(t, w.shortage(), "it succeeds, whatever the margin says")
	w.oom("a", 2*gib)
	assert.Zero(t, w.shortage(), "nobody else holds anything")
}

func TestAnHourLaterThereIsNoShortage(t *testing.T) {
	w := crowded(t)
	w.foreign(6 * gib)
	assert.Positive(t, w.known())
	w.pass(time.Hour - time.Minute)
	w.foreign(6 * gib)
	assert.Positive(t, w.known())
	w.pass(2 * time.Minute)
	w.foreign(6 * gib)
	assert.Zero(t, w.known())
}

func TestOfWhatIsNotKnownThereIsNoShortage(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.gpu.Capacity = 8 * gib
	w.run("a", 512, 2*time.Second, 0)
	w.foreign(8 * gib)
	assert.Zero(t, w.known(), "nothing is learned of its memory")
	w = crowded(t)
	w.foreign(6 * gib)
	w.pass(46 * time.Second)
	assert.Zero(t, w.known(), "samples are stale")
	w.foreign(6 * gib)
	assert.Positive(t, w.known())
	w.gpu.Unhealthy = true
	w.foreign(6 * gib)
	assert.Zero(t, w.known())
	w.gpu.Unhealthy = false
	w.servers["a"].Memory.At = time.Time{}
	w.foreign(6 * gib)
	assert.Zero(t, w.known(), "how much of it is a's")
}

func TestElasticWeightsAreNoShortage(t *testing.T) {
	w := crowded(t)
	w.servers["a"].Memory.Dynamic = true
	w.foreign(6 * gib)
	assert.Zero(t, w.known())
	w.oom("a", 2*gib)
	w.foreign(6 * gib)
	assert.Positive(t, w.known(), "they did not make room")
	w = crowded(t)
	w.servers["b"].Memory.Elastic = 6 * gib
	assert.Zero(t, w.shortage(), "a neighbour's")
	w.foreign(gib)
	assert.Zero(t, w.known(), "8 less 1, and b's context")
	w.servers["b"].Memory.Elastic = gib
	w.foreign(5 * gib)
	assert.InDelta(t, 4.7-2.5, w.known(), 0.01)
}

func TestAServerThatComesBackHasExecutedNothing(t *testing.T) {
	w := crowded(t)
	w.foreign(6 * gib)
	assert.Positive(t, w.known())
	w.servers["a"].Arguments = 7 // with which it may need less
	w.foreign(6 * gib)
	assert.Zero(t, w.known())
	w.servers["a"].Arguments = 0
	w.foreign(6 * gib)
	assert.Positive(t, w.known())
	w.RemoveServer("a")
	w.foreign(6 * gib)
	assert.Zero(t, w.known())
}

// ofSide is what a size needs where 512 pixels need 4 GiB.
func ofSide(side int) int64 { return 4 * gib * int64(side*side) / (512 * 512) }

func TestAServerRemembersFewExecutions(t *testing.T) {
	w := crowded(t)
	for i := range 100 {
		w.run("a", 256+i, 2*time.Second, ofSide(256+i))
	}
	s := w.Engine.servers["a"]
	assert.Len(t, s.ran, maxRan)
	assert.LessOrEqual(t, cap(s.ran), 2*maxRan)
	w.run("a", 355, 2*time.Second, ofSide(355))
	assert.Len(t, s.ran, maxRan, "the same again")
	w.foreign(4 * gib)
	assert.Zero(t, w.known(), "the largest one is not among them")
}

// BenchmarkLoad is what a GPU's level and shortage cost, with four servers that executed twenty
// sizes each.
func BenchmarkLoad(b *testing.B) {
	w := newWorld(nil, "a", "b", "c", "d")
	for i := range 20 {
		for name := range w.servers {
			id := fmt.Sprint(name, i)
			w.executed(name, id, 256+16*i)
		}
	}
	w.sampled()
	b.ReportAllocs()
	for b.Loop() {
		w.Load(theGPU, w.now)
	}
}

// executed has a server have executed a prompt.
func (w *world) executed(name, id string, side int) {
	s := w.servers[name]
	s.Prompts = []comfyevents.OpenPrompt{{ID: id, Workflow: "colour", Model: "ddcolor", Side: side, Batch: 1, Accepted: w.now, Started: w.now}}
	w.seen(s)
	w.pass(2 * time.Second)
	s.Prompts, s.Queued = nil, 0
	w.seen(s)
	w.Executed(&Execution{ID: id, Server: name, Workflow: "colour", Model: "ddcolor", Side: side, Batch: 1, Ended: w.now, Ran: 2 * time.Second, Succeeded: true, Reserved: gib, Grew: true})
}
