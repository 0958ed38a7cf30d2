// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

func TestWaitAndProgressOfOpenPrompts(t *testing.T) {
	begin := time.Unix(1000, 0)
	at := func(seconds float64) time.Time { return begin.Add(time.Duration(seconds * float64(time.Second))) }
	tr := newTracker(10, &observer{})
	submit := func(seconds float64, id, class string) {
		p := tr.Submit(at(seconds), Request{Submission: protocol.Submission{ClientID: "c", TaskClass: class}})
		tr.Answer(p, at(seconds), 200, protocol.Answer{PromptID: id})
	}
	message := func(seconds float64, id string, m protocol.Message) {
		m.PromptID = id
		tr.Message(at(seconds), &m)
	}
	ages := func(seconds float64) map[string]time.Duration { return tr.ProgressAge(at(seconds)) }
	assert.Zero(t, tr.OldestWait(at(0)), "none waits")
	assert.Empty(t, ages(0))

	submit(0, "a", "people")
	submit(2, "b", "buildings")
	assert.Equal(t, 3*time.Second, tr.OldestWait(at(3)))
	message(4, "a", protocol.Message{Kind: protocol.ExecutionStart})
	assert.Equal(t, 3*time.Second, tr.OldestWait(at(5)), "b's: the oldest one runs")
	assert.Equal(t, map[string]time.Duration{"people": time.Second}, ages(5), "since its start")
	message(6, "a", protocol.Message{Kind: protocol.Executing, Node: "1"})
	message(8, "a", protocol.Message{Kind: protocol.Progress, Node: "1", Value: 1, Max: 4})
	assert.Equal(t, map[string]time.Duration{"people": 2 * time.Second}, ages(10), "since its last step")
	message(11, "a", protocol.Message{Kind: protocol.ProgressState, States: map[string]protocol.NodeState{"2": {State: "running"}}})
	assert.Equal(t, map[string]time.Duration{"people": 0}, ages(11), "since its last node")
	tr.Confirm(at(12), "a", true)
	assert.Equal(t, map[string]time.Duration{"people": 9 * time.Second}, ages(20), "a question is no progress")
	message(21, "a", protocol.Message{Kind: protocol.ExecutionSuccess})
	assert.Empty(t, ages(22), "none runs")

	tr.Confirm(at(22), "b", false)
	assert.Equal(t, 20*time.Second, tr.OldestWait(at(22)))
	tr.Confirm(at(23), "b", true)
	tr.Confirm(at(24), "b", true)
	assert.Zero(t, tr.OldestWait(at(25)), "the queue says that it runs")
	assert.Equal(t, map[string]time.Duration{"buildings": 2 * time.Second}, ages(25))
	tr.Settled(at(30), &protocol.Finished{Submission: protocol.Submission{PromptID: "b"}, Status: "success"})

	submit(40, "again", "")
	submit(41, "again", "")
	message(42, "again", protocol.Message{Kind: protocol.ExecutionStart})
	assert.Equal(t, 2*time.Second, tr.OldestWait(at(43)), "one that was sent again under the same id waits")
	submit(44, "c", "")
	submit(45, "d", "")
	tr.Message(at(46), &protocol.Message{Kind: protocol.ExecutionSuccess, PromptID: "again"})
	message(46, "again", protocol.Message{Kind: protocol.ExecutionStart})
	assert.Equal(t, 2*time.Second, tr.OldestWait(at(46)), "c's")
	tr.Remove(protocol.Removal{Delete: []string{"c"}})
	assert.Equal(t, time.Second, tr.OldestWait(at(46)), "one that is being removed does not wait")
}

func TestMessagesBeforeTheAnswerAreProgress(t *testing.T) {
	begin := time.Unix(1000, 0)
	tr := newTracker(10, &observer{})
	p := tr.Submit(begin, Request{Submission: protocol.Submission{ClientID: "c"}})
	tr.Message(begin.Add(time.Second), &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "a"})
	assert.Empty(t, tr.ProgressAge(begin.Add(time.Second)), "it is not accepted yet")
	tr.Answer(p, begin.Add(2*time.Second), 200, protocol.Answer{PromptID: "a"})
	assert.Zero(t, tr.OldestWait(begin.Add(3*time.Second)))
	assert.Equal(t, map[string]time.Duration{"other": 2 * time.Second}, tr.ProgressAge(begin.Add(3*time.Second)))
}
