// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Distrust has the task class that the request named not count.
func (p *Prompt) Distrust() {
	p.Claimed, p.Submission.TaskClass = p.Submission.TaskClass, ""
}

// Discovered is a prompt that was found in the queue or the history. accepted is when the
// server accepted it; where that is unknown, isKnown is false and accepted is about when.
func Discovered(s *protocol.Submission, accepted time.Time, isKnown bool) *Prompt {
	parent := ParseTraceparent(s.Traceparent)
	return &Prompt{
		Request: Request{Submission: *s, Parent: parent}, ID: s.PromptID, Context: contextOf(parent, s.PromptID, accepted),
		Received: accepted, Answered: accepted, undated: !isKnown,
	}
}
