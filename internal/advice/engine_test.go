// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	gib    = int64(1) << 30
	cuda   = gib / 2
	theGPU = "GPU-1"
)

// world is an engine, and servers a and b of one GPU of 24 GiB that a test plays.
type world struct {
	*Engine
	t       *testing.T
	now     time.Time
	gpu     GPU
	servers map[string]*comfyevents.Server
	number  int
	// others is what other programs hold, in bytes.
	others int64
}

// newWorld is one whose classes are people, with a deadline of 30 s, and buildings, which is batch.
func newWorld(t *testing.T, servers ...string) *world {
	s := DefaultSettings()
	s.Classes = map[string]Class{
		"people":    {Deadline: 30 * time.Second, Objective: 30 * time.Second},
		"buildings": {Deadline: 30 * time.Second, Objective: 30 * time.Second, Batch: true},
	}
	w := &world{Engine: New(s), t: t, now: time.Unix(1_800_000_000, 0), gpu: GPU{ID: theGPU, Product: "RTX", Capacity: 24 * gib, Utilization: 0.9}, servers: map[string]*comfyevents.Server{}}
	for i, name := range servers {
		w.servers[name] = &comfyevents.Server{Name: name, GPUs: []string{theGPU}, PID: 100 + i, Version: "0.3", Memory: comfyevents.Memory{At: w.now, Context: cuda}}
	}
	w.sampled()
	return w
}

// sampled has everything be read.
func (w *world) sampled() {
	w.gpu.At, w.gpu.Used = w.now, w.others
	for _, s := range w.servers {
		w.gpu.Used += s.Memory.Context + s.Memory.Reserved + s.Memory.Elastic
	}
	w.SetGPU(w.gpu)
	for _, name := range slices.Sorted(maps.Keys(w.servers)) { // a test is the same each time
		w.seen(w.servers[name])
	}
}

// seen has the engine see a server's queue.
func (w *world) seen(s *comfyevents.Server) {
	s.Open, s.Queued = len(s.Prompts), max(s.Queued, len(s.Prompts))
	w.SetServer(s, w.now)
}

func (w *world) pass(d time.Duration) { w.now = w.now.Add(d) }

// queued has a prompt be accepted, and start if nothing runs.
func (w *world) queued(name, class string, side int) string {
	s := w.servers[name]
	w.number++
	id := fmt.Sprint("prompt ", w.number)
	p := comfyevents.OpenPrompt{
		ID: id, Workflow: "colour", Model: "ddcolor", TaskClass: class, Side: side, Batch: 1,
		Number: Number(w.now, w.now.Add(30*time.Second), class == "buildings"), Accepted: w.now,
	}
	if len(s.Prompts) == 0 {
		p.Started = w.now
	}
	s.Prompts = append(s.Prompts, p)
	w.seen(s)
	return id
}

// ended has what runs end, and the next prompt start.
func (w *world) ended(name string) (id string) {
	s := w.servers[name]
	id = s.Prompts[0].ID
	s.Prompts = append([]comfyevents.OpenPrompt{}, s.Prompts[1:]...)
	if len(s.Prompts) > 0 {
		s.Prompts[0].Started = w.now
	}
	s.Queued = 0
	w.seen(s)
	return id
}

// rested has so long pass that no core work is expected.
func (w *world) rested() {
	w.pass(10 * time.Minute)
	w.sampled()
}

// run has a server run a prompt for a time, and the engine learn from it.
func (w *world) run(name string, side int, took time.Duration, need int64) {
	id := w.queued(name, "people", side)
	w.pass(took)
	require.Equal(w.t, id, w.ended(name))
	w.Executed(&Execution{
		ID: id, Server: name, Workflow: "colour", Model: "ddcolor", Side: side, Batch: 1, Ended: w.now, Ran: took, Succeeded: true, Active: need * 9 / 10, Reserved: need, Grew: need > 0,
	})
}

// learned has the first prompts take 2 s and need 4 GiB at 512 pixels.
func (w *world) learned(name string, times int) {
	for range times + 1 { // the first one loads the model
		w.run(name, 512, 2*time.Second, 4*gib)
	}
	w.sampled()
}

func (w *world) ask(name, class string, side int) admission.Decision {
	return w.Advise(&admission.Request{Server: name, Class: class, Workflow: "colour", Model: "ddcolor", Side: side, Batch: 1}, w.now)
}

func (w *world) claimed(name, class string, side int) admission.Decision {
	return w.Advise(&admission.Request{Server: name, Class: class, Workflow: "colour", Model: "ddcolor", Side: side, Batch: 1, Claim: true}, w.now)
}

