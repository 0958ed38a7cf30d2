// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// observer counts what a tracker reports.
type observer struct {
	ended      func(*Prompt) // may be nil
	started    []Execution
	moved      []move
	unfollowed int
	unknown    bool // what the classes of nodes are
}

func (o *observer) PromptEnded(p *Prompt) {
	if o.ended != nil {
		o.ended(p)
	}
}
func (o *observer) ExecutionStarted(x Execution)    { o.started = append(o.started, x) }
func (o *observer) RunsElsewhere(class string) bool { return class == "SomeAPINode" && !o.unknown }

// move is that a prompt runs elsewhere, or is back.
type move struct {
	id        string
	at        time.Time
	elsewhere bool
}

func (o *observer) ExecutionMoved(x Execution, elsewhere bool) {
	o.moved = append(o.moved, move{x.ID, x.Start, elsewhere})
}
func (o *observer) PromptUnfollowed(*Prompt, string) { o.unfollowed++ }

func newTracker(open int, o Observer) *Tracker {
	return NewTracker(Limits{Open: open, Bytes: 1 << 20, Nodes: 100, Early: time.Second}, &sizing.Sizer{}, o)
}

// step is one thing that happens to one prompt.
type step func(t *Tracker, now time.Time)

// life is all messages of a server about a prompt, in their order.
func life(id string, seed *rand.Rand) []step {
	message := func(m protocol.Message) step {
		m.PromptID = id
		return func(t *Tracker, now time.Time) {
			if seed.IntN(2) == 0 {
				m.At = now.Add(time.Duration(seed.IntN(400)-300) * time.Millisecond)
			}
			t.Message(now, &m)
		}
	}
	steps := []step{message(protocol.Message{Kind: protocol.ExecutionStart}), message(protocol.Message{Kind: protocol.ExecutionCached, Nodes: []string{"9"}})}
	states := map[string]protocol.NodeState{}
	for n := range seed.IntN(5) {
		node := fmt.Sprint(n)
		parent := ""
		if n > 0 && seed.IntN(3) == 0 {
			parent = fmt.Sprint(seed.IntN(n + 1))
		}
		for _, state := range []string{"running", "finished"} {
			states[node] = protocol.NodeState{State: state, Parent: parent, Max: 4, Value: 2}
			now := map[string]protocol.NodeState{}
			for k, v := range states {
				now[k] = v
			}
			if seed.IntN(4) > 0 {
				steps = append(steps, message(protocol.Message{Kind: protocol.ProgressState, States: now}))
			}
			steps = append(steps, message(protocol.Message{Kind: protocol.Executing, Node: node}), message(protocol.Message{Kind: protocol.Progress, Node: node, Value: 1, Max: 4}))
		}
	}
	switch seed.IntN(4) {
	case 0:
		steps = append(steps, message(protocol.Message{Kind: protocol.ExecutionSuccess}))
	case 1:
		steps = append(steps, message(protocol.Message{Kind: protocol.ExecutionError, Error: protocol.Error{NodeID: "0", Type: "X"}}))
	case 2:
		steps = append(steps, message(protocol.Message{Kind: protocol.ExecutionInterrupted}))
	case 3: // an old server, or a socket that was lost
	}
	return append(steps, message(protocol.Message{Kind: protocol.Executing, NoNode: true}))
}

