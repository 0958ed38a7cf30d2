// SPDX-License-Identifier: Apache-2.0

// Package recommend says what to change about a ComfyUI service, by what became of a week's
// requests: up to what size each task class is safe, with what sizes 95 % of them would have met
// their objective, and whether memory or time held the others back. It is pure: no clock, no
// lock, no I/O.
package recommend

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// Class is what is wanted of a task class.
type Class struct {
	// Deadline is for how long after its request an image is of use, Objective in what time
	// requests should end; 0 is for ever.
	Deadline, Objective time.Duration
	// Batch work runs when nothing else waits.
	Batch bool
}

// limit is in what time a request is to end to have met its objective; 0 is for ever.
func (c *Class) limit() time.Duration {
	if c.Objective > 0 {
		return c.Objective
	}
	return c.Deadline
}

// Outcome is what became of a request.
type Outcome string

// The outcomes.
const (
	// Made has its image, whether in time or not.
	Made Outcome = "made"
	// Refused was not passed on to its server.
	Refused Outcome = "refused"
	// OutOfMemory failed since memory was short.
	OutOfMemory Outcome = "out_of_memory"
	// GivenUp was interrupted, or deleted from the queue.
	GivenUp Outcome = "given_up"
	// Failed failed otherwise: that it did has nothing to do with sizes and GPUs.
	Failed Outcome = "failed"
)

// Request is one that has ended.
type Request struct {
	// Server is the service.instance.id of its ComfyUI, GPU the hw.id and Product the model of that
	// server's GPU; empty if they are not known.
	Server, GPU, Product string
	// Class is its task class, Workflow and Model as in telemetry.
	Class, Workflow, Model string
	// Client is the id that its client chose; empty if telemetry does not have it (capture::client_id).
	Client string
	// Side is the longer side of its image in pixels, 0 if that is not known; Batch and Steps are 1
	// and 0 if they are not known.
	Side, Batch, Steps int
	// Came is when the client sent it, Ended when it had its image or an error.
	Came, Ended time.Time
	// Held is for how long the receiver held it, which it does for want of memory.
	Held time.Duration
	// Used is for how many seconds it used a whole GPU, 0 if it did not run; Loading is the part of
	// that in which its model was loaded.
	Used, Loading float64
	// Needs is what an image like this is predicted to use, in seconds; 0 if that is not known. It
	// counts where nothing was made.
	Needs   float64
	Outcome Outcome
	// Reason is why it was refused, RetryAfter after what time its client was to come again; 0 is
	// never.
	Reason     admission.Reason
	RetryAfter time.Duration
	// Ordered is true if the receiver sorts the server's queue: batch work runs last.
	Ordered bool
}

// work is for how many seconds the request uses, or would use, a whole GPU, without loading.
func (r *Request) work() float64 {
	if r.Outcome == Made || r.Outcome == Failed {
		return max(r.Used-r.Loading, 0)
	}
	return max(r.Needs, r.Used-r.Loading, 0)
}

// Costs predicts what requests need. Its methods may be called often: about once for each size of
// each kind of requests.
type Costs interface {
	// Time is for how many seconds on average a request uses a whole GPU, without loading; false
	// if requests of its kind, or of its size, are not known.
	Time(r *admission.Request) (seconds float64, known bool)
	// Safe is the largest side of requests like this one, whose side is the largest that was made,
	// at which they fit into the memory of the server's GPU and end within r.Deadline while nothing
	// else runs, and what bounds it; 0 and NotKnown if that is not known.
	Safe(r *admission.Request) (side int, bound Bound)
}

// Bound is what bounds a safe size.
type Bound string

// The bounds.
const (
	// ByMemory is the GPU's memory, ByTime the class's deadline.
	ByMemory Bound = "memory"
	ByTime   Bound = "time"
	// BySeen is what was seen: larger ones may be safe, too.
	BySeen Bound = "seen"
	// NotKnown is the answer while too little was seen.
	NotKnown Bound = "not_known"
)

// Settings are a Week's.
type Settings struct {
	// Classes are by the names of task classes; others are as Default.
	Classes map[string]Class
	Default Class
	// Requests bounds those that are held one by one, for the queues to be replayed. Beyond it
	// whole parts of the time are left out.
	Requests int
}

// DefaultRequests bounds the requests that are held one by one: 8 MiB.
const DefaultRequests = 1 << 18

// class is that of a name.
func (s *Settings) class(name string) Class {
	if c, ok := s.Classes[name]; ok {
		return c
	}
	return s.Default
}

// requestOf is what predictions about a source's requests are asked for with.
func (s *source) requestOf(side int) admission.Request {
	return admission.Request{Server: s.server, Class: s.class, Workflow: s.workflow, Model: s.model, Side: side, Batch: s.batch, Steps: s.steps}
}
