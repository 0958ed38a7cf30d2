// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// maxNodes bounds the nodes of an execution that are compared.
const maxNodes = 1000

// executionsIn are the prompts whose executions are in traces.
func executionsIn(td ptrace.Traces) (all []Execution) {
	for _, rs := range td.ResourceSpans().All() {
		server := pdataread.Text(rs.Resource().Attributes(), "service.instance.id")
		for _, ss := range rs.ScopeSpans().All() {
			all = append(all, executionsOf(server, ss.Spans())...)
		}
	}
	return all
}

// executionsOf joins the spans of executions with their prompts'.
func executionsOf(server string, spans ptrace.SpanSlice) (all []Execution) {
	roots := map[pcommon.SpanID]ptrace.Span{}
	nodes := map[pcommon.SpanID][]Node{}
	for _, s := range spans.All() {
		switch {
		case s.Name() == "comfyui.prompt":
			roots[s.SpanID()] = s
		case s.Name() == "comfyui.node", strings.HasPrefix(s.Name(), "comfyui.node "): // those that nodes expand into have nodes as parents
			if id := pdataread.Text(s.Attributes(), semconv.NodeID); id != "" && len(nodes[s.ParentSpanID()]) < maxNodes {
				nodes[s.ParentSpanID()] = append(nodes[s.ParentSpanID()], Node{id, s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime())})
			}
		}
	}
	for _, s := range spans.All() {
		root, ok := roots[s.ParentSpanID()]
		if s.Name() != "comfyui.execution" || !ok {
			continue
		}
		a, r := s.Attributes(), root.Attributes()
		outcome, kind := pdataread.Text(r, "comfyui.prompt.outcome"), pdataread.Text(r, "error.type")
		all = append(all, Execution{
			ID: pdataread.Text(r, "comfyui.prompt.id"), Server: server,
			Workflow: pdataread.Text(r, "comfyui.workflow.id"), Model: pdataread.Text(r, "comfyui.model"),
			Side: whole(r, "comfyui.image.side"), Batch: max(whole(r, "comfyui.image.batch"), 1), Steps: whole(r, "comfyui.steps"),
			Ended: s.EndTimestamp().AsTime(), Ran: s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()),
			Succeeded: outcome == "success", OutOfMemory: kind == "out_of_memory", Cached: whole(a, "comfyui.nodes.cached") > 0 && whole(a, "comfyui.nodes.executed") == 0,
			CachedNodes: whole(a, "comfyui.nodes.cached"), Nodes: nodes[s.SpanID()],
			Active: int64(whole(a, semconv.MemoryActivePeak)), Reserved: int64(whole(a, semconv.MemoryReservedPeak)), Grew: whole(a, semconv.MemoryReservedGrowth) > 0,
		})
	}
	return all
}

// whole is an integer attribute; 0 if it is missing, negative or too large.
func whole(a pcommon.Map, key string) int {
	v, ok := a.Get(key)
	if !ok {
		return 0
	}
	n := 0.0
	switch v.Type() {
	case pcommon.ValueTypeInt:
		n = float64(v.Int())
	case pcommon.ValueTypeDouble:
		n = v.Double()
	}
	if !(n > 0 && n < 1<<53) {
		return 0
	}
	return int(n)
}
