// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"crypto/rand"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Kept is what is stored of an open prompt, so that it can end after a restart.
type Saved struct {
	ID         string    `json:"id"`
	Received   time.Time `json:"received"`
	TraceID    string    `json:"trace_id"`
	SpanID     string    `json:"span_id"`
	ParentID   string    `json:"parent_id,omitempty"`
	ClientID   string    `json:"client_id,omitempty"`
	TaskClass  string    `json:"task_class,omitempty"`
	TraceFlags byte      `json:"flags,omitempty"`
}

func keep(p *Prompt) Saved {
	k := Saved{
		ID: p.ID, Received: p.Received, TraceID: p.Context.TraceID().String(), SpanID: p.Context.SpanID().String(),
		ClientID: p.Submission.ClientID, TaskClass: p.Submission.TaskClass, TraceFlags: byte(p.Context.TraceFlags()),
	}
	if p.Parent.IsValid() {
		k.ParentID = p.Parent.SpanID().String()
	}
	return k
}

// Contexts are the span contexts of a kept prompt; invalid ones if they cannot be read.
func (k *Saved) Contexts() (own, parent trace.SpanContext) {
	traceID, err := trace.TraceIDFromHex(k.TraceID)
	if err != nil {
		return own, parent
	}
	context := func(span string) trace.SpanContext {
		id, err := trace.SpanIDFromHex(span)
		if err != nil {
			return trace.SpanContext{}
		}
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: id, TraceFlags: trace.TraceFlags(k.TraceFlags)})
	}
	return context(k.SpanID), context(k.ParentID)
}

// Submission is what is known of a kept prompt's request.
func (k *Saved) Submission() protocol.Submission {
	return protocol.Submission{PromptID: k.ID, ClientID: k.ClientID, TaskClass: k.TaskClass}
}

// newContext is the context of a new span under a parent, or of a new trace.
func newContext(parent trace.SpanContext) trace.SpanContext {
	config := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceFlags: parent.TraceFlags(), TraceState: parent.TraceState()}
	if !parent.IsValid() {
		config.TraceFlags = trace.FlagsSampled
		_, _ = rand.Read(config.TraceID[:]) // never fails
	}
	config.SpanID = NewSpanID()
	return trace.NewSpanContext(config)
}

// NewSpanID is a random span id.
func NewSpanID() (id trace.SpanID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// recent remembers a number of ids, the newest.
type recent struct {
	ids   map[string]struct{}
	order []string
	at    int
}

func newRecent(n int) *recent {
	return &recent{ids: make(map[string]struct{}), order: make([]string, n)}
}

func (r *recent) has(id string) bool {
	_, ok := r.ids[id]
	return ok
}

func (r *recent) add(id string) {
	if r.has(id) {
		return
	}
	delete(r.ids, r.order[r.at])
	r.order[r.at] = id
	r.at = (r.at + 1) % len(r.order)
	r.ids[id] = struct{}{}
}
