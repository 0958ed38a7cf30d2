// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"context"
	"crypto/rand"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Saved is the stored form of an open prompt, from which another process can follow it.
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

func saved(p *Prompt) Saved {
	s := Saved{
		ID: p.ID, Received: p.Received, TraceID: p.Context.TraceID().String(), SpanID: p.Context.SpanID().String(),
		ClientID: p.Submission.ClientID, TaskClass: p.Submission.TaskClass, TraceFlags: byte(p.Context.TraceFlags()),
	}
	if p.Parent.IsValid() {
		s.ParentID = p.Parent.SpanID().String()
	}
	return s
}

// Discovery is what was stored of the prompt. Its contexts are invalid if the stored
// ids are.
func (s *Saved) Discovery() Discovery {
	submission := protocol.Submission{PromptID: s.ID, ClientID: s.ClientID, TaskClass: s.TaskClass}
	return Discovery{Request{Submission: submission, Parent: s.context(s.ParentID)}, s.Received, s.context(s.SpanID)}
}

func (s *Saved) context(spanID string) trace.SpanContext {
	return ParseTraceparent(fmt.Sprintf("00-%s-%s-%02x", s.TraceID, spanID, s.TraceFlags))
}

// ParseTraceparent reads a span's context from its W3C form. It is invalid if the text is.
func ParseTraceparent(text string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": text})
	return trace.SpanContextFromContext(ctx)
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

// Recent holds the newest ids, up to a fixed number.
type Recent struct {
	max   int
	known map[string]bool
	order []string // oldest first
}

// NewRecent holds max ids, beginning with those given.
func NewRecent(max int, ids ...string) *Recent {
	r := &Recent{max: max, known: map[string]bool{}, order: []string{}} // stored as [], since null means a first run
	for _, id := range ids {
		r.Add(id)
	}
	return r
}

// Has reports whether an id is held.
func (r *Recent) Has(id string) bool { return r.known[id] }

// IDs are all ids, the oldest first. They are valid until the next Add.
func (r *Recent) IDs() []string { return r.order }

// Add adds an id unless it is held, and drops the oldest one beyond the limit.
func (r *Recent) Add(id string) {
	if r.known[id] {
		return
	}
	r.known[id] = true
	r.order = append(r.order, id)
	if len(r.order) > r.max {
		delete(r.known, r.order[0])
		r.order = r.order[1:]
	}
}
