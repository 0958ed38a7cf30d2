// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// traceWriter writes the spans of one prompt.
type traceWriter struct {
	*Builder
	prompt *prompt.Prompt
	spans  ptrace.SpanSlice
}

func (w *traceWriter) span(id, parent trace.SpanID, name string, from, to time.Time) ptrace.Span {
	c := w.prompt.Context
	s := w.spans.AppendEmpty()
	s.SetTraceID(pcommon.TraceID(c.TraceID()))
	s.SetSpanID(pcommon.SpanID(id))
	s.SetParentSpanID(pcommon.SpanID(parent))
	s.TraceState().FromRaw(c.TraceState().String())
	s.SetFlags(uint32(c.TraceFlags()))
	s.SetName(name)
	s.SetKind(ptrace.SpanKindInternal)
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(from))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(to))
	w.mark(s.Attributes())
	return s
}

// dimensions are the attributes by which metrics of prompts are grouped.
func (w *traceWriter) dimensions(a pcommon.Map) {
	p := w.prompt
	w.identify(a, p)
	a.PutStr("comfyui.prompt.outcome", string(p.Outcome))
	if side := p.Sizing.Side(); side > 0 {
		a.PutStr("comfyui.image.size_class", SizeClass(side))
	}
}

func (w *traceWriter) root() {
	p := w.prompt
	end := slices.MaxFunc([]time.Time{p.Ended, p.Answered}, time.Time.Compare)
	s := w.span(p.Context.SpanID(), p.Parent.SpanID(), "comfyui.prompt", p.Received, end)
	s.SetKind(ptrace.SpanKindServer)
	a := s.Attributes()
	if p.HTTPStatus != 0 {
		a.PutStr("http.request.method", "POST")
		a.PutStr("url.path", boundtext.Line(p.Path, w.bounds.Label))
		a.PutInt("http.response.status_code", int64(p.HTTPStatus))
	}
	w.dimensions(a)
	if w.capture.ClientID {
		putIfSet(a, "comfyui.client.id", boundtext.Line(p.Submission.ClientID, w.bounds.Label))
	}
	if w.capture.ClientAddress {
		putIfSet(a, "client.address", p.Client)
	}
	if w.capture.PromptText {
		putList(a, "comfyui.prompt.text", w.promptTexts())
	}
	z := &p.Sizing
	if side := z.Side(); side > 0 {
		a.PutInt("comfyui.image.width", int64(z.Width))
		a.PutInt("comfyui.image.height", int64(z.Height))
		a.PutInt("comfyui.image.side", int64(side))
	}
	if z.Batch > 1 {
		a.PutInt("comfyui.image.batch", int64(z.Batch))
	}
	putIfPositive(a, "comfyui.steps", z.Steps)
	a.PutInt("comfyui.nodes.submitted", int64(len(p.Submission.Nodes)))
	if p.HTTPStatus != 0 && p.HTTPStatus < 300 {
		a.PutDouble("comfyui.queue.number", p.Answer.Number)
	}
	if p.Recovered {
		a.PutBool("comfyui.prompt.recovered", true)
	}
	putList(a, "comfyui.nodes.refused", p.Answer.Refused)
	w.admission(a)
	putIfSet(a, claimedClass, w.prompt.Claimed)
	putInput(a, p.Input)
	w.outcome(s)
}

func (w *traceWriter) outcome(s ptrace.Span) {
	p := w.prompt
	switch p.Outcome {
	case prompt.Success:
		s.Status().SetCode(ptrace.StatusCodeOk)
		return
	case prompt.Refused:
		s.Attributes().PutStr("error.type", string(p.Admission.Reason))
		return
	case prompt.Interrupted, prompt.Cancelled, prompt.Unfinished:
		// it did not finish, and nothing failed
		s.Attributes().PutStr("error.type", string(p.Outcome))
		return
	}
	s.Status().SetCode(ptrace.StatusCodeError)
	s.Attributes().PutStr("error.type", errorType(p))
	s.Status().SetMessage(cmp.Or(w.summary(&p.Failure), string(p.Outcome)))
}

func (w *traceWriter) queue() {
	p := w.prompt
	from, to := p.Answered, p.Started
	if to.IsZero() {
		to = p.Ended
	}
	// the execution started before the answer arrived
	if from.After(to) || from.IsZero() {
		from = to
	}
	s := w.span(p.SpanID(prompt.QueueSpan, 0), p.Context.SpanID(), "comfyui.queue", from, to)
	w.dimensions(s.Attributes())
	if !p.Recovered && !p.Started.IsZero() {
		s.Attributes().PutInt("comfyui.queue.ahead", int64(p.Ahead))
	}
}

