// SPDX-License-Identifier: Apache-2.0

// Package admission connects the components that pass prompts on to ComfyUI servers with the
// one that advises them.
package admission

import (
	"context"
	"time"
)

// Request is a prompt that a client wants to have run.
type Request struct {
	// Server is the service.instance.id of the server that would run it. Empty: any of those that
	// the advisor knows; GPU is the hw.id of the GPU then, or empty.
	Server, GPU string
	// Class is its task class, Workflow and Model as in telemetry.
	Class, Workflow, Model string
	// Side is the longer side of the image in pixels, 0 if it is not known; Batch and Steps are 1
	// and 0 if they are not known.
	Side, Batch, Steps int
	// Caller tells the prompt's client and content from others, so that one that comes again too early does
	// not count twice: a number below 2^53, 0 if that is not known.
	Caller uint64
	// Deadline is for how long from now on the image is of use; 0 is the class's.
	Deadline time.Duration
	// Claim reserves what the prompt needs until [Advisor.Settle], if it is admitted.
	Claim bool
	// Observe is true if the prompt is passed on whatever the decision is: who is not refused does not
	// come again.
	Observe bool
	// Stays is true if the prompt cannot go to another server, though nothing is claimed: its session has
	// begun.
	Stays bool
}

// ComesAgain reports whether somebody is refused by the decision, who comes again then.
func (r *Request) ComesAgain() bool { return r.Claim && !r.Observe }

// Verdict is what to do with a prompt.
type Verdict string

// The verdicts.
const (
	Admit Verdict = "admit"
	// Hold waits: what is in its way is about to leave.
	Hold   Verdict = "hold"
	Reject Verdict = "reject"
	// Redirect names another server, for callers who ask before they upload.
	Redirect Verdict = "redirect"
)

// Reason is why.
type Reason string

// The reasons to admit.
const (
	// Fits: it ends in time, and its memory is there.
	Fits Reason = "fits"
	// Idle: nothing runs and nothing waits, so that to refuse it would be to refuse it for ever.
	Idle Reason = "idle"
	// Probe: only the least that it was seen to need fits.
	Probe Reason = "probe"
	// Unknown: the server, its GPU or prompts of this kind are not known well enough.
	Unknown Reason = "unknown"
	// Stale: the newest samples of the GPU are too old.
	Stale Reason = "stale"
	// Starting: the queues are not known yet since the advisor's start.
	Starting Reason = "starting"
	// Failed: the advisor did not decide within its time, or not as expected.
	Failed Reason = "failed"
)

// The reasons not to.
const (
	// Late: it would end after its deadline, or make another one late.
	Late Reason = "deadline"
	// BatchWaits: enough work that is not urgent waits already.
	BatchWaits Reason = "batch"
	// MemoryIdle: a neighbour that does nothing holds the memory that it needs.
	MemoryIdle Reason = "memory_idle"
	// MemoryBusy: neighbours that work, or other programs, hold it.
	MemoryBusy Reason = "memory_busy"
	// TooLarge: it does not fit into the empty GPU.
	TooLarge Reason = "too_large"
	// Unhealthy: no GPU of the server can work.
	Unhealthy Reason = "unhealthy"
)

// The reasons that the component which passes prompts on has of its own.
const (
	// Rate: the client has sent too many.
	Rate Reason = "rate"
	// Stopping: it shuts down, and held the prompt.
	Stopping Reason = "stopping"
	// Unread: the prompt cannot be read, so that nothing is known of it.
	Unread Reason = "unread"
	// Input: an image that the prompt names would give a poor result.
	Input Reason = "input"
)

// Decision is the answer to a [Request].
type Decision struct {
	Verdict Verdict
	Reason  Reason
	// Class is the class that counted. Batch work is not urgent.
	Class string
	Batch bool
	// Deadline is when the image ceases to be of use; zero if the class has none. Returned is true if it is
	// that of the prompt's first try, which was refused.
	Deadline time.Time
	Returned bool
	// Wait is until it would start, Completion until it would end, both from now on;
	// CompletionLow and CompletionHigh are its 90 % band. 0 if they are not known.
	Wait, Completion, CompletionLow, CompletionHigh time.Duration
	// RetryAfter is after what time it may be admitted; 0 is never, or not known.
	RetryAfter time.Duration
	// MaxSide is the largest longer side that would be admitted now, 0 if none is known.
	MaxSide int
	// Target is another server to send it to, for Redirect.
	Target string
	// Free is the neighbour whose memory is to be freed, for MemoryIdle.
	Free string
	// Memory is what it was based on, in bytes.
	Memory Memory
	// Executions is how many executions of its kind the predictions are made from.
	Executions int
	// Messages are what to show to the user, by language (en, zh), unless it is admitted.
	Messages map[string]string
	// Claim is what was reserved; 0 is nothing. Advisors whose callers are elsewhere choose numbers below
	// 2^53 that nobody can guess.
	Claim uint64
}

// Memory are the bytes that a decision compares.
type Memory struct {
	// Need is the upper bound of what the server's process needs with the prompt, Least the lower
	// bound; 0 if they are not known.
	Need, Least int64
	// Room is what the GPU has for it: all that others do not hold, or are about to.
	Room int64
}

// Advisor decides about prompts. Its methods may be called from any goroutine.
type Advisor interface {
	// Advise returns within the context's deadline, or an error. Callers pass the prompt on then.
	Advise(ctx context.Context, r *Request) (Decision, error)
	// Settle ends a claim: the server accepted the prompt with an id, or with none it will not run
	// it. A claim that nobody settles ends after [ClaimTimeout].
	Settle(claim uint64, promptID string)
}

// MaxDeadline is the longest deadline or objective of a prompt.
const MaxDeadline = 24 * time.Hour

// ClaimTimeout is after what time a claim that was not settled ends.
const ClaimTimeout = time.Minute
