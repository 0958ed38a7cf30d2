// SPDX-License-Identifier: Apache-2.0

// Package comfyevents connects the components of a process that follow ComfyUI servers
// with those that handle their traces.
package comfyevents

import (
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/topic"
)

// Custody is where a trace is on its way to the exporters.
type Custody int

const (
	// Held traces wait in a component that returned no error for them. Each component
	// that holds a trace publishes this once, before its ConsumeTraces returns.
	Held Custody = iota
	// Accepted traces were accepted by all next consumers of a component that held them.
	Accepted
	// Refused traces were refused by at least one of them, and are not sent again.
	Refused
	// Abandoned traces were dropped because the component shut down: who has stored them may
	// send them again in the next process.
	Abandoned
)

// Handover is a trace that a component begins to hold, or no longer holds.
type Handover struct {
	// Trace and Root identify the prompt's root span. Many prompts may share a trace.
	Trace   pcommon.TraceID
	Root    pcommon.SpanID
	Custody Custody
}

// Bus carries what the components tell each other. The zero value is ready for use.
type Bus struct {
	// Handovers publishes where the traces of prompts are: their root spans are those of
	// kind SERVER with the attribute comfyui.prompt.id. Subscribers are called in the
	// publisher's goroutine, with none of its locks held, and must not block.
	Handovers topic.Topic[Handover]
	// Servers says what is true only now: it is asked, and costs nothing while nobody asks.
	Servers Servers
}

// OfProcess is the bus of this process.
var OfProcess = sync.OnceValue(func() *Bus { return &Bus{} })