// is asserts a decision.
func is(t *testing.T, d admission.Decision, v admission.Verdict, r admission.Reason, why ...any) {
	t.Helper()
	assert.Equal(t, fmt.Sprint(v, " ", r), fmt.Sprint(d.Verdict, " ", d.Reason), why...)
}

func TestWhatIsNotKnownIsAdmitted(t *testing.T) {
	w := newWorld(t, "a")
	is(t, w.ask("z", "people", 512), admission.Admit, admission.Unknown, "no such server")
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Unknown, "nothing is learned")
	w.servers["nowhere"] = &comfyevents.Server{Name: "nowhere"}
	w.seen(w.servers["nowhere"])
	is(t, w.ask("nowhere", "people", 512), admission.Admit, admission.Unknown, "its GPU is not known")
	w.learned("a", 10)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.pass(46 * time.Second)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Stale)
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.gpu.Unhealthy = true
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Reject, admission.Unhealthy)
}

func TestWhatWouldBeLateIsRefused(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	admitted := 0
	for ; admitted < 30; admitted++ {
		d := w.claimed("a", "people", 512)
		if d.Verdict != admission.Admit {
			is(t, d, admission.Reject, admission.Late)
			assert.InDelta(t, float64(2*admitted), d.Wait.Seconds(), 0.5, "until all that was accepted has ended")
			assert.Greater(t, d.RetryAfter, time.Second)
			assert.Less(t, d.RetryAfter, 10*time.Second)
			assert.Zero(t, d.MaxSide, "no size of which anything is known is in time")
			break
		}
		assert.InDelta(t, float64(2*admitted), d.Wait.Seconds(), 0.1)
		assert.InDelta(t, float64(2*admitted+2), d.Completion.Seconds(), 0.1)
		assert.LessOrEqual(t, d.CompletionLow, d.Completion)
		assert.GreaterOrEqual(t, d.CompletionHigh, d.Completion)
		w.Settle(d.Claim, w.queued("a", "people", 512))
	}
	assert.InDelta(t, 15, admitted, 1, "30 s of work")
	w.pass(2 * time.Second)
	w.ended("a")
	is(t, w.claimed("a", "people", 512), admission.Admit, admission.Fits, "there is room again")
}

func TestALongPromptIsAdmittedWhereNothingWaits(t *testing.T) {
	w := newWorld(t, "a")
	for range 12 {
		w.run("a", 2000, 40*time.Second, gib)
	}
	w.sampled()
	is(t, w.ask("a", "people", 2000), admission.Admit, admission.Idle, "else it would be refused for ever")
	w.queued("a", "people", 2000)
	is(t, w.ask("a", "people", 2000), admission.Reject, admission.Late)
}

func TestTheDeadlineOfARequestCounts(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.queued("a", "people", 512)
	w.queued("a", "people", 512)
	ask := func(d time.Duration) admission.Decision {
		return w.Advise(&admission.Request{Server: "a", Class: "people", Workflow: "colour", Model: "ddcolor", Side: 512, Deadline: d}, w.now)
	}
	is(t, ask(3*time.Second), admission.Reject, admission.Late, "even first it comes after what runs")
	is(t, ask(5*time.Second), admission.Admit, admission.Fits, "it precedes what waits")
	assert.InDelta(t, 2, ask(5*time.Second).Wait.Seconds(), 0.1)
	is(t, ask(time.Minute), admission.Admit, admission.Fits)
	assert.InDelta(t, 4, ask(time.Minute).Wait.Seconds(), 0.1)
}

func TestAnUrgentPromptMakesNoOtherLate(t *testing.T) {
	w := newWorld(t, "a")
	for range 21 {
		w.run("a", 512, 1900*time.Millisecond, 0)
	}
	w.sampled()
	urgent := &admission.Request{Server: "a", Class: "people", Workflow: "colour", Model: "ddcolor", Side: 512, Deadline: 8 * time.Second}
	for n := range 15 { // the last one ends 1.5 s before its deadline
		is(t, w.Advise(urgent, w.now), admission.Admit, admission.Fits, n)
		d := w.claimed("a", "people", 512)
		require.Equal(t, admission.Admit, d.Verdict)
		w.Settle(d.Claim, w.queued("a", "people", 512))
	}
	is(t, w.Advise(urgent, w.now), admission.Reject, admission.Late, "it is in time itself")
}

