// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// outOfMemory is the error.type of a prompt that the GPU had no room for.
const outOfMemory = "out_of_memory"

// spanBuilder makes spans of prompts that have ended.
type spanBuilder struct {
	sizer   *sizer
	capture CaptureConfig
	version string
	// resource is copied onto every trace; device is the GPU's hw.id.
	resource  func(pcommon.Resource)
	device    func() string
	pid       func() int // of the server's process; 0 if it is not known
	simulated func() bool
}

// build makes the trace of one prompt: the request, the wait in the queue, the
// execution, and each node.
func (b *spanBuilder) build(p *prompt.Prompt) ptrace.Traces {
	traces := ptrace.NewTraces()
	rs := traces.ResourceSpans().AppendEmpty()
	b.resource(rs.Resource())
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName(metadata.ScopeName)
	ss.Scope().SetVersion(b.version)
	z := b.sizer.of(&p.Submission)
	o := &one{spanBuilder: b, p: p, spans: ss.Spans(), sizing: &z}
	o.root()
	if !p.Started.IsZero() {
		o.queue()
		o.execution()
	} else if p.Outcome != prompt.Rejected && p.Outcome != prompt.Error {
		o.queue()
	}
	return traces
}

// one is a trace in the making.
type one struct {
	*spanBuilder
	p      *prompt.Prompt
	spans  ptrace.SpanSlice
	sizing *sizing
}

func (o *one) span(id, parent trace.SpanID, name string, from, to time.Time) ptrace.Span {
	s := o.spans.AppendEmpty()
	s.SetTraceID(pcommon.TraceID(o.p.Context.TraceID()))
	s.SetSpanID(pcommon.SpanID(id))
	s.SetParentSpanID(pcommon.SpanID(parent))
	s.TraceState().FromRaw(o.p.Context.TraceState().String())
	s.SetFlags(uint32(o.p.Context.TraceFlags()))
	s.SetName(name)
	s.SetKind(ptrace.SpanKindInternal)
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(from))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(to))
	if o.simulated() {
		s.Attributes().PutBool("gpu.simulated", true)
	}
	return s
}

// onGPU names the GPU on a span that uses it. What waits uses none.
func (o *one) onGPU(s ptrace.Span) {
	if id := o.device(); id != "" {
		s.Attributes().PutStr("hw.id", id)
	}
}

// dimensions are what figures of prompts are told apart by.
func (o *one) dimensions(a pcommon.Map) {
	for _, d := range [...][2]string{
		{"comfyui.workflow.id", o.p.Submission.Workflow}, {"comfyui.task_class", o.sizing.taskClass}, {"comfyui.model", o.sizing.model},
	} {
		if d[1] != "" {
			a.PutStr(d[0], d[1])
		}
	}
	a.PutStr("comfyui.prompt.outcome", string(o.p.Outcome))
	if side := o.sizing.side(); side > 0 {
		a.PutStr("comfyui.image.size_class", sizeClass(side))
	}
}

func (o *one) root() {
	p := o.p
	end := p.Ended
	if p.Answered.After(end) {
		end = p.Answered
	}
	s := o.span(p.Context.SpanID(), p.Parent.SpanID(), "comfyui.prompt", p.Received, end)
	a := s.Attributes()
	s.SetKind(ptrace.SpanKindServer)
	if p.HTTPStatus != 0 {
		a.PutStr("http.request.method", "POST")
		a.PutStr("url.path", p.Path)
		a.PutInt("http.response.status_code", int64(p.HTTPStatus))
	}
	put := func(key, value string) {
		if value != "" {
			a.PutStr(key, value)
		}
	}
	put("comfyui.prompt.id", p.ID)
	o.dimensions(a)
	if o.capture.ClientID {
		put("comfyui.client.id", p.Submission.ClientID)
	}
	if o.capture.ClientAddress {
		put("client.address", p.Client)
	}
	if o.capture.PromptText {
		o.promptText(a)
	}
	if side := o.sizing.side(); side > 0 {
		a.PutInt("comfyui.image.width", int64(o.sizing.width))
		a.PutInt("comfyui.image.height", int64(o.sizing.height))
		a.PutInt("comfyui.image.side", int64(side))
	}
	if o.sizing.batch > 1 {
		a.PutInt("comfyui.image.batch", int64(o.sizing.batch))
	}
	if o.sizing.steps > 0 {
		a.PutInt("comfyui.steps", int64(o.sizing.steps))
	}
	a.PutInt("comfyui.nodes.submitted", int64(len(p.Submission.Nodes)))
	if p.HTTPStatus != 0 && p.HTTPStatus < 300 {
		a.PutDouble("comfyui.queue.number", p.Answer.Number)
	}
	if p.Recovered {
		a.PutBool("comfyui.prompt.recovered", true)
	}
	if len(p.Answer.Refused) > 0 {
		putList(a, "comfyui.nodes.refused", p.Answer.Refused)
	}
	o.outcome(s)
}

