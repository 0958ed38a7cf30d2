// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"fmt"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// record makes a log record with what all records have.
func (b *Builder) record(name string, at, now time.Time, severity plog.SeverityNumber, span trace.SpanContext) (plog.Logs, plog.LogRecord) {
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	b.resource.CopyTo(rl.Resource())
	sl := rl.ScopeLogs().AppendEmpty()
	b.scope(sl.Scope())
	r := sl.LogRecords().AppendEmpty()
	r.SetEventName(name)
	r.SetTimestamp(pcommon.NewTimestampFromTime(at))
	r.SetObservedTimestamp(pcommon.NewTimestampFromTime(now))
	r.SetTraceID(pcommon.TraceID(span.TraceID()))
	r.SetSpanID(pcommon.SpanID(span.SpanID()))
	r.SetFlags(plog.DefaultLogRecordFlags.WithIsSampled(span.IsSampled()))
	r.SetSeverityNumber(severity)
	r.SetSeverityText(severity.String())
	b.mark(r.Attributes())
	return logs, r
}

// Started makes the record of an execution that starts, with which the gpucorrelation
// connector knows the prompt before its trace arrives.
func (b *Builder) Started(x prompt.Execution, now time.Time) plog.Logs {
	logs, r := b.record(semconv.EventExecutionStarted, x.Start, now, plog.SeverityNumberDebug, x.Context)
	r.Attributes().PutStr("comfyui.prompt.id", boundtext.Line(x.ID, b.bounds.Label))
	b.device.Device().put(r.Attributes())
	r.Body().SetStr("prompt begins to run")
	return logs
}

// Moved makes the record of an execution that runs elsewhere from then on, and uses no GPU, or
// is back.
func (b *Builder) Moved(x prompt.Execution, elsewhere bool, now time.Time) plog.Logs {
	logs, r := b.record(semconv.EventExecutionRemote, x.Start, now, plog.SeverityNumberDebug, x.Context)
	r.Attributes().PutStr("comfyui.prompt.id", boundtext.Line(x.ID, b.bounds.Label))
	b.device.Device().put(r.Attributes())
	r.Attributes().PutBool(semconv.Remote, elsewhere)
	r.Body().SetStr("prompt runs on the GPU again")
	if elsewhere {
		r.Body().SetStr("prompt runs elsewhere")
	}
	return logs
}

// Failure makes the record of a prompt that failed.
func (b *Builder) Failure(p *prompt.Prompt, now time.Time) plog.Logs {
	severity := plog.SeverityNumberError
	if p.Outcome == prompt.Rejected {
		severity = plog.SeverityNumberWarn // the caller's mistake
	}
	logs, r := b.record("comfyui.prompt."+string(p.Outcome), p.Ended, now, severity, p.Context)
	a := r.Attributes()
	b.identify(a, p)
	putIfSet(a, "comfyui.node.id", p.Failure.NodeID)
	putIfSet(a, "comfyui.node.class", p.Failure.NodeType)
	putIfSet(a, "error.type", errorType(p))
	putIfSet(a, semconv.GPUID, b.device.Device().ID)
	message := b.summary(&p.Failure)
	if p.Failure.Type != "" {
		putIfSet(a, "exception.type", p.Failure.Type)
		putIfSet(a, "exception.message", b.messageLine(&p.Failure))
		putIfSet(a, "exception.stacktrace", b.stacktrace(&p.Failure))
	}
	text := fmt.Sprintf("prompt %s: %s", p.Outcome, errorType(p))
	if p.Failure.NodeType != "" {
		text += " in " + p.Failure.NodeType
	}
	if message != "" {
		text += ": " + message
	}
	r.Body().SetStr(boundtext.Text(text, b.bounds.Message))
	return logs
}
