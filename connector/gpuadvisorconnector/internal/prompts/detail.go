// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// Detail is a prompt with its waterfall, without the GPUs' samples and links. ok is false if
// it is not held.
func (s *Store) Detail(l texts.Language, id string) (v view.Detail, ok bool) {
	r := s.byID[id]
	if r == nil {
		return view.Detail{}, false
	}
	v = view.Detail{Prompt: r.view(l), Sentence: r.sentence().In(l), Parts: []view.Part{}, Spans: []view.Span{}, Series: []view.History{}, Links: []view.Link{}}
	if remedy := r.remedy(); remedy != nil {
		v.Remedy = remedy.In(l)
	}
	for i, took := range r.parts {
		if took > 0 {
			v.Parts = append(v.Parts, view.Part{Kind: partKinds[i], Text: texts.Message{Key: "prompt.part." + partKinds[i]}.In(l), Seconds: took.Seconds()})
		}
	}
	if r.usual.isKnown() {
		v.Usual = &view.Usual{Median: r.usual.ran.Seconds(), Executions: int(r.usual.executions)}
	}
	if why := r.noUsual(); why != nil {
		v.NoUsual = why.In(l)
	}
	traces, err := s.pack.unpack(r.packed)
	if err != nil {
		return v, true // without its waterfall
	}
	t := promptTrace{traces: traces}
	for _, span := range t.spans().All() {
		v.Spans = append(v.Spans, r.span(l, span))
	}
	slices.SortStableFunc(v.Spans, func(a, b view.Span) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(b.Duration, a.Duration))
	})
	return v, true
}

// span is a bar of the waterfall.
func (r *record) span(l texts.Language, s ptrace.Span) view.Span {
	a := s.Attributes()
	begin, end := s.StartTimestamp().AsTime(), s.EndTimestamp().AsTime()
	b := readBill(a)
	v := view.Span{
		ID: s.SpanID().String(), Name: s.Name(), Kind: spanKind(s.Name()), Start: begin.Sub(at(r.received)).Seconds(), Duration: max(end.Sub(begin), 0).Seconds(),
		NodeID: pdataread.Text(a, semconv.NodeID), Class: pdataread.Text(a, "comfyui.node.class"), Title: pdataread.Text(a, "comfyui.node.title"),
		GPU: pdataread.Text(a, semconv.GPUID), Bill: b.view(estimateIn(l)),
		Loading: min(seconds(a, "comfyui.loading.duration", 0), max(end.Sub(begin), 0).Seconds()), LoadingEstimated: pdataread.True(a, "comfyui.loading.estimated"),
		Retry: min(seconds(a, "comfyui.oom_retry.duration", 0), max(end.Sub(begin), 0).Seconds()),
	}
	if parent := s.ParentSpanID(); !parent.IsEmpty() {
		v.Parent = parent.String()
	}
	if s.Status().Code() == ptrace.StatusCodeError {
		v.Error = cmp.Or(pdataread.Text(a, "error.type"), r.errorType.Value())
	}
	return v
}

// spanKind is the kind of a span by its name.
func spanKind(spanName string) string {
	switch {
	case spanName == rootSpan:
		return "prompt"
	case spanName == queueSpan:
		return "queue"
	case spanName == executionSpan:
		return "execution"
	case strings.HasSuffix(spanName, ".gpu"): // what the correlator adds for each of several GPUs
		return "gpu"
	case strings.HasPrefix(spanName, nodeSpan):
		return "node"
	}
	return "other"
}

// Packed is a prompt's trace as it is held; ok is false if it is not. It does not change.
func (s *Store) Packed(id string) (packed []byte, ok bool) {
	r := s.byID[id]
	if r == nil {
		return nil, false
	}
	return r.packed, true
}

// JSON is a packed trace as OTLP JSON. It may be called from any goroutine, without the
// caller's lock: a trace of thousands of nodes takes a while.
func (s *Store) JSON(packed []byte) ([]byte, error) {
	t, err := s.pack.unpack(packed)
	if err != nil {
		return nil, err
	}
	return (&ptrace.JSONMarshaler{}).MarshalTraces(t)
}

