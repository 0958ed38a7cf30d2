// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// TestAcceptedPromptsCountBeforeTheirServerShowsThem: it may be polled every few seconds.
func TestAcceptedPromptsCountBeforeTheirServerShowsThem(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	w.queued("a", "people", 512)
	accept := func(id string) admission.Decision {
		d := w.claimed("a", "people", 512)
		w.Settle(d.Claim, id)
		return d
	}
	ids := 0
	for accept(fmt.Sprint("remote ", ids)).Verdict == admission.Admit {
		ids++
		require.Less(t, ids, 20, "30 s for prompts of 2 s")
		w.seen(w.servers["a"]) // that shows none of them
	}
	before := w.ask("a", "people", 512).Wait
	s := w.servers["a"]
	s.Prompts = append(s.Prompts, comfyevents.OpenPrompt{
		ID: "remote 0", Workflow: "colour", Model: "ddcolor", TaskClass: "buildings", Side: 512, Batch: 1, Number: Number(w.now, w.now.Add(30*time.Second), false), Accepted: w.now,
	})
	w.seen(s)
	assert.Equal(t, before, w.ask("a", "people", 512).Wait, "it counts once")
	assert.False(t, w.Engine.servers["a"].byID["remote 0"].batch, "the class that was decided about counts, not the one that the queue has")
	w.Executed(&Execution{ID: "remote 1", Server: "a", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: 2 * time.Second, Succeeded: true})
	assert.Less(t, w.ask("a", "people", 512).Wait, before, "one has ended between two polls")
	w.pass(maxUnseen)
	w.seen(s)
	assert.Len(t, w.Engine.servers["a"].queue, 1, "those that never came are forgotten")
}

// TestAnotherWorkflowIDDoesNotTakeANeighboursMemory: a client chooses its workflow's id.
func TestAnotherWorkflowIDDoesNotTakeANeighboursMemory(t *testing.T) {
	w := crowded(t)
	w.rested()
	w.queued("b", "people", 512)
	ask := func(workflow, model string, side int) admission.Decision {
		return w.Advise(&admission.Request{Server: "a", Class: "people", Workflow: workflow, Model: model, Side: side, Batch: 1}, w.now)
	}
	is(t, ask("colour", "ddcolor", 512), admission.Hold, admission.MemoryBusy)
	is(t, ask("another", "ddcolor", 512), admission.Hold, admission.MemoryBusy)
	is(t, ask("another", "another", 512), admission.Admit, admission.Unknown, "of whose model nothing is known")
	w.ended("b")
	w.sampled()
	is(t, ask("another", "ddcolor", 512), admission.Admit, admission.Unknown, "no neighbour works")
}

// TestWhatRanOutOfMemoryTwiceIsTriedAgainAnHourLater: another program may have had the memory.
func TestWhatRanOutOfMemoryTwiceIsTriedAgainAnHourLater(t *testing.T) {
	w := newWorld(t, "a")
	w.gpu.Capacity = 5 * gib
	w.learned("a", 20)
	w.rested()
	for range 2 {
		w.triedInVain("a")
	}
	is(t, w.ask("a", "people", 512), admission.Reject, admission.TooLarge)
	w.pass(probeAgain)
	w.sampled()
	d := w.claimed("a", "people", 512)
	is(t, d, admission.Admit, admission.Probe)
	w.Settle(d.Claim, w.queued("a", "people", 512))
	w.pass(2 * time.Second)
	w.Executed(&Execution{ID: w.ended("a"), Server: "a", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Ended: w.now, Ran: 2 * time.Second, Succeeded: true, Active: 36 * gib / 10, Reserved: 4 * gib})
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
}

// TestCoreWorkAtANeighbourIsNotMadeLate by what would run beside it.
func TestCoreWorkAtANeighbourIsNotMadeLate(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.learned("b", 20)
	w.rested()
	s := w.servers["a"]
	runs := func(left time.Duration) {
		s.Prompts = []comfyevents.OpenPrompt{{
			ID: fmt.Sprint("with ", left), Workflow: "colour", Model: "ddcolor", TaskClass: "people", Side: 512, Batch: 1,
			Number: Number(w.now, w.now.Add(left), false), Accepted: w.now.Add(left - 30*time.Second), Started: w.now,
		}}
		w.seen(s)
	}
	runs(2500 * time.Millisecond) // it takes 2 s alone, 4 s beside another
	d := w.ask("b", "buildings", 512)
	is(t, d, admission.Reject, admission.BatchWaits)
	assert.Zero(t, d.MaxSide)
	is(t, w.ask("b", "people", 512), admission.Admit, admission.Idle, "an idle server takes core work at any rate")
	runs(10 * time.Second)
	is(t, w.ask("b", "buildings", 512), admission.Admit, admission.Fits)
	runs(time.Second) // it is late at any rate
	is(t, w.ask("b", "buildings", 512), admission.Admit, admission.Fits)
}

// TestBatchThatWaitsIsNotToldASize, since no size would be admitted.
func TestBatchThatWaitsIsNotToldASize(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	for _, class := range []string{"people", "people", "buildings", "buildings"} {
		w.queued("a", class, 512)
	}
	for _, side := range []int{8, 512} {
		d := w.ask("a", "buildings", side)
		is(t, d, admission.Reject, admission.BatchWaits)
		assert.Zero(t, d.MaxSide)
	}
}