func TestBatchRunsLastAndFewOfItWait(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	number := func(deadline time.Time, batch bool) float64 { return Number(w.now, deadline, batch) }
	assert.Greater(t, number(w.now, true), number(w.now.Add(time.Hour), false))
	assert.Greater(t, number(w.now, true), number(time.Time{}, false))
	assert.Less(t, number(w.now, false), number(w.now.Add(time.Second), false))
	assert.Less(t, number(time.Time{}, false), Number(w.now.Add(time.Second), time.Time{}, false), "in their order")
	w.rested()
	w.queued("a", "people", 512)
	is(t, w.ask("a", "buildings", 512), admission.Admit, admission.Fits)
	w.queued("a", "people", 512)
	w.queued("a", "buildings", 512)
	is(t, w.ask("a", "buildings", 512), admission.Admit, admission.Fits, "one waits")
	w.queued("a", "buildings", 512)
	d := w.ask("a", "buildings", 512)
	is(t, d, admission.Reject, admission.BatchWaits, "two wait, and core work does")
	assert.Positive(t, d.RetryAfter)
	assert.True(t, d.Batch)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits, "core work precedes them")
	is(t, w.ask("b", "buildings", 512), admission.Reject, admission.BatchWaits, "it would slow down the neighbour, where core work waits")
	w.pass(2 * time.Second)
	w.ended("a")
	is(t, w.ask("b", "buildings", 512), admission.Admit, admission.Fits, "nothing but batch waits")
}

func TestBatchThatComesAgainHasLessTimeLeft(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	for range 3 {
		w.queued("a", "people", 512)
	}
	w.queued("a", "buildings", 512)
	w.queued("a", "buildings", 512)
	d := w.claimed("a", "buildings", 512)
	is(t, d, admission.Reject, admission.BatchWaits)
	require.LessOrEqual(t, d.RetryAfter, 3*time.Second)
	came := w.now
	w.pass(time.Duration((d.RetryAfter.Seconds() + 0.999)) * time.Second)
	again := &job{server: w.Engine.servers["a"], batch: true, side: 512, kind: w.kindOf(w.Engine.servers["a"], "colour", "ddcolor")}
	g := w.gpus[theGPU]
	first, ok := g.promises.returned(again.promiseKey(), 0, w.now, true)
	assert.True(t, ok)
	assert.Equal(t, came, first)
	_, ok = g.promises.returned(again.promiseKey(), 0, w.now, true)
	assert.False(t, ok, "one only")
	again.side = 1024
	w.claimed("a", "buildings", 512)
	w.pass(time.Second)
	_, ok = g.promises.returned(again.promiseKey(), 0, w.now, true)
	assert.False(t, ok, "another size is another prompt")
}

// TestCoreThatComesAgainTakesThePlaceItWouldHaveHad: it precedes those that came since, and has until its
// first deadline. One that cannot be in time any more counts as one that comes now.
func TestCoreThatComesAgainTakesThePlaceItWouldHaveHad(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	came := w.now
	var refused admission.Decision
	for range 40 {
		if refused = w.ask("a", "people", 512); refused.Verdict != admission.Admit {
			break
		}
		w.queued("a", "people", 512)
	}
	is(t, refused, admission.Reject, admission.Late)
	refused = w.claimed("a", "people", 512)
	comes := time.Duration(math.Ceil(refused.RetryAfter.Seconds())) * time.Second
	for w.now.Sub(came) < comes {
		w.pass(time.Second)
		w.ended("a") // sooner than was predicted
	}
	w.queued("a", "people", 512) // meanwhile others came
	again := w.claimed("a", "people", 512)
	is(t, again, admission.Admit, admission.Fits)
	assert.Equal(t, came.Add(30*time.Second), again.Deadline, "that of the first try")
	assert.True(t, again.Returned)
	assert.False(t, refused.Returned)
	queue := w.Engine.servers["a"].queue
	require.Greater(t, len(queue), 1)
	assert.Equal(t, again.Claim, queue[len(queue)-2].claim, "it precedes who came meanwhile")
}

// returning has a batch prompt come again to a server with so little time left that it would be late.
func (w *world) returning(name string) admission.Decision {
	s := w.Engine.servers[name]
	key := promiseKey{s, true, w.kindOf(s, "colour", "ddcolor"), 512}
	w.gpus[theGPU].promises.add(&promise{promiseKey: key, at: w.now, came: w.now.Add(-29 * time.Second)})
	return w.ask(name, "buildings", 512)
}

