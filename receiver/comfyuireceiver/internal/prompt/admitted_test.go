// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// waits is a prompt in the server's queue.
type waits struct {
	class  string
	number float64
	asked  *float64
}

func asked(n float64) *float64 { return &n }

// classed is a tracker whose queue holds prompts.
func classed(t *testing.T, all []waits) *Tracker {
	t.Helper()
	tr, now := newTracker(100, &observer{}), time.Now()
	for i, w := range all {
		p := tr.Submit(now, Request{Submission: protocol.Submission{TaskClass: w.class, Number: w.asked}})
		require.NotNil(t, p)
		p.Sizing.TaskClass = w.class
		tr.Answer(p, now, 200, protocol.Answer{PromptID: fmt.Sprint(i), Number: w.number})
	}
	return tr
}

// TestAskedPlacesCountWithinAClass: nobody of another class is overtaken.
func TestAskedPlacesCountWithinAClass(t *testing.T) {
	inFront := asked(math.Inf(-1))
	for name, c := range map[string]struct {
		queue []waits
		asked *float64
		want  float64
	}{
		"none asked":                            {[]waits{{"a", 50, nil}}, nil, 100},
		"alone":                                 {nil, inFront, 100},
		"in front of its class":                 {[]waits{{"a", 50, nil}, {"a", 60, nil}}, inFront, 50 - placeBefore},
		"in front of one in front":              {[]waits{{"a", 50, inFront}}, inFront, 50 - placeBefore},
		"not before another class":              {[]waits{{"a", 50, nil}, {"b", 55, nil}, {"a", 60, nil}}, inFront, 60 - placeBefore},
		"another class is next":                 {[]waits{{"a", 50, nil}, {"b", 90, nil}}, inFront, 100},
		"no room between":                       {[]waits{{"b", 60 - placeBefore/2, nil}, {"a", 60, nil}}, inFront, 60 - placeBefore/4},
		"with the same number as another class": {[]waits{{"b", 60, nil}, {"a", 60, nil}}, inFront, 100},
		"behind those that ask for less":        {[]waits{{"a", 50, asked(-9)}, {"a", 60, asked(-1)}, {"a", 70, nil}}, asked(-5), 60 - placeBefore},
		"as the others":                         {[]waits{{"a", 50, nil}}, asked(0), 100},
		"later":                                 {[]waits{{"a", 50, nil}}, asked(7), 100},
		"less urgent ones do not count":         {[]waits{{"a", 150, nil}, {"b", 120, nil}}, inFront, 100},
	} {
		t.Run(name, func(t *testing.T) {
			assert.InDelta(t, c.want, classed(t, c.queue).Place("a", c.asked, 100), 1e-9)
		})
	}
}

// TestPromptsThatRunOrHaveEndedHaveNoPlace in the queue.
func TestPromptsThatRunOrHaveEndedHaveNoPlace(t *testing.T) {
	tr := classed(t, []waits{{"a", 50, nil}, {"a", 60, nil}, {"a", 70, nil}})
	tr.Message(time.Now(), &protocol.Message{Kind: protocol.ExecutionStart, PromptID: "0"})
	tr.Remove(protocol.Removal{Delete: []string{"1"}})
	assert.InDelta(t, 70-placeBefore, tr.Place("a", asked(-1), 100), 1e-9)
}

// TestRefusedPromptLeavesNothingBehind in the tracker.
func TestRefusedPromptLeavesNothingBehind(t *testing.T) {
	o := &observer{}
	tr, now := newTracker(2, o), time.Now()
	for range 5 {
		p := tr.Submit(now, Request{Submission: protocol.Submission{ClientID: "c"}, Admission: &Admission{Decision: admission.Decision{Verdict: admission.Reject}, Enforced: true}})
		require.NotNil(t, p, "a refused prompt keeps its place")
		tr.Answer(p, now, 429, protocol.Answer{})
		assert.Equal(t, Refused, p.Outcome)
	}
	assert.Zero(t, tr.OpenCount())
	assert.False(t, tr.Busy())
	assert.Zero(t, tr.OpenOf("c"))
	assert.Zero(t, tr.bytes)
	assert.Empty(t, tr.inFlightOf)
}

func TestWhoRefuses(t *testing.T) {
	var none *Admission
	assert.False(t, none.Refuses())
	for _, v := range []admission.Verdict{admission.Admit, admission.Hold, admission.Reject} {
		a := &Admission{Decision: admission.Decision{Verdict: v}}
		assert.False(t, a.Refuses(), "in observe")
		a.Enforced = true
		assert.Equal(t, v != admission.Admit, a.Refuses())
	}
}

// TestDecisionIsStoredWithThePrompt: its trace may be exported by the next process.
func TestDecisionIsStoredWithThePrompt(t *testing.T) {
	tr, now := newTracker(2, &observer{}), time.Now().Round(0)
	a := &Admission{Decision: admission.Decision{Verdict: admission.Admit, Reason: admission.Fits, Deadline: now}, Enforced: true, Claimed: "x", Number: 17}
	raw, err := json.Marshal(tr.Submit(now, Request{Submission: protocol.Submission{ClientID: "c"}, Admission: a}).Save())
	require.NoError(t, err)
	var saved Saved
	require.NoError(t, json.Unmarshal(raw, &saved))
	assert.True(t, a.Deadline.Equal(saved.Prompt().Admission.Deadline))
	saved.Admission.Deadline = a.Deadline
	assert.Equal(t, a, saved.Prompt().Admission)
}

// TestWhatWasFoundIsStored with the prompt, so that its trace has it after a kill.
func TestWhatWasFoundIsStored(t *testing.T) {
	p := &Prompt{Request: Request{
		Admission: &Admission{AskedSide: 1280, LoweredSide: 680},
		Input:     &Input{Findings: []string{"coloured"}, Action: "warn", Unjudged: "time", Width: 9, Height: 8, BytesPerPixel: 0.5, Chroma: 12},
	}}
	stored, err := json.Marshal(p.Save())
	require.NoError(t, err)
	var read Saved
	require.NoError(t, json.Unmarshal(stored, &read))
	assert.Equal(t, p.Admission, read.Prompt().Admission)
	assert.Equal(t, p.Input, read.Prompt().Input)
}