// sizeClass is the longer side, rounded up to a step that few classes come of.
func sizeClass(side float64) string {
	for _, c := range [...]struct {
		most float64
		name string
	}{{512, "<=512"}, {680, "<=680"}, {1024, "<=1024"}, {1280, "<=1280"}, {2048, "<=2048"}} {
		if side <= c.most {
			return c.name
		}
	}
	return ">2048"
}

func (o *one) outcome(s ptrace.Span) {
	a := s.Attributes()
	switch o.p.Outcome {
	case prompt.Success:
		s.Status().SetCode(ptrace.StatusCodeOk)
		return
	case prompt.Interrupted, prompt.Cancelled, prompt.Unfinished:
		a.PutStr("error.type", string(o.p.Outcome)) // ended before its end, and nothing failed
		return
	}
	s.Status().SetCode(ptrace.StatusCodeError)
	a.PutStr("error.type", errorType(o.p))
	message := firstLine(o.p.Failure.Message)
	if message == "" {
		message = string(o.p.Outcome)
	}
	s.Status().SetMessage(o.redact(message))
}

// errorType is what error.type says: out of memory by every name that torch has
// given it, else the exception, else the server's word.
func errorType(p *prompt.Prompt) string {
	f := &p.Failure
	switch {
	case p.Outcome == prompt.Lost:
		return string(prompt.Lost)
	case isOutOfMemory(f):
		return outOfMemory
	case f.Type != "":
		return f.Type
	}
	return string(p.Outcome)
}

var outOfMemoryMessage = regexp.MustCompile(`(?i)out of memory|cudaErrorMemoryAllocation|CUBLAS_STATUS_ALLOC_FAILED|allocation on device`)

func isOutOfMemory(f *protocol.Error) bool {
	return strings.HasSuffix(f.Type, "OutOfMemoryError") || outOfMemoryMessage.MatchString(f.Message)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > 512 {
		line = strings.ToValidUTF8(line[:512], "")
	}
	return line
}

func (o *one) queue() {
	p := o.p
	from, to := p.Answered, p.Started
	if to.IsZero() {
		to = p.Ended
	}
	if from.After(to) || from.IsZero() { // it began before the answer was here
		from = to
	}
	s := o.span(prompt.NewSpanID(), p.Context.SpanID(), "comfyui.queue", from, to)
	s.Attributes().PutStr("comfyui.prompt.id", p.ID)
	o.dimensions(s.Attributes())
}

func (o *one) execution() {
	p := o.p
	id := p.Execution
	if !id.IsValid() { // a prompt of the history
		id = prompt.NewSpanID()
	}
	s := o.span(id, p.Context.SpanID(), "comfyui.execution", p.Started, p.Ended)
	a := s.Attributes()
	o.onGPU(s)
	if pid := o.pid(); pid != 0 {
		a.PutInt("process.pid", int64(pid))
	}
	a.PutStr("comfyui.prompt.id", p.ID)
	o.dimensions(a)
	a.PutInt("comfyui.nodes.executed", int64(len(p.Nodes)))
	a.PutInt("comfyui.nodes.cached", int64(len(p.Cached)))
	if len(p.Cached) > 0 {
		putList(a, "comfyui.nodes.cached.ids", p.Cached)
	}
	kinds := make([]string, 0, len(p.Outputs))
	for kind := range p.Outputs {
		kinds = append(kinds, kind)
	}
	slices.Sort(kinds)
	for _, kind := range kinds[:min(len(kinds), mostOutputKinds)] {
		a.PutInt("comfyui.outputs."+kind, int64(p.Outputs[kind]))
	}
	if p.Outcome == prompt.Error {
		s.Status().SetCode(ptrace.StatusCodeError)
		if !slices.ContainsFunc(p.Nodes, func(n *prompt.Node) bool { return n.ID == p.Failure.NodeID }) {
			o.exception(s) // no node has it
		}
	}
	o.nodes(id)
}