// TestEveryPromptEndsOnceWhateverHappens interleaves, repeats, drops and reorders
// what is seen of many prompts: each accepted prompt ends exactly once, nothing
// ends before it begins, and nothing is left.
func TestEveryPromptEndsOnceWhateverHappens(t *testing.T) {
	for run := range uint64(300) {
		seed := rand.New(rand.NewPCG(run, 7))
		now := time.Now()
		ends := map[string]int{}
		var tracker *Tracker
		o := &observer{ended: func(p *Prompt) {
			ends[p.ID]++
			require.NotEmpty(t, p.Outcome)
			require.False(t, p.Ended.Before(p.Received), "run %d", run)
			if p.Started.IsZero() {
				require.Empty(t, p.Nodes)
				return
			}
			require.False(t, p.Started.Before(p.Received))
			require.False(t, p.Ended.Before(p.Started))
			for _, n := range p.Nodes {
				require.False(t, n.End.Before(n.Start), "run %d node %s", run, n.ID)
				require.False(t, n.Start.Before(p.Started))
				require.False(t, n.End.After(p.Ended))
				if parent := p.byID[n.Parent]; parent != nil {
					require.False(t, n.Start.Before(parent.Start), "run %d node %s", run, n.ID)
					require.False(t, n.End.After(parent.End), "run %d node %s", run, n.ID)
				}
			}
			_ = tracker.OpenCount() // it is called without the lock
		}}
		tracker = newTracker(1000, o)

		const prompts = 8
		var queues [prompts][]step
		for i := range prompts {
			id := fmt.Sprint("p", i)
			submitted := false
			submit := func(tr *Tracker, now time.Time) {
				if submitted {
					return
				}
				submitted = true
				p := tr.Submit(now, Request{Submission: protocol.Submission{ClientID: "c"}, Path: "/prompt"})
				answered := false
				answer := func(tr *Tracker, now time.Time) {
					if !answered {
						answered = true
						tr.Answer(p, now, 200, protocol.Answer{PromptID: id})
					}
				}
				at := seed.IntN(3) // messages may come before the answer
				rest := queues[i]
				queues[i] = append(append(append([]step{}, rest[:min(at, len(rest))]...), answer), rest[min(at, len(rest)):]...)
			}
			queues[i] = append([]step{submit}, life(id, seed)...)
		}
		for {
			left := 0
			for i := range queues {
				left += len(queues[i])
			}
			if left == 0 {
				break
			}
			i := seed.IntN(prompts)
			if len(queues[i]) == 0 {
				continue
			}
			now = now.Add(time.Duration(seed.IntN(50)) * time.Millisecond)
			next := queues[i][0]
			queues[i] = queues[i][1:]
			if len(queues[i]) > 3 && seed.IntN(8) == 0 { // out of order
				queues[i][1], queues[i][2] = queues[i][2], queues[i][1]
			}
			next(tracker, now)
			if seed.IntN(10) == 0 {
				next(tracker, now) // the same frame on two sockets; the same answer never comes twice
			}
		}
		for i := range prompts { // the history ends what the sockets did not
			if seed.IntN(2) == 0 {
				tracker.Suspect()
			}
			tracker.Missing(now, fmt.Sprint("p", i))
		}
		tracker.Expire(now.Add(time.Hour))
		assert.Zero(t, tracker.OpenCount(), "run %d", run)
		assert.Zero(t, o.unfollowed)
		for i := range prompts {
			require.Equal(t, 1, ends[fmt.Sprint("p", i)], "run %d prompt %d", run, i)
		}
	}
}

func TestIDThatIsSentTwiceGivesTwoTracesOneAfterTheOther(t *testing.T) {
	var ended []*Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = append(ended, p) }})
	now := time.Now()
	for range 2 {
		p := tr.Submit(now, Request{Submission: protocol.Submission{PromptID: "x", ClientID: "c"}, Path: "/prompt"})
		tr.Answer(p, now, 200, protocol.Answer{PromptID: "x"})
	}
	for i := range 2 {
		now = now.Add(time.Second)
		tr.Message(now, &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "x"})
		tr.Message(now, &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: "x"})
		require.Len(t, ended, i+1)
	}
	tr.Message(now, &protocol.Message{Kind: protocol.Executing, NoNode: true, PromptID: "x"})
	assert.Len(t, ended, 2)
	assert.NotEqual(t, ended[0].Context.SpanID(), ended[1].Context.SpanID())
	assert.Zero(t, tr.OpenCount())
}