// dictionary is a trace with the attributes that traces of prompts have, as it is encoded.
func dictionary() []byte {
	traces := ptrace.NewTraces()
	rs := traces.ResourceSpans().AppendEmpty()
	for _, key := range []string{"service.name", "service.instance.id", "host.name"} {
		rs.Resource().Attributes().PutStr(key, "comfyui")
	}
	ss := rs.ScopeSpans().AppendEmpty()
	ss.Scope().SetName("github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver")
	for _, spanName := range []string{rootSpan, queueSpan, "comfyui.node LoadImage", "comfyui.node SaveImage", "comfyui.node CheckpointLoaderSimple", "comfyui.node KSampler", executionSpan} {
		s := ss.Spans().AppendEmpty()
		s.SetName(spanName)
		s.SetTraceID(pcommon.TraceID{1})
		s.SetSpanID(pcommon.SpanID{1})
		s.SetParentSpanID(pcommon.SpanID{2})
		s.SetStartTimestamp(1)
		s.SetEndTimestamp(2)
		for _, key := range knownAttributes {
			switch before, value, isText := strings.Cut(key, "="); {
			case isText:
				s.Attributes().PutStr(before, value)
			case strings.HasSuffix(key, "#"):
				s.Attributes().PutInt(strings.TrimSuffix(key, "#"), 1)
			default:
				s.Attributes().PutDouble(key, 1.5)
			}
		}
	}
	raw, err := (&ptrace.ProtoMarshaler{}).MarshalTraces(traces)
	if err != nil {
		panic(fmt.Sprintf("the dictionary's trace cannot be encoded: %v", err))
	}
	return raw
}

// knownAttributes are those of prompts' spans, in the order in which components set them: a
// text has its value, an integer ends with #.
var knownAttributes = []string{
	"comfyui.prompt.id=00000000-0000-4000-8000-000000000000", "comfyui.prompt.outcome=success", "comfyui.workflow.id=8f1c", "comfyui.task_class=people",
	"comfyui.model=ddcolor_paper.pth", "comfyui.image.size_class=<=1280", "comfyui.image.width#", "comfyui.image.height#", "comfyui.image.side#",
	"comfyui.nodes.submitted#", "comfyui.nodes.executed#", "comfyui.nodes.cached#", "comfyui.queue.ahead#", "comfyui.queue.number",
	"comfyui.outputs.images#", "http.request.method=POST", "http.response.status_code#", "url.path=/prompt",
	"comfyui.memory.active.peak#", "comfyui.memory.active.start#", "comfyui.memory.active.rise#", "comfyui.memory.reserved.peak#",
	"comfyui.memory.reserved.growth#", "comfyui.memory.samples#", "comfyui.memory.gap", "comfyui.memory.need#", "comfyui.memory.need.executions#", "comfyui.memory.context#",
	"comfyui.node.id=1", "comfyui.node.class=KSampler", "comfyui.node.title=KSampler", "comfyui.node.steps#", "comfyui.node.steps.done#",
	"comfyui.loading.duration", "comfyui.oom_retry.duration", "comfyui.oom_retry.count#", "hw.id=GPU-00000000-0000-4000-8000-000000000000", "process.pid#",
	"gpu.correlation=measured", "gpu.correlation=estimate", "gpu.correlation.reason=few_samples",
	"gpu.memory.peak#", "gpu.memory.start#", "gpu.memory.end#", "gpu.memory.delta#", "gpu.memory.source=process", "gpu.memory.held.growth#",
	"gpu.utilization.mean", "gpu.utilization.peak", "gpu.energy", "gpu.energy.marginal", "gpu.energy.uncertainty", "gpu.energy.method=counter", "gpu.energy.division=alone",
	"gpu.energy.gain.uncertainty", "gpu.power.rest", "gpu.power.rest.memory#", "gpu.time", "gpu.temperature.max#",
	"gpu.throttle.time.sw_power_cap", "gpu.throttle.time.hw_slowdown", "gpu.throttle.time.hw_thermal", "gpu.throttle.time.sw_thermal", "gpu.throttle.time.hw_power_brake", "gpu.throttle.time",
	"gpu.samples#", "gpu.samples.gap",
}
