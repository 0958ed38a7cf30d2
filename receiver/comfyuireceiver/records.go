// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// newRecord makes one log record.
func (b *spanBuilder) newRecord(name string, at, now time.Time) (plog.Logs, plog.LogRecord) {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	b.resource(rl.Resource())
	sl := rl.ScopeLogs().AppendEmpty()
	sl.Scope().SetName(metadata.ScopeName)
	sl.Scope().SetVersion(b.version)
	r := sl.LogRecords().AppendEmpty()
	r.SetEventName(name)
	r.SetTimestamp(pcommon.NewTimestampFromTime(at))
	r.SetObservedTimestamp(pcommon.NewTimestampFromTime(now))
	if b.simulated() {
		r.Attributes().PutBool("gpu.simulated", true)
	}
	return logs, r
}

// executionStarted is the event of a prompt that begins to run.
const executionStarted = "comfyui.execution.started"

// started makes the record of an execution that begins: what joins records and GPUs
// with prompts knows it before the trace is there.
func (b *spanBuilder) started(begun prompt.Begun, now time.Time) plog.Logs {
	logs, r := b.newRecord(executionStarted, begun.At, now)
	r.SetTraceID(pcommon.TraceID(begun.Context.TraceID()))
	r.SetSpanID(pcommon.SpanID(begun.Execution))
	r.SetFlags(plog.DefaultLogRecordFlags.WithIsSampled(begun.Context.IsSampled()))
	r.SetSeverityNumber(plog.SeverityNumberDebug)
	r.SetSeverityText(r.SeverityNumber().String())
	r.Attributes().PutStr("comfyui.prompt.id", begun.ID)
	if id := b.device(); id != "" {
		r.Attributes().PutStr("hw.id", id)
	}
	r.Body().SetStr("prompt begins to run")
	return logs
}

// record makes the log record of a prompt that failed.
func (b *spanBuilder) record(p *prompt.Prompt, now time.Time) plog.Logs {
	logs, r := b.newRecord("comfyui.prompt."+string(p.Outcome), p.Ended, now)
	r.SetTraceID(pcommon.TraceID(p.Context.TraceID()))
	r.SetSpanID(pcommon.SpanID(p.Context.SpanID()))
	r.SetFlags(plog.DefaultLogRecordFlags.WithIsSampled(p.Context.IsSampled()))
	r.SetSeverityNumber(plog.SeverityNumberError)
	if p.Outcome == prompt.Rejected {
		r.SetSeverityNumber(plog.SeverityNumberWarn) // the caller's mistake
	}
	r.SetSeverityText(r.SeverityNumber().String())
	z := b.sizer.of(&p.Submission)
	a := r.Attributes()
	put := func(key, value string) {
		if value != "" {
			a.PutStr(key, value)
		}
	}
	put("comfyui.prompt.id", p.ID)
	put("comfyui.workflow.id", p.Submission.Workflow)
	put("comfyui.task_class", z.taskClass)
	put("comfyui.model", z.model)
	put("comfyui.node.id", p.Failure.NodeID)
	put("comfyui.node.class", p.Failure.NodeType)
	put("error.type", errorType(p))
	put("hw.id", b.device())
	message := b.redact(firstLine(p.Failure.Message))
	if p.Failure.Type != "" {
		put("exception.type", p.Failure.Type)
		put("exception.message", message)
		put("exception.stacktrace", b.redact(traceback(p.Failure.Traceback)))
	}
	text := fmt.Sprintf("prompt %s: %s", p.Outcome, errorType(p))
	if p.Failure.NodeType != "" {
		text += " in " + p.Failure.NodeType
	}
	if message != "" {
		text += ": " + message
	}
	r.Body().SetStr(text)
	return logs
}