// A prompt runs elsewhere while all its nodes that run are API nodes: between them and beside
// others it uses the GPU.
func TestAPromptThatRunsElsewhereIsReportedAndItsReturnToo(t *testing.T) {
	for name, newer := range map[string]bool{"0.3.64": false, "with progress_state": true} {
		t.Run(name, func(t *testing.T) {
			o := &observer{}
			tr := newTracker(10, o)
			now := time.Unix(1_700_000_000, 0)
			nodes := []protocol.Node{{ID: "1", Class: "SomeAPINode"}, {ID: "2", Class: "KSampler"}, {ID: "3", Class: "SomeAPINode"}}
			p := tr.Submit(now, Request{Submission: protocol.Submission{ClientID: "c", Nodes: nodes}, Path: "/prompt"})
			tr.Answer(p, now, 200, protocol.Answer{PromptID: "x"})
			states := map[string]protocol.NodeState{}
			begin := func(at int, node string) {
				now := time.Unix(1_700_000_000+int64(at), 0)
				if newer {
					for id := range states {
						states[id] = protocol.NodeState{State: "finished"}
					}
					states[node] = protocol.NodeState{State: "running"}
					tr.Message(now, &protocol.Message{Kind: protocol.ProgressState, PromptID: "x", States: maps.Clone(states)})
				}
				tr.Message(now, &protocol.Message{Kind: protocol.Executing, PromptID: "x", Node: node})
			}
			tr.Message(time.Unix(1_700_000_001, 0), &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "x"})
			begin(2, "1")
			begin(5, "2")
			begin(6, "3")
			tr.Message(time.Unix(1_700_000_009, 0), &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: "x"})
			require.Len(t, o.started, 1)
			var got []string
			for _, m := range o.moved {
				got = append(got, fmt.Sprint(m.id, " ", m.at.Unix()-1_700_000_000, " ", m.elsewhere))
			}
			assert.Equal(t, []string{"x 2 true", "x 5 false", "x 6 true"}, got)
		})
	}
}

// The server is asked about a class when a prompt with it was accepted: the node may run before
// the answer is known.
func TestAPromptRunsElsewhereSinceItsNodeBeganWhoseClassIsLearnedLater(t *testing.T) {
	o := &observer{unknown: true}
	tr := newTracker(10, o)
	at := func(s int64) time.Time { return time.Unix(1_700_000_000+s, 0) }
	for _, id := range []string{"x", "y"} {
		p := tr.Submit(at(0), Request{Submission: protocol.Submission{ClientID: "c", Nodes: []protocol.Node{{ID: "1", Class: "SomeAPINode"}, {ID: "2", Class: "KSampler"}}}, Path: "/prompt"})
		tr.Answer(p, at(0), 200, protocol.Answer{PromptID: id})
	}
	tr.Message(at(1), &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "x"})
	tr.Message(at(2), &protocol.Message{Kind: protocol.Executing, PromptID: "x", Node: "1"})
	tr.Message(at(4), &protocol.Message{Kind: protocol.Progress, PromptID: "x", Node: "1"})
	tr.ClassesLearned()
	assert.Empty(t, o.moved)
	o.unknown = false
	tr.ClassesLearned()
	tr.ClassesLearned()
	require.Len(t, o.moved, 1, "once, and not the one that waits")
	assert.Equal(t, "x", o.moved[0].id)
	assert.Equal(t, at(2).Unix(), o.moved[0].at.Unix())
	assert.True(t, o.moved[0].elsewhere)
	tr.Message(at(6), &protocol.Message{Kind: protocol.Executing, PromptID: "x", Node: "2"})
	require.Len(t, o.moved, 2)
	assert.False(t, o.moved[1].elsewhere)
}

func submit(t *Tracker, now time.Time, id string) *Prompt {
	p := t.Submit(now, Request{Submission: protocol.Submission{ClientID: "c"}, Path: "/prompt"})
	if p != nil {
		t.Answer(p, now, 200, protocol.Answer{PromptID: id})
	}
	return p
}

func TestPromptsBeyondTheLimitAreNotFollowed(t *testing.T) {
	o := &observer{}
	tr := newTracker(2, o)
	for i := range 5 {
		submit(tr, time.Now(), fmt.Sprint(i))
	}
	assert.Equal(t, 2, tr.OpenCount())
	assert.Equal(t, 3, o.unfollowed)
}

// Two clients' messages come by two sockets: that a prompt has ended may be known after the next
// one's whole execution.
func TestThePromptsAheadAreCountedByTheirStarts(t *testing.T) {
	ahead := map[string]int{}
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ahead[p.ID] = p.Ahead }})
	message := func(kind protocol.Kind, id string) {
		tr.Message(time.Now(), &protocol.Message{Kind: kind, PromptID: id})
	}
	run := func(id string) {
		message(protocol.ExecutionStart, id)
		message(protocol.ExecutionSuccess, id)
	}
	for _, id := range []string{"a", "b", "c"} {
		submit(tr, time.Now(), id)
	}
	message(protocol.ExecutionStart, "a")
	submit(tr, time.Now(), "late")
	run("b")
	run("c")
	message(protocol.ExecutionSuccess, "a")
	run("late")
	submit(tr, time.Now(), "alone")
	run("alone")
	assert.Equal(t, map[string]int{"a": 0, "b": 1, "c": 2, "late": 3, "alone": 0}, ahead)
}