func TestBatchThatIsLateSinceItCameBeforeMakesRoom(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.rested()
	is(t, w.returning("a"), admission.Admit, admission.Idle, "the GPU has nothing to do")
	w.queued("b", "people", 512)
	is(t, w.returning("a"), admission.Reject, admission.Late, "a neighbour works")
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	w.ended("b")
	w.rested()
	w.crowd()
	is(t, w.returning("a"), admission.Reject, admission.Late, "others come at once, with more time left")
	is(t, w.ask("a", "buildings", 520), admission.Admit, admission.Fits, "another one")
}

// crowd has many batch prompts be expected to come again.
func (w *world) crowd() {
	for i := range crowd {
		w.gpus[theGPU].promises.add(&promise{promiseKey: promiseKey{server: w.Engine.servers["a"], batch: true, side: 2000 + i}, at: w.now.Add(time.Second)})
	}
}

func TestOfACrowdOfBatchOneWaits(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	w.queued("a", "buildings", 512) // runs
	w.queued("a", "buildings", 512)
	is(t, w.ask("a", "buildings", 512), admission.Admit, admission.Fits)
	w.crowd()
	d := w.ask("a", "buildings", 512)
	is(t, d, admission.Reject, admission.BatchWaits, "there will be one once the next has begun")
	assert.LessOrEqual(t, d.RetryAfter, 2*time.Second)
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
}

func TestClaimsTakeTheirRoomUntilTheyAreSettled(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	first, second := w.claimed("a", "people", 512), w.claimed("a", "people", 512)
	assert.NotEqual(t, first.Claim, second.Claim)
	assert.InDelta(t, 0, first.Wait.Seconds(), 0.01)
	assert.InDelta(t, 2, second.Wait.Seconds(), 0.1, "it comes after what was promised")
	assert.Equal(t, 2, w.Claims())
	w.Settle(second.Claim, "")
	assert.InDelta(t, 2, w.ask("a", "people", 512).Wait.Seconds(), 0.1, "the second one does not run")
	// The first one is settled before its server shows it.
	w.Settle(first.Claim, "prompt 100")
	assert.Zero(t, w.Claims())
	assert.InDelta(t, 2, w.ask("a", "people", 512).Wait.Seconds(), 0.1)
	w.number = 99
	assert.Equal(t, "prompt 100", w.queued("a", "people", 512))
	assert.InDelta(t, 2, w.ask("a", "people", 512).Wait.Seconds(), 0.1, "it is the same")
	// The third one is settled after its server has shown it.
	third := w.claimed("a", "people", 512)
	id := w.queued("a", "people", 512)
	w.Settle(third.Claim, id)
	assert.InDelta(t, 4, w.ask("a", "people", 512).Wait.Seconds(), 0.1)
	assert.False(t, w.Engine.servers["a"].byID[id].predicted.at.IsZero(), "what was predicted of it is kept")
	// The fourth one is never settled.
	w.claimed("a", "people", 512)
	w.pass(admission.ClaimTimeout / 2)
	w.sampled()
	w.ask("a", "people", 512)
	assert.Equal(t, 1, w.Claims())
	w.pass(admission.ClaimTimeout/2 + time.Second)
	w.ask("a", "people", 512)
	assert.Zero(t, w.Claims())
}

func TestAServerThatLeavesTakesItsClaimsWithIt(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 10)
	w.claimed("a", "people", 512)
	kept := w.claimed("b", "people", 512)
	w.RemoveServer("a")
	assert.Equal(t, 1, w.Claims())
	assert.Equal(t, []string{"b"}, w.Servers())
	w.Settle(kept.Claim, "")
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Unknown)
}

func TestMaxSideIsTheLargestThatWouldBeAdmitted(t *testing.T) {
	w := newWorld(t, "a")
	for range 6 {
		for _, side := range []int{512, 724, 1024} { // 1, 2, 4 s
			w.run("a", side, time.Duration(float64(side*side)/(512*512)*float64(time.Second)), int64(side)*int64(side)*4096)
		}
	}
	w.sampled()
	for range 7 {
		d := w.claimed("a", "people", 1024)
		if d.Verdict != admission.Admit {
			break
		}
		w.Settle(d.Claim, w.queued("a", "people", 1024))
	}
	d := w.claimed("a", "people", 1024)
	is(t, d, admission.Reject, admission.Late)
	require.Positive(t, d.MaxSide)
	assert.Less(t, d.MaxSide, 1024)
	assert.Zero(t, d.MaxSide%8)
	is(t, w.ask("a", "people", d.MaxSide), admission.Admit, admission.Fits)
	is(t, w.ask("a", "people", d.MaxSide+64), admission.Reject, admission.Late)
}
