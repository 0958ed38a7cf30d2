// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// discard is an [Observer] that is not interested.
type discard struct{}

func (discard) PromptEnded(*Prompt)              {}
func (discard) ExecutionStarted(Execution)       {}
func (discard) ExecutionMoved(Execution, bool)   {}
func (discard) RunsElsewhere(string) bool        { return false }
func (discard) PromptUnfollowed(*Prompt, string) {}

func request(client string) Request {
	return Request{Submission: protocol.Submission{ClientID: client, Nodes: []protocol.Node{{ID: "1", Class: "A"}}}}
}

func TestAPromptCostsTheSameHoweverManyAreOpen(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	with := func(open int) func(int) {
		tracker := NewTracker(Limits{Open: 20_000, Bytes: 1 << 30, Nodes: 100, Early: time.Second}, &sizing.Sizer{}, discard{})
		for i := range open {
			p := tracker.Submit(now, request("client"+strconv.Itoa(i%500)))
			tracker.Answer(p, now, 200, protocol.Answer{PromptID: "open" + strconv.Itoa(i)})
		}
		return func(i int) {
			id := "event" + strconv.Itoa(i)
			p := tracker.Submit(now, request("client"+strconv.Itoa(i%500)))
			tracker.Answer(p, now, 200, protocol.Answer{PromptID: id})
			tracker.Message(now, &protocol.Message{Kind: protocol.ExecutionStart, PromptID: id})
			tracker.Message(now, &protocol.Message{Kind: protocol.Executing, PromptID: id, Node: "1"})
			tracker.Settled(now, &protocol.Finished{Submission: protocol.Submission{PromptID: id}})
			assert.Equal(t, open, tracker.OpenCount())
		}
	}
	growth.Constant(t, "a prompt", with(1_000), with(10_000))
}

// Requests, answers, messages of known and unknown prompts and entries of the history in
// any order, with few ids: what is held stays within the limits.
func TestSizesOfATrackerStayWithinItsBounds(t *testing.T) {
	const limit = 40
	now := time.Unix(1_700_000_000, 0)
	limits := Limits{Open: limit, Bytes: 200_000, Nodes: 2, Early: time.Minute}
	o := &observer{}
	omitted := 0
	o.ended = func(p *Prompt) { omitted += p.Omitted }
	tracker := NewTracker(limits, &sizing.Sizer{}, o)
	seed := rand.New(rand.NewPCG(14, 3))
	var inFlight []*Prompt
	used := map[string]bool{}
	id := func() string { return strconv.Itoa(seed.IntN(3 * limit)) }
	for step := range 10_000 {
		now = now.Add(time.Millisecond)
		switch seed.IntN(10) {
		case 0, 1, 2:
			if p := tracker.Submit(now, request(id())); p != nil {
				inFlight = append(inFlight, p)
			}
		case 3, 4:
			if len(inFlight) == 0 {
				continue
			}
			i := seed.IntN(len(inFlight))
			p := inFlight[i]
			inFlight = append(inFlight[:i], inFlight[i+1:]...)
			if seed.IntN(50) == 0 {
				tracker.Unanswered(p)
				tracker.unanswered = nil // a process has one shutdown
			} else {
				tracker.Answer(p, now, []int{200, 200, 200, 400, 502}[seed.IntN(5)], protocol.Answer{PromptID: id()})
			}
		case 5, 6:
			kind := []protocol.Kind{protocol.ExecutionStart, protocol.Executing, protocol.Executed, protocol.ExecutionSuccess, protocol.ExecutionError}[seed.IntN(5)]
			tracker.Message(now, &protocol.Message{
				Kind: kind, PromptID: id(), Node: strconv.Itoa(seed.IntN(20)), Outputs: map[string]int{strconv.Itoa(seed.IntN(1000)): 1},
			})
		case 7:
			tracker.Settled(now, &protocol.Finished{Submission: protocol.Submission{PromptID: id()}})
		case 8:
			tracker.Recover(now, Discovered(&protocol.Submission{PromptID: id(), ClientID: id()}, now, true))
		case 9:
			tracker.Expire(now)
			tracker.Missing(now, id())
		}
		all := tracker.Bounds()
		require.NoError(t, growth.Within(all), "after step %d", step)
		for name := range growth.Used(all) {
			used[name] = true
		}
		tracker.mu.Lock()
		for _, p := range tracker.open {
			assert.LessOrEqual(t, len(p.Outputs), maxOutputs)
			assert.LessOrEqual(t, len(p.Nodes), limits.Nodes)
		}
		tracker.mu.Unlock()
	}
	assert.Len(t, used, 5, "all but those of shutdown held something: %v", used)
	assert.Positive(t, o.unfollowed)
	assert.Positive(t, omitted)
}

// Messages about many nodes of many prompts: their memory has one bound for all.
func TestTheNodesOfAllPromptsShareTheMemory(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	tracker := NewTracker(Limits{Open: 1000, Bytes: 1 << 20, Nodes: 10_000, Early: time.Second}, &sizing.Sizer{}, discard{})
	for i := range 100 {
		p := tracker.Submit(now, request("c"))
		require.NotNil(t, p)
		tracker.Answer(p, now, 200, protocol.Answer{PromptID: strconv.Itoa(i)})
	}
	omitted := 0
	for i := range 100 {
		for n := range 200 {
			tracker.Message(now, &protocol.Message{Kind: protocol.Executing, PromptID: strconv.Itoa(i), Node: strconv.Itoa(n)})
		}
		omitted += tracker.open[strconv.Itoa(i)].Omitted
	}
	assert.LessOrEqual(t, tracker.bytes, 1<<20)
	assert.Greater(t, tracker.bytes, 1<<20-2*runSize)
	assert.Positive(t, omitted)
	assert.Nil(t, tracker.Submit(now, request("c")), "as with any other memory that is used up")
}
