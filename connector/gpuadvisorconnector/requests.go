// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// request is a prompt that has ended, as its trace says.
type request struct {
	recommend.Request
	prompt string
	// ran is for how long it ran by the clock.
	ran time.Duration
}

const (
	// maxRequestText bounds the names of a request, in bytes.
	maxRequestText = 256
	// maxRequestSize bounds its sizes.
	maxRequestSize = 1 << 20
	// clockError is how far another host's clock may be ahead.
	clockError = time.Minute
)

// requestsIn are the prompts in traces. What has not ended yet by this host's clock is left out: it
// would make all others old.
func requestsIn(td ptrace.Traces, now time.Time) (all []request) {
	latest := pcommon.NewTimestampFromTime(now.Add(clockError))
	for _, rs := range td.ResourceSpans().All() {
		server := requestText(rs.Resource().Attributes(), "service.instance.id")
		for _, ss := range rs.ScopeSpans().All() {
			first := len(all)
			var ids map[pcommon.SpanID]int
			for _, s := range ss.Spans().All() {
				if !isPrompt(s) || s.EndTimestamp() > latest {
					continue
				}
				if ids == nil {
					ids = map[pcommon.SpanID]int{}
				}
				ids[s.SpanID()] = len(all)
				all = append(all, readRequest(s, server))
			}
			if len(all) == first {
				continue
			}
			for _, s := range ss.Spans().All() {
				if of, ok := ids[s.ParentSpanID()]; ok {
					all[of].addSpan(s)
				}
			}
		}
	}
	return all
}

// requestText is a text that is short enough to be held.
func requestText(a pcommon.Map, key string) string {
	return boundtext.Line(pdataread.Text(a, key), maxRequestText)
}

// readRequest reads a prompt's own span.
func readRequest(s ptrace.Span, server string) request {
	a := s.Attributes()
	r := request{prompt: pdataread.Text(a, "comfyui.prompt.id")}
	r.Server, r.Class, r.Workflow, r.Model = server, requestText(a, "comfyui.task_class"), requestText(a, "comfyui.workflow.id"), requestText(a, "comfyui.model")
	r.Side, r.Batch, r.Steps = requestSize(a, "comfyui.image.side"), max(requestSize(a, "comfyui.image.batch"), 1), requestSize(a, "comfyui.steps")
	r.Client = requestText(a, "comfyui.client.id")
	r.Came, r.Ended = s.StartTimestamp().AsTime(), s.EndTimestamp().AsTime()
	r.Ordered = pdataread.True(a, semconv.AdmissionEnforced)
	kind := pdataread.Text(a, "error.type")
	switch outcome := pdataread.Text(a, "comfyui.prompt.outcome"); {
	case outcome == "success":
		r.Outcome = recommend.Made
	case outcome == "refused":
		r.Outcome, r.Reason = recommend.Refused, admission.Reason(kind)
		r.RetryAfter = time.Duration(min(requestNumber(a, "comfyui.admission.retry_after"), admission.MaxDeadline.Seconds()) * float64(time.Second))
	case outcome == "cancelled", outcome == "interrupted":
		r.Outcome = recommend.GivenUp
	case kind == "out_of_memory":
		r.Outcome = recommend.OutOfMemory
	default:
		r.Outcome = recommend.Failed
	}
	return r
}

// addSpan adds what a span below the prompt's says.
func (r *request) addSpan(s ptrace.Span) {
	took := max(s.EndTimestamp().AsTime().Sub(s.StartTimestamp().AsTime()), 0)
	switch s.Name() {
	case "comfyui.hold":
		r.Held += took
	case "comfyui.execution":
		a := s.Attributes()
		r.ran, r.GPU = took, requestText(a, semconv.GPUID)
		r.Loading = requestNumber(a, "comfyui.loading.duration")
	}
}

// complete adds what the advisor knows: the GPU of the server, what the prompt used of it, and what
// one like it needs. Where its execution was not followed it is taken to have had the GPU for itself.
func (r *request) complete(a *advice.Advisor) {
	gpu, product := a.GPUOf(r.Server)
	if r.GPU == "" || r.GPU == gpu {
		r.GPU, r.Product = gpu, boundtext.Line(product, maxRequestText)
	}
	if r.ran > 0 {
		r.Used = r.ran.Seconds()
		if used, known := a.Used(r.prompt); known {
			r.Used = min(used, r.Used)
		}
		r.Loading = min(r.Loading, r.Used)
	}
	if r.Outcome != recommend.Made {
		r.Needs, _ = a.Time(&admission.Request{Server: r.Server, Class: r.Class, Workflow: r.Workflow, Model: r.Model, Side: r.Side, Batch: r.Batch, Steps: r.Steps})
	}
}

// requestNumber is a number that is not negative; 0 if it is missing.
func requestNumber(a pcommon.Map, key string) float64 {
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
	if !(n > 0 && n < 1e9) {
		return 0
	}
	return n
}

// requestSize is a whole number from 0 to maxRequestSize.
func requestSize(a pcommon.Map, key string) int {
	return int(min(requestNumber(a, key), maxRequestSize))
}