// A prompt that runs when the receiver starts is ahead of those that come, whichever end is known first.
func TestAPromptThatRunsAtAStartIsAhead(t *testing.T) {
	ahead := map[string]int{}
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ahead[p.ID] = p.Ahead }})
	tr.Restore(time.Now(), &Prompt{ID: "running", Started: time.Now()})
	submit(tr, time.Now(), "next")
	for _, id := range []string{"next", "running"} {
		tr.Message(time.Now(), &protocol.Message{Kind: protocol.ExecutionStart, PromptID: id})
		tr.Message(time.Now(), &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: id})
	}
	assert.Equal(t, 1, ahead["next"])
}

// One id over and over must not get around the limit, and must not make each prompt dearer
// than the one before.
func TestPromptsOfOneIDCountTowardsTheLimit(t *testing.T) {
	o := &observer{}
	tr := newTracker(100, o)
	for range 40_000 {
		submit(tr, time.Now(), "x")
	}
	assert.Equal(t, 100, tr.OpenCount())
	assert.Equal(t, 39_900, o.unfollowed)
	assert.Equal(t, 100, tr.OpenOf("c"))
	for range 100 {
		tr.Message(time.Now(), &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "x"})
		tr.Message(time.Now(), &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: "x"})
	}
	assert.Zero(t, tr.OpenCount())
	assert.Zero(t, tr.OpenOf("c"))
	assert.Zero(t, tr.bytes)
}

func TestPromptsBeyondTheMemoryAreNotFollowed(t *testing.T) {
	o := &observer{}
	tr := NewTracker(Limits{Open: 1000, Bytes: 10_000, Nodes: 10}, &sizing.Sizer{}, o)
	large := protocol.Submission{Nodes: []protocol.Node{{Title: string(make([]byte, 4000))}}}
	for i := range 5 {
		if p := tr.Submit(time.Now(), Request{Submission: large}); p != nil {
			tr.Answer(p, time.Now(), 200, protocol.Answer{PromptID: fmt.Sprint(i)})
		}
	}
	assert.Equal(t, 2, tr.OpenCount())
	assert.Equal(t, 3, o.unfollowed)
	for i := range 2 {
		tr.Missing(time.Now(), fmt.Sprint(i))
	}
	assert.Zero(t, tr.bytes)
}

func TestIDsThatAreTooLongAreNotFollowed(t *testing.T) {
	o := &observer{}
	tr := newTracker(10, o)
	long := string(make([]byte, protocol.MaxID+1))
	assert.Nil(t, tr.Submit(time.Now(), Request{Submission: protocol.Submission{ClientID: long}}))
	submit(tr, time.Now(), long)
	assert.Equal(t, 2, o.unfollowed)
	assert.Zero(t, tr.OpenCount())
	assert.Zero(t, tr.bytes)
}

// B2: a server that accepts a prompt with an answer that cannot be read has not rejected it.
func TestAnAnswerWithoutAnIDIsNotARejection(t *testing.T) {
	o := &observer{ended: func(p *Prompt) { t.Errorf("it ended as %s", p.Outcome) }}
	tr := newTracker(10, o)
	tr.Answer(tr.Submit(time.Now(), Request{}), time.Now(), 200, protocol.Answer{})
	assert.Equal(t, 1, o.unfollowed)
}

func TestPromptOfAServerThatForgotIsLostAndOneThatWasDeletedCancelled(t *testing.T) {
	outcomes := map[string]Outcome{}
	tr := newTracker(10, &observer{ended: func(p *Prompt) { outcomes[p.ID] = p.Outcome }})
	now := time.Now()
	for _, id := range []string{"deleted", "waiting", "running", "restarted"} {
		submit(tr, now, id)
	}
	tr.Message(now, &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "running"})
	tr.Remove(protocol.Removal{Delete: []string{"deleted", "running"}})
	tr.Missing(now, "waiting")
	tr.Missing(now, "running")
	tr.Suspect()
	tr.Missing(now, "deleted")
	tr.Missing(now, "restarted")
	assert.Equal(t, map[string]Outcome{"deleted": Cancelled, "waiting": Cancelled, "running": Lost, "restarted": Lost}, outcomes)
}