// mostOutputKinds bounds the attributes that a custom node can cause.
const mostOutputKinds = 8

func (o *one) nodes(execution trace.SpanID) {
	ids := make(map[string]trace.SpanID, len(o.p.Nodes))
	for _, n := range o.p.Nodes {
		ids[n.ID] = prompt.NewSpanID()
	}
	classes := o.classes()
	for _, n := range o.p.Nodes {
		parent, expanded := ids[n.Parent]
		if !expanded || n.Parent == n.ID {
			parent = execution
		}
		class, title := "", ""
		if c := classes[n.ID]; c != nil {
			class, title = c.Class, c.Title
		}
		name := "comfyui.node"
		if class != "" {
			name += " " + class
		}
		s := o.span(ids[n.ID], parent, name, n.Start, n.End)
		o.onGPU(s)
		a := s.Attributes()
		a.PutStr("comfyui.prompt.id", o.p.ID)
		a.PutStr("comfyui.node.id", n.ID)
		if class != "" {
			a.PutStr("comfyui.node.class", class)
		}
		if title != "" && title != class {
			a.PutStr("comfyui.node.title", title)
		}
		if n.Display != "" && n.Display != n.ID {
			a.PutStr("comfyui.node.display_id", n.Display)
		}
		if n.Steps > 0 {
			a.PutInt("comfyui.node.steps", int64(n.Steps))
			a.PutInt("comfyui.node.steps.done", int64(n.StepsDone))
		}
		if o.p.Outcome == prompt.Error && n.ID == o.p.Failure.NodeID {
			s.Status().SetCode(ptrace.StatusCodeError)
			a.PutStr("error.type", errorType(o.p))
			o.exception(s)
		}
	}
}

// classes are the nodes of the workflow, by id; expanded nodes are not among them.
func (o *one) classes() map[string]*protocol.Node {
	all := make(map[string]*protocol.Node, len(o.p.Submission.Nodes))
	for i := range o.p.Submission.Nodes {
		all[o.p.Submission.Nodes[i].ID] = &o.p.Submission.Nodes[i]
	}
	if _, ok := all[o.p.Failure.NodeID]; !ok {
		all[o.p.Failure.NodeID] = &protocol.Node{Class: o.p.Failure.NodeType}
	}
	return all
}

func (o *one) exception(s ptrace.Span) {
	f := &o.p.Failure
	e := s.Events().AppendEmpty()
	e.SetName("exception")
	e.SetTimestamp(s.EndTimestamp())
	e.Attributes().PutStr("exception.type", f.Type)
	e.Attributes().PutStr("exception.message", o.redact(firstLine(f.Message)))
	if trace := traceback(f.Traceback); trace != "" {
		e.Attributes().PutStr("exception.stacktrace", o.redact(trace))
	}
}

// mostTraceback bounds a traceback, in bytes; its last lines tell the most.
const mostTraceback = 4096

func traceback(lines []string) string {
	text := strings.Join(lines, "")
	if len(text) > mostTraceback {
		text = strings.ToValidUTF8(text[len(text)-mostTraceback:], "")
	}
	return strings.TrimSpace(text)
}

func putList(a pcommon.Map, key string, values []string) {
	const most = 256
	list := a.PutEmptySlice(key)
	for _, v := range values[:min(len(values), most)] {
		list.AppendEmpty().SetStr(v)
	}
}
