// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// The places of the parts in [parts], by precedence.
const (
	waiting = iota
	loading
	retry
	firstSteps
	throttled
	shared
	work
	partCount
)

// partKinds are their kinds on the page.
var partKinds = [partCount]string{view.PartWaiting, view.PartLoading, view.PartRetry, view.PartFirst, view.PartThrottled, view.PartShared, view.PartWork}

// parts are the disjoint parts of a prompt's duration; their sum is the duration. Where two
// hold for the same time, it belongs to the first of them. Spans say for how long each held, and
// not when: so each node is divided by itself. Within one, and of what no node says, as
// much as possible of what is left after a part belongs to the next.
type parts [partCount]time.Duration

// partAttributes are the attributes that say for how long a part held, in s, by the part.
var partAttributes = [partCount][]string{
	loading: {"comfyui.loading.duration"}, retry: {"comfyui.oom_retry.duration"}, firstSteps: {"comfyui.first_steps.duration"},
	throttled: {"gpu.throttle.time"}, shared: {"gpu.shared.time", "gpu.shared.process.time"},
}

// heldIn is for how long each part held in a span.
func heldIn(a pcommon.Map) (p parts) {
	for part, keys := range partAttributes {
		for _, key := range keys {
			p[part] += time.Duration(bounded(a, key) * float64(time.Second))
		}
	}
	return p
}

// partsOf divides the duration of a prompt by its execution and the nodes right below that.
func partsOf(r *record, execution ptrace.Span, spans ptrace.SpanSlice) (p parts) {
	rest, left := heldIn(execution.Attributes()), r.ran
	for _, s := range nodesBelow(execution, spans) {
		lasted := min(time.Duration(nanoseconds(s.EndTimestamp())-nanoseconds(s.StartTimestamp())), left)
		node := heldIn(s.Attributes())
		for part := range node {
			node[part] = min(node[part], rest[part])
			rest[part] -= node[part]
		}
		left += p.add(node, lasted) - lasted
	}
	p[work] = p.add(rest, left) // what no node says may be of any of them
	p[waiting] = time.Duration(r.begins - r.received)
	p[work] += r.lasted() - p[waiting] - r.ran // with what came after the execution
	return p
}

// add divides a time by what held in it, and returns the rest of it.
func (p *parts) add(held parts, lasted time.Duration) (rest time.Duration) {
	for part := loading; part < work; part++ {
		some := min(held[part], lasted)
		p[part] += some
		lasted -= some
	}
	return lasted
}

// nodesBelow are the nodes right below an execution that run one after the other, in the order of
// their begins. One that begins before another has ended is left to the rest.
func nodesBelow(execution ptrace.Span, spans ptrace.SpanSlice) (nodes []ptrace.Span) {
	for _, s := range spans.All() {
		if s.ParentSpanID() == execution.SpanID() && strings.HasPrefix(s.Name(), nodeSpan) && s.EndTimestamp() > s.StartTimestamp() {
			nodes = append(nodes, s)
		}
	}
	slices.SortStableFunc(nodes, func(a, b ptrace.Span) int { return cmp.Compare(a.StartTimestamp(), b.StartTimestamp()) })
	until := execution.StartTimestamp()
	return slices.DeleteFunc(nodes, func(s ptrace.Span) bool {
		if s.StartTimestamp() < until || s.EndTimestamp() > execution.EndTimestamp() {
			return true
		}
		until = s.EndTimestamp()
		return false
	})
}

// partsWithoutExecution are those of a prompt that never ran: it waited if it was in the
// queue, or until the receiver refused it; else the server worked on its request.
func partsWithoutExecution(lasted time.Duration, queued bool) (p parts) {
	if queued {
		p[waiting] = lasted
	} else {
		p[work] = lasted
	}
	return p
}

// bounded is a duration in seconds, 0 if it is missing, that fits into a time.Duration.
func bounded(a pcommon.Map, key string) float64 { return min(seconds(a, key, 0), 1e9) }
