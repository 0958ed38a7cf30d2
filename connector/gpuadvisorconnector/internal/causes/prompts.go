// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"iter"
	"time"
)

// Prompt is what is known of a prompt that has ended.
type Prompt struct {
	// Server is the service.instance.id of its ComfyUI, GPUs the hw.ids that it ran on.
	Server string
	GPUs   []string
	// Ended is when it ended; Total the time from its request to its end, Ran that of its
	// execution, and Loading the part of it that models were loaded.
	Ended               time.Time
	Total, Ran, Loading time.Duration
	// Outcome is comfyui.prompt.outcome, ErrorType error.type.
	Outcome, ErrorType string
	TaskClass          string
	// Side is the longer side of its image in pixels; 0 if it is not known.
	Side int64
}

// Prompts has the prompts that have ended.
type Prompts interface {
	// Ended yields those of the last hour at least that ended after a time, in any order.
	Ended(after time.Time) iter.Seq[Prompt]
}

// The outcomes and the error type that rules know.
const (
	success     = "success"
	failed      = "error"
	lost        = "lost"
	outOfMemory = "out_of_memory"
)

// promptStats are the prompts of one server in the last hour.
type promptStats struct {
	server string
	all    []Prompt
}

// count counts prompts that ended within a window and fulfil a condition.
func (s *promptStats) count(now time.Time, window time.Duration, is func(*Prompt) bool) (n int) {
	for i := range s.all {
		if p := &s.all[i]; now.Sub(p.Ended) <= window && is(p) {
			n++
		}
	}
	return n
}