func TestARemovalThatTheServerRefusesIsTakenBack(t *testing.T) {
	var outcome Outcome
	tr, now := newTracker(10, &observer{ended: func(p *Prompt) { outcome = p.Outcome }}), time.Unix(1_700_000_000, 0)
	submit(tr, now, "a")
	removed := tr.Remove(protocol.Removal{Clear: true})
	assert.Len(t, removed, 1)
	assert.Empty(t, tr.Remove(protocol.Removal{Delete: []string{"a"}}), "it is removed already")
	tr.Retain(removed)
	tr.Suspect()
	tr.Missing(now, "a")
	assert.Equal(t, Lost, outcome)
}

// B4: all prompts that were open when the server went away are lost, not only the first one
// that is settled; those that it still has and those that came later are not.
func TestEveryPromptOfAServerThatRestartedIsLost(t *testing.T) {
	outcomes := map[string]Outcome{}
	tr := newTracker(10, &observer{ended: func(p *Prompt) { outcomes[p.ID] = p.Outcome }})
	now := time.Now()
	for i := range 5 {
		submit(tr, now, fmt.Sprint("pending", i))
	}
	submit(tr, now, "still there")
	tr.Suspect()
	tr.Confirm(now, "still there", false)
	submit(tr, now, "later")
	for _, id := range []string{"pending0", "pending1", "pending2", "pending3", "pending4", "still there", "later"} {
		tr.Missing(now, id)
	}
	assert.Equal(t, map[string]Outcome{
		"pending0": Lost, "pending1": Lost, "pending2": Lost, "pending3": Lost, "pending4": Lost, "still there": Cancelled, "later": Cancelled,
	}, outcomes)
}

// S3: a prompt whose entry cannot be read is given up after a few attempts.
func TestAPromptThatCannotBeReadIsGivenUp(t *testing.T) {
	var ended *Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
	submit(tr, time.Now(), "x")
	for range maxFailures {
		require.Nil(t, ended)
		tr.Unreadable(time.Now(), "x")
	}
	require.NotNil(t, ended)
	assert.Equal(t, Lost, ended.Outcome)
	assert.NotEmpty(t, ended.Failure.Message)
}

// B3: a node that is blocked on purpose ends nothing.
func TestABlockedNodeDoesNotEndThePrompt(t *testing.T) {
	var ended *Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
	begin := time.Now()
	submit(tr, begin, "x")
	for s, m := range []protocol.Message{
		{Kind: protocol.ExecutionStart},
		{Kind: protocol.ExecutionError, Node: "3", Error: protocol.Error{Type: protocol.Blocked, NodeID: "3", Message: "no mask found"}},
		{Kind: protocol.Executing, Node: "4"},
		{Kind: protocol.ExecutionSuccess},
	} {
		require.Nil(t, ended)
		m.PromptID = "x"
		tr.Message(begin.Add(time.Duration(s)*time.Second), &m)
	}
	require.NotNil(t, ended)
	assert.Equal(t, Success, ended.Outcome)
	require.Len(t, ended.Nodes, 2)
	assert.True(t, ended.Nodes[0].Blocked)
	assert.Empty(t, ended.Failure)
}

func TestACachedOutputIsNotExecuted(t *testing.T) {
	var ended *Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
	submit(tr, time.Now(), "x")
	for _, m := range []protocol.Message{
		{Kind: protocol.ExecutionStart},
		{Kind: protocol.ExecutionCached, Nodes: []string{"1", "3"}},
		{Kind: protocol.ProgressState, States: map[string]protocol.NodeState{"3": {State: "finished"}, "2": {State: "running"}}},
		{Kind: protocol.ExecutionSuccess},
	} {
		m.PromptID = "x"
		tr.Message(time.Now(), &m)
	}
	require.Len(t, ended.Nodes, 1)
	assert.Equal(t, "2", ended.Nodes[0].ID)
}

func TestTheRunsOfNodesAreBound(t *testing.T) {
	var ended *Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
	submit(tr, time.Now(), "x")
	for i := range 1000 {
		tr.Message(time.Now(), &protocol.Message{Kind: protocol.Executing, Node: fmt.Sprint(i), PromptID: "x"})
	}
	tr.Message(time.Now(), &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: "x"})
	assert.Len(t, ended.Nodes, 100)
}

