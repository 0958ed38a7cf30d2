// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// claimedClass is the attribute of the task class that the request named, where it did not count.
const claimedClass = "comfyui.task_class.claimed"

// admission sets what the receiver's advisor said of the prompt, and adds the time that it was
// held.
func (w *traceWriter) admission(a pcommon.Map) {
	d := w.prompt.Admission
	if d == nil {
		return
	}
	putAdmission(a, d)
	putIfSet(a, claimedClass, boundtext.Line(d.Claimed, w.bounds.Label))
	if !d.Held.IsZero() {
		s := w.span(w.prompt.SpanID(prompt.HoldSpan, 0), w.prompt.Context.SpanID(), "comfyui.hold", d.Held, d.Released)
		w.dimensions(s.Attributes())
	}
}

// putAdmission sets a decision and the figures that it was based on.
func putAdmission(a pcommon.Map, d *prompt.Admission) {
	a.PutStr(semconv.AdmissionDecision, string(d.Verdict))
	a.PutStr(semconv.AdmissionReason, string(d.Reason))
	a.PutBool("comfyui.admission.enforced", d.Enforced)
	if !d.Deadline.IsZero() {
		a.PutDouble(semconv.AdmissionDeadline, float64(d.Deadline.UnixMilli())/1000)
	}
	for _, v := range []struct {
		key string
		of  time.Duration
	}{
		{"comfyui.admission.wait", d.Wait}, {"comfyui.admission.completion", d.Completion}, {"comfyui.admission.completion.low", d.CompletionLow},
		{"comfyui.admission.completion.high", d.CompletionHigh}, {"comfyui.admission.retry_after", d.RetryAfter},
	} {
		if v.of > 0 {
			a.PutDouble(v.key, v.of.Seconds())
		}
	}
	if d.Memory.Need > 0 {
		a.PutInt("comfyui.admission.memory.need", d.Memory.Need)
		a.PutInt("comfyui.admission.memory.room", d.Memory.Room)
	}
	putIfPositive(a, "comfyui.admission.max_side", d.MaxSide)
	putIfPositive(a, "comfyui.admission.side.asked", d.AskedSide)
	putIfPositive(a, "comfyui.admission.side.lowered", d.LoweredSide)
}

// NotAdmitted reports whether an advisor would not have admitted a prompt, which is logged. One with
// poor input has a record of its own.
func NotAdmitted(p *prompt.Prompt) bool {
	return p.Admission != nil && p.Admission.Verdict != admission.Admit && p.Admission.Reason != admission.Input
}

// Admission makes the record of a prompt that its advisor did not admit.
func (b *Builder) Admission(p *prompt.Prompt, now time.Time) plog.Logs {
	d := p.Admission
	logs, r := b.record("comfyui.prompt.admission", p.Received, now, plog.SeverityNumberInfo, p.Context)
	b.identify(r.Attributes(), p)
	putAdmission(r.Attributes(), d)
	putIfSet(r.Attributes(), semconv.GPUID, b.device.Device().ID)
	text := "prompt would have been refused"
	switch {
	case d.Enforced:
		text = "prompt refused"
	case d.Verdict == admission.Hold:
		text = "prompt would have been held"
	}
	r.Body().SetStr(fmt.Sprintf("%s: %s", text, d.Reason))
	return logs
}
