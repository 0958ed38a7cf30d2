// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// ParseTraceparent reads a span's context from its W3C form. It is invalid if the text is.
func ParseTraceparent(text string) trace.SpanContext {
	ctx := propagation.TraceContext{}.Extract(context.Background(), propagation.MapCarrier{"traceparent": text})
	return trace.SpanContextFromContext(ctx)
}

// newContext is the context of the root span of a request: a new span under a parent, or
// of a new trace.
func newContext(parent trace.SpanContext) trace.SpanContext {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return childOf(parent, id)
}

// contextOf is the context of the root span of a prompt that was discovered. It follows
// from the prompt's id and the time of its acceptance, so that a prompt that is found
// again has the same trace.
func contextOf(parent trace.SpanContext, id string, accepted time.Time) trace.SpanContext {
	sum := digest("prompt", id, strconv.FormatInt(accepted.UnixMilli(), 10))
	return childOf(parent, [16]byte(sum[:]))
}

// childOf makes a span under a parent, or of a new trace with the given id.
func childOf(parent trace.SpanContext, id [16]byte) trace.SpanContext {
	config := trace.SpanContextConfig{TraceID: parent.TraceID(), TraceFlags: parent.TraceFlags(), TraceState: parent.TraceState()}
	if !parent.IsValid() {
		config.TraceID, config.TraceFlags = id, trace.FlagsSampled
	}
	config.SpanID = spanID("root", string(id[:]))
	return trace.NewSpanContext(config)
}

// SpanID is the id of one of the prompt's spans below the root. It follows from the
// root's, so that a trace that is sent again has the same spans. name is queue, execution
// or a node's id, with the number of its run.
func (p *Prompt) SpanID(name string, run int) trace.SpanID {
	root := p.Context.SpanID()
	return spanID(string(root[:]), p.ID, name, strconv.Itoa(run))
}

// Names of the spans below the root, for [Prompt.SpanID]. A node's id has at least one
// character, and none of these in front.
const (
	QueueSpan     = "\x00queue"
	HoldSpan      = "\x00hold"
	ExecutionSpan = "\x00execution"
)

func spanID(parts ...string) (id trace.SpanID) {
	sum := digest(parts...)
	copy(id[:], sum[:])
	id[0] |= 1 // never zero
	return id
}

func digest(parts ...string) [sha256.Size]byte {
	return sha256.Sum256([]byte(strings.Join(parts, "\x00")))
}

// NewSpanID is a random span id.
func NewSpanID() (id trace.SpanID) {
	_, _ = rand.Read(id[:]) // never fails
	return id
}