// Loops are announced for servers newer than those that were run here: each run of a node
// has a span of its own.
func TestUnverifiedANodeThatRunsAgainHasTwoRuns(t *testing.T) {
	var ended *Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
	begin := time.Now()
	submit(tr, begin, "x")
	for s, state := range []string{"running", "finished", "running", "finished"} {
		tr.Message(begin.Add(time.Duration(s)*time.Second), &protocol.Message{
			Kind: protocol.ProgressState, PromptID: "x", States: map[string]protocol.NodeState{"5": {State: state}},
		})
	}
	tr.Message(begin.Add(9*time.Second), &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: "x"})
	require.Len(t, ended.Nodes, 2)
	for run, n := range ended.Nodes {
		assert.Equal(t, "5", n.ID)
		assert.Equal(t, run, n.Run)
		assert.Equal(t, time.Second, n.End.Sub(n.Start))
	}
	assert.NotEqual(t, ended.SpanID("5", 0), ended.SpanID("5", 1))
}

// What another process makes of a stored prompt is the same trace.
func TestAStoredPromptHasTheSameSpans(t *testing.T) {
	for name, end := range map[string]bool{"open": false, "ended": true} {
		t.Run(name, func(t *testing.T) {
			var ended *Prompt
			tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
			begin := time.Now().Round(0)
			sub := protocol.Submission{ClientID: "c", Content: 1<<64 - 1, Workflow: "w", TaskClass: "people", Nodes: []protocol.Node{{ID: "5", Class: "KSampler", Title: "t"}}}
			parent := ParseTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
			p := tr.Submit(begin, Request{Submission: sub, Path: "/prompt", Parent: parent})
			saved := p.SaveAnswered(begin.Add(time.Second), 200, protocol.Answer{PromptID: "x", Number: 3})
			tr.Answer(p, begin.Add(time.Second), 200, protocol.Answer{PromptID: "x", Number: 3})
			if end {
				for s, m := range []protocol.Message{{Kind: protocol.ExecutionStart}, {Kind: protocol.Executing, Node: "5"}, {Kind: protocol.ExecutionError, Error: protocol.Error{NodeID: "5", Type: "X", Message: "m"}}} {
					m.PromptID = "x"
					tr.Message(begin.Add(time.Duration(s+2)*time.Second), &m)
				}
				saved = ended.Save()
			}
			raw, err := json.Marshal(saved)
			require.NoError(t, err)
			var read Saved
			require.NoError(t, json.Unmarshal(raw, &read))
			again := read.Prompt()
			assert.Equal(t, p.ID, again.ID)
			assert.Equal(t, p.Context.TraceID(), again.Context.TraceID())
			assert.Equal(t, p.Context.SpanID(), again.Context.SpanID())
			assert.Equal(t, parent.SpanID(), again.Parent.SpanID())
			assert.Equal(t, p.SpanID("5", 0), again.SpanID("5", 0))
			assert.Equal(t, p.SpanID(ExecutionSpan, 0), again.SpanID(ExecutionSpan, 0))
			assert.True(t, p.Received.Equal(again.Received) && p.Answered.Equal(again.Answered))
			assert.Equal(t, p.Submission.Content, again.Submission.Content)
			assert.Equal(t, p.Submission.Nodes, again.Submission.Nodes)
			assert.Equal(t, !end, again.Recovered)
			if end {
				assert.Equal(t, Error, again.Outcome)
				assert.Equal(t, ended.Failure, again.Failure)
				require.Len(t, again.Nodes, 1)
				assert.True(t, ended.Nodes[0].Start.Equal(again.Nodes[0].Start))
			}
		})
	}
}

// The server's prompt may be one of this process whose answer is on its way.
func TestAPromptInFlightIsNotTakenForOneWithoutAnAnswer(t *testing.T) {
	tr := newTracker(10, &observer{})
	sub := protocol.Submission{ClientID: "c", Content: 7}
	before := &Prompt{Request: Request{Submission: sub}, Received: time.Now()}
	p := tr.Submit(time.Now(), Request{Submission: sub})
	assert.False(t, tr.RecoverUnanswered(time.Now(), before, "x"))
	assert.Empty(t, before.ID)
	tr.Answer(p, time.Now(), 200, protocol.Answer{PromptID: "x"})
	assert.False(t, tr.RecoverUnanswered(time.Now(), before, "x"), "it is known")
	assert.True(t, tr.RecoverUnanswered(time.Now(), before, "y"))
	assert.Equal(t, "y", before.ID)
	assert.Equal(t, 2, tr.OpenCount())
	assert.Empty(t, tr.inFlightOf)
}