// TestPromptsWithoutADeadlineWaitForThoseBefore.
func TestPromptsWithoutADeadlineWaitForThoseBefore(t *testing.T) {
	w := newWorld(t, "a")
	w.settings.Classes["ever"] = Class{}
	w.learned("a", 20)
	w.rested()
	s := w.servers["a"]
	for i := range 6 {
		p := comfyevents.OpenPrompt{ID: fmt.Sprint("ever ", i), Workflow: "colour", Model: "ddcolor", TaskClass: "ever", Side: 512, Batch: 1, Number: Number(w.now, time.Time{}, false), Accepted: w.now}
		if i == 0 {
			p.Started = w.now
		}
		s.Prompts = append(s.Prompts, p)
		w.pass(time.Millisecond)
	}
	w.seen(s)
	d := w.ask("a", "ever", 512)
	assert.InDelta(t, 12, d.Wait.Seconds(), 0.5)
	assert.InDelta(t, 14, d.Completion.Seconds(), 0.5)
}

// TestThoseRefusedAtOnceDoNotComeAgainAtOnce, whatever they are refused for.
func TestThoseRefusedAtOnceDoNotComeAgainAtOnce(t *testing.T) {
	w := crowded(t)
	w.rested()
	w.queued("b", "people", 512)
	refused := func(r admission.Reason) {
		at := map[time.Duration]bool{}
		for range staggers {
			d := w.claimed("a", "people", 512)
			assert.Equal(t, r, d.Reason)
			assert.GreaterOrEqual(t, d.RetryAfter, minRetry)
			assert.LessOrEqual(t, d.RetryAfter, time.Minute)
			asked := w.ask("a", "people", 512)
			assert.NotEqual(t, d.RetryAfter, asked.RetryAfter, "the next one")
			assert.Equal(t, asked.RetryAfter, w.ask("a", "people", 512).RetryAfter, "who only asks changes nothing")
			at[d.RetryAfter] = true
		}
		assert.Len(t, at, staggers)
	}
	refused(admission.MemoryBusy)
	w.gpu.Unhealthy = true
	w.sampled()
	refused(admission.Unhealthy)
}

// TestWhoAsksIsSentWhereThePromptWouldRun, unless it has begun at a server.
func TestWhoAsksIsSentWhereThePromptWouldRun(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.learned("b", 20)
	w.rested()
	// Of these nothing is known: one's GPU has no samples, the other one has none.
	w.servers["0"] = &comfyevents.Server{Name: "0", GPUs: []string{"GPU-2"}}
	w.servers["c"] = &comfyevents.Server{Name: "c"}
	w.sampled()
	a := w.advisor()
	server, workflow := "a", "colour"
	ask := func(claim bool) admission.Decision {
		d, err := a.Advise(t.Context(), &admission.Request{Server: server, Class: "people", Workflow: workflow, Model: "ddcolor", Side: 512, Batch: 1, Claim: claim})
		require.NoError(t, err)
		return d
	}
	assert.Empty(t, ask(false).Target)
	for range 17 {
		w.queued("a", "people", 512)
	}
	d := ask(false)
	is(t, d, admission.Redirect, admission.Late)
	assert.Equal(t, "b", d.Target)
	server = ""
	d = ask(false)
	assert.Equal(t, admission.Admit, d.Verdict)
	assert.Equal(t, "b", d.Target, "known servers come first")
	workflow = "another"
	assert.Equal(t, "b", ask(false).Target, "nothing is learned of the prompt; it would begin at once")
	server, workflow = "a", "colour"
	is(t, ask(true), admission.Reject, admission.Late, "what has begun is not moved")
	for range 17 {
		w.queued("b", "people", 512)
	}
	d = ask(false)
	is(t, d, admission.Redirect, admission.Late)
	assert.Equal(t, "0", d.Target, "where nothing is known, it may run")
	for _, name := range []string{"0", "c"} {
		w.RemoveServer(name)
		delete(w.servers, name)
	}
	is(t, ask(false), admission.Reject, admission.Late)
	w.settings.Standby = []string{"http://gpu-node-08:8188", "http://gpu-node-09:8188"}
	sent := map[string]int{}
	for range 4 {
		d := ask(false)
		is(t, d, admission.Redirect, admission.Late)
		sent[d.Target]++
	}
	assert.Equal(t, map[string]int{"http://gpu-node-08:8188": 2, "http://gpu-node-09:8188": 2}, sent)
	is(t, ask(true), admission.Reject, admission.Late)
}

// TestAcceptedPromptsThatNoServerShowsAreBounded, and those beyond are counted.
func TestAcceptedPromptsThatNoServerShowsAreBounded(t *testing.T) {
	w := newWorld(t, "a")
	s := w.Engine.servers["a"]
	s.unseen = maxClaims - 2
	for i := range 5 {
		d := w.claimed("a", "ever", 512)
		require.NotZero(t, d.Claim)
		w.Settle(d.Claim, fmt.Sprint("remote ", i))
	}
	assert.Len(t, s.queue, 2)
	assert.Len(t, s.byID, 2)
	assert.EqualValues(t, 3, w.Dropped)
	w.sampled()
	assert.Equal(t, 2, s.unseen)
	w.pass(maxUnseen)
	w.sampled()
	assert.Zero(t, s.unseen)
	assert.Empty(t, s.queue)
	assert.Empty(t, s.byID)
}
