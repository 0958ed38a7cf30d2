// SPDX-License-Identifier: Apache-2.0

// Package sampletrace makes traces of prompts as they leave the gpucorrelation connector: what
// the comfyui receiver says of a prompt, and its bill.
package sampletrace

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Prompt is a prompt that has ended.
type Prompt struct {
	// ID is comfyui.prompt.id; the ids of the trace and its spans follow from it.
	ID string
	// Server is the service.instance.id of its ComfyUI.
	Server   string
	Received time.Time
	// Waited and Ran are its time in the queue and of its execution. One that did not run has no
	// span of it.
	Waited, Ran time.Duration
	// Ahead is how many prompts were in front of it.
	Ahead int
	// Error is error.type of a prompt that failed, ErrorNode the place of the node that did.
	Error     string
	ErrorNode int
	// Root and Execution are the attributes of their spans, beside those above: strings,
	// booleans, integers, and real numbers.
	Root, Execution map[string]any
	Nodes           []Node
}

// Node is a node of a workflow.
type Node struct {
	Class string
	// Share of the execution that it took; nodes follow each other.
	Share      float64
	Attributes map[string]any
}

// TraceID is the id of the trace of a prompt.
func TraceID(prompt string) (id pcommon.TraceID) {
	sum := sha256.Sum256([]byte(prompt))
	copy(id[:], sum[:])
	return id
}

// Add appends the prompt's spans to traces.
func (p Prompt) Add(td ptrace.Traces) {
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "comfyui")
	rs.Resource().Attributes().PutStr("service.instance.id", p.Server)
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	ended := p.Waited + p.Ran
	root := p.span(spans, 1, 0, "comfyui.prompt", 0, ended)
	root.SetKind(ptrace.SpanKindServer)
	put(root, p.Root)
	root.Attributes().PutStr("comfyui.prompt.id", p.ID)
	outcome := "success"
	if p.Error != "" {
		outcome = "error"
		root.Attributes().PutStr("error.type", p.Error)
		root.Status().SetCode(ptrace.StatusCodeError)
	}
	root.Attributes().PutStr("comfyui.prompt.outcome", outcome)
	p.span(spans, 2, 1, "comfyui.queue", 0, p.Waited).Attributes().PutInt("comfyui.queue.ahead", int64(p.Ahead))
	if p.Ran == 0 {
		return
	}
	execution := p.span(spans, 3, 1, "comfyui.execution", p.Waited, ended)
	put(execution, p.Execution)
	if p.Error != "" { // as of the receiver
		execution.Status().SetCode(ptrace.StatusCodeError)
	}
	at := p.Waited
	for i, n := range p.Nodes {
		end := min(at+time.Duration(n.Share*float64(p.Ran)), ended)
		s := p.span(spans, uint64(10+i), 3, "comfyui.node "+n.Class, at, end)
		s.Attributes().PutStr("comfyui.node.id", strconv.Itoa(i+1))
		s.Attributes().PutStr("comfyui.node.class", n.Class)
		put(s, n.Attributes)
		if p.Error != "" && i == p.ErrorNode {
			s.Attributes().PutStr("error.type", p.Error)
			s.Status().SetCode(ptrace.StatusCodeError)
		}
		at = end
	}
}

// Traces are the traces of the prompt alone.
func (p Prompt) Traces() ptrace.Traces {
	td := ptrace.NewTraces()
	p.Add(td)
	return td
}

// span appends the n-th span of the prompt.
func (p Prompt) span(spans ptrace.SpanSlice, n, parent uint64, name string, from, to time.Duration) ptrace.Span {
	trace := TraceID(p.ID)
	id := func(n uint64) (id pcommon.SpanID) {
		binary.BigEndian.PutUint64(id[:], binary.BigEndian.Uint64(trace[:8])+n)
		return id
	}
	s := spans.AppendEmpty()
	s.SetName(name)
	s.SetTraceID(trace)
	s.SetSpanID(id(n))
	if parent > 0 {
		s.SetParentSpanID(id(parent))
	}
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(p.Received.Add(from)))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(p.Received.Add(to)))
	return s
}

// put sets attributes. It panics on a value of another type than a [Prompt] may have.
func put(s ptrace.Span, attributes map[string]any) {
	for key, value := range attributes {
		switch v := value.(type) {
		case string:
			s.Attributes().PutStr(key, v)
		case bool:
			s.Attributes().PutBool(key, v)
		case int:
			s.Attributes().PutInt(key, int64(v))
		case int64:
			s.Attributes().PutInt(key, v)
		case float64:
			s.Attributes().PutDouble(key, v)
		default:
			panic(fmt.Sprintf("%s has a value of type %T", key, value))
		}
	}
}