func TestAPromptThatIsDiscoveredTwiceHasTheSameTrace(t *testing.T) {
	sub := &protocol.Submission{PromptID: "x"}
	at := time.UnixMilli(1795580833463)
	first := Discovered(sub, at, true)
	assert.Equal(t, first.Context, Discovered(sub, at, true).Context)
	assert.NotEqual(t, Discovered(sub, at, true).Context, Discovered(sub, at.Add(time.Second), true).Context, "the id was used again")
	assert.True(t, Discovered(sub, at, true).Context.IsValid())
}

// TestNodeWithLazyInputsBeginsWhenTheyAreThere has the messages in the order in which
// ComfyUI's execute() sends them: a node with lazy inputs is announced, asked, put
// back, and announced again after the inputs that it wanted.
func TestNodeWithLazyInputsBeginsWhenTheyAreThere(t *testing.T) {
	for name, states := range map[string]bool{"with progress_state": true, "by a server without": false} {
		t.Run(name, func(t *testing.T) {
			var ended *Prompt
			tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
			begin := time.Now()
			at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
			tr.Answer(tr.Submit(begin, Request{Submission: protocol.Submission{ClientID: "c"}, Path: "/prompt"}), begin, 200, protocol.Answer{PromptID: "x"})
			send := func(s int, m protocol.Message) {
				m.PromptID = "x"
				tr.Message(at(s), &m)
			}
			now := map[string]protocol.NodeState{}
			state := func(s int, node, word string) {
				if states {
					now[node] = protocol.NodeState{State: word, Max: 1, Display: node}
					send(s, protocol.Message{Kind: protocol.ProgressState, States: maps.Clone(now)})
				}
			}
			run := func(from, to int, node string) {
				state(from, node, "running")
				send(from, protocol.Message{Kind: protocol.Executing, Node: node, DisplayNode: node})
				if to > from {
					state(to, node, "finished")
				}
			}
			send(0, protocol.Message{Kind: protocol.ExecutionStart})
			run(1, 1, "switch") // is asked
			run(1, 4, "wanted")
			run(4, 6, "switch") // works
			run(6, 7, "save")
			send(7, protocol.Message{Kind: protocol.ExecutionSuccess})
			require.NotNil(t, ended)
			got := make([]string, 0, len(ended.Nodes))
			for _, n := range ended.Nodes {
				got = append(got, fmt.Sprintf("%s %v-%v", n.ID, n.Start.Sub(begin).Seconds(), n.End.Sub(begin).Seconds()))
			}
			assert.Equal(t, []string{"wanted 1-4", "switch 4-6", "save 6-7"}, got)
		})
	}
}

func TestRepeatedFrameDoesNotRestartANode(t *testing.T) {
	var ended *Prompt
	tr := newTracker(10, &observer{ended: func(p *Prompt) { ended = p }})
	begin := time.Now()
	tr.Answer(tr.Submit(begin, Request{Submission: protocol.Submission{ClientID: "c"}, Path: "/prompt"}), begin, 200, protocol.Answer{PromptID: "x"})
	for s, m := range []protocol.Message{
		{Kind: protocol.ExecutionStart},
		{Kind: protocol.Executing, Node: "1"},
		{Kind: protocol.Executing, Node: "1"},
		{Kind: protocol.ProgressState, States: map[string]protocol.NodeState{"1": {State: "finished"}, "2": {State: "running"}}},
		{Kind: protocol.Executing, Node: "1"}, // late
		{Kind: protocol.ExecutionSuccess},
	} {
		m.PromptID = "x"
		tr.Message(begin.Add(time.Duration(s)*time.Second), &m)
	}
	require.Len(t, ended.Nodes, 2)
	assert.Equal(t, begin.Add(time.Second), ended.Nodes[0].Start)
	assert.Equal(t, begin.Add(3*time.Second), ended.Nodes[0].End)
}

func TestTheNewestIDsAreHeld(t *testing.T) {
	r := NewRecent(3, "a", "b", "c", "b")
	r.Add("d")
	assert.False(t, r.Has("a"))
	for _, id := range []string{"b", "c", "d"} {
		assert.True(t, r.Has(id))
	}
	for i := range 100 {
		r.Add(fmt.Sprint(i))
	}
	assert.Equal(t, 3, r.Len())
	assert.Len(t, r.known, 3)
	assert.True(t, r.Has("99"))
}