// maxOutputKinds bounds the attributes that a custom node can cause.
const maxOutputKinds = 8

func (w *traceWriter) execution() {
	p := w.prompt
	s := w.span(w.executionID(), p.Context.SpanID(), "comfyui.execution", p.Started, p.Ended)
	a := s.Attributes()
	w.device.Device().put(a)
	w.dimensions(a)
	a.PutInt("comfyui.nodes.executed", int64(len(p.Nodes)))
	a.PutInt("comfyui.nodes.cached", int64(len(p.Cached)))
	putList(a, "comfyui.nodes.cached.ids", p.Cached)
	kinds := slices.Sorted(maps.Keys(p.Outputs))
	for _, kind := range kinds[:min(len(kinds), maxOutputKinds)] {
		a.PutInt("comfyui.outputs."+kind, int64(p.Outputs[kind]))
	}
	w.memory(a)
	putDelays(a, p.Loading, p.FirstSteps, p.Retried)
	if p.Outcome == prompt.Error {
		s.Status().SetCode(ptrace.StatusCodeError)
		if !slices.ContainsFunc(p.Nodes, func(n *prompt.Node) bool { return n.ID == p.Failure.NodeID }) {
			w.exception(s) // it is on no node's span
		}
	}
	w.nodes()
}

func (w *traceWriter) nodes() {
	p := w.prompt
	ids := make(map[string]trace.SpanID, len(p.Nodes))
	for _, n := range p.Nodes {
		ids[n.ID] = p.SpanID(n.ID, n.Run) // the last run's
	}
	declared := w.declaredNodes()
	for _, n := range p.Nodes {
		parent, expanded := ids[n.Parent]
		if !expanded || n.Parent == n.ID {
			parent = w.executionID()
		}
		w.node(n, declared[n.ID], p.SpanID(n.ID, n.Run), parent)
	}
}

func (w *traceWriter) executionID() trace.SpanID { return w.prompt.SpanID(prompt.ExecutionSpan, 0) }

// declaredNodes are the nodes of the workflow by id. Nodes that others expand into are
// not among them; the class of one that failed is known by the failure.
func (w *traceWriter) declaredNodes() map[string]protocol.Node {
	all, failed := w.prompt.Submission.NodesByID(), w.prompt.Failure
	if _, declared := all[failed.NodeID]; !declared {
		all[failed.NodeID] = protocol.Node{Class: failed.NodeType}
	}
	return all
}

func (w *traceWriter) node(n *prompt.Node, declared protocol.Node, id, parent trace.SpanID) {
	p := w.prompt
	name := "comfyui.node"
	if declared.Class != "" {
		name += " " + declared.Class
	}
	s := w.span(id, parent, name, n.Start, n.End)
	a := s.Attributes()
	if !w.classes.IsAPINode(declared.Class) {
		if device := w.device.Device(); len(device.IDs) < 2 { // else those of the execution
			putIfSet(a, semconv.GPUID, device.ID)
		}
	} else {
		a.PutBool(semconv.Remote, true)
	}
	a.PutStr("comfyui.prompt.id", boundtext.Line(p.ID, w.bounds.Label))
	a.PutStr(semconv.NodeID, n.ID)
	putIfSet(a, "comfyui.node.class", declared.Class)
	if declared.Title != declared.Class {
		putIfSet(a, "comfyui.node.title", declared.Title)
	}
	if n.Display != n.ID {
		putIfSet(a, "comfyui.node.display_id", n.Display)
	}
	if n.Run > 0 {
		a.PutInt("comfyui.node.run", int64(n.Run))
	}
	if n.Blocked {
		a.PutBool("comfyui.node.blocked", true)
	}
	putDelays(a, n.Loading, n.FirstSteps, n.Retried)
	if n.Steps > 0 {
		a.PutInt("comfyui.node.steps", int64(n.Steps))
		a.PutInt("comfyui.node.steps.done", int64(n.StepsDone))
	}
	if p.Outcome == prompt.Error && n.ID == p.Failure.NodeID {
		s.Status().SetCode(ptrace.StatusCodeError)
		a.PutStr("error.type", errorType(p))
		w.exception(s)
	}
}

func (w *traceWriter) exception(s ptrace.Span) {
	f := &w.prompt.Failure
	e := s.Events().AppendEmpty()
	e.SetName("exception")
	e.SetTimestamp(s.EndTimestamp())
	e.Attributes().PutStr("exception.type", f.Type)
	e.Attributes().PutStr("exception.message", w.message(f))
	putIfSet(e.Attributes(), "exception.stacktrace", w.stacktrace(f))
}
