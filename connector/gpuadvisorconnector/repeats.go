// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"sync"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

// repeats knows the prompts that were counted: a receiver sends a trace again that another consumer
// of it refused. Its methods may be called from any goroutine.
type repeats struct {
	mu sync.Mutex
	// counted are the last of them, guarded by mu.
	counted *lru.Cache[spanID, struct{}]
}

// spanID is a span of a trace.
type spanID struct {
	trace pcommon.TraceID
	span  pcommon.SpanID
}

// maxRecounted bounds the prompts that are known to be counted: several times what waits in a
// receiver to be sent again.
const maxRecounted = 4096

func newRepeats() *repeats {
	return &repeats{counted: lru.New[spanID, struct{}](maxRecounted)}
}

// without returns traces without the spans of prompts that came before; the spans below them, which
// say nothing alone, stay. Those without ids are all new.
func (r *repeats) without(td ptrace.Traces) ptrace.Traces {
	repeated := 0
	var again []bool // by the place among the prompts
	r.mu.Lock()
	for s := range promptSpans(td) {
		id := spanID{s.TraceID(), s.SpanID()}
		known := !id.trace.IsEmpty() && !id.span.IsEmpty() && r.counted.Find(id) != nil
		if known {
			repeated++
		} else {
			r.counted.FindOrAdd(id)
		}
		again = append(again, known)
	}
	r.mu.Unlock()
	if repeated == 0 {
		return td
	}
	rest, place := ptrace.NewTraces(), 0
	td.CopyTo(rest)
	for _, rs := range rest.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			ss.Spans().RemoveIf(func(s ptrace.Span) bool {
				if !isPrompt(s) {
					return false
				}
				place++
				return again[place-1]
			})
		}
	}
	return rest
}

// promptSpans yields the spans of prompts themselves, in their order.
func promptSpans(td ptrace.Traces) func(func(ptrace.Span) bool) {
	return func(yield func(ptrace.Span) bool) {
		for _, rs := range td.ResourceSpans().All() {
			for _, ss := range rs.ScopeSpans().All() {
				for _, s := range ss.Spans().All() {
					if isPrompt(s) && !yield(s) {
						return
					}
				}
			}
		}
	}
}

func isPrompt(s ptrace.Span) bool { return s.Name() == "comfyui.prompt" }

// Bounds implements [bounds.Registered].
func (r *repeats) Bounds() []bounds.Bound {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counted.Bounds()
}
