// SPDX-License-Identifier: Apache-2.0

// Package spans makes the telemetry of prompts: a trace of each prompt that has ended, a
// log record of each that failed, and one of each execution that starts.
package spans

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Device describes the GPU that the server uses.
type Device struct {
	// ID is the GPU's hw.id; empty if it is unknown.
	ID string
	// IDs are those of all GPUs that the server's process has open, where there are several:
	// ID is the first of them.
	IDs []string
	// PID is the server's process; 0 if it, or the GPU, is unknown.
	PID int
	// Simulated is true if the GPUs are simulated.
	Simulated bool
}

// put sets the GPU on a span or a record: a list of those that the server may use, where
// there are several.
func (d Device) put(a pcommon.Map) {
	if len(d.IDs) < 2 {
		putIfSet(a, semconv.GPUID, d.ID)
	} else {
		putList(a, semconv.GPUIDs, d.IDs)
	}
	putIfPositive(a, semconv.ProcessPID, d.PID)
}

// DeviceFinder knows the GPU that the server uses. It may be called from any goroutine.
type DeviceFinder interface{ Device() Device }

// Classes knows the classes of nodes. It may be called from any goroutine.
type Classes interface {
	// IsAPINode reports whether nodes of a class run elsewhere, and use no GPU.
	IsAPINode(class string) bool
}

// Builder makes spans and log records. It may be used from any goroutine.
type Builder struct {
	capture  Capture
	redactor redactor
	bounds   protocol.Bounds
	resource pcommon.Resource
	version  string
	device   DeviceFinder
	classes  Classes
}

// NewBuilder makes a builder. resource is copied to all telemetry; version is that of
// the scope. A pattern of capture that is not a regular expression is an error.
func NewBuilder(capture Capture, bounds protocol.Bounds, resource pcommon.Resource, version string, device DeviceFinder, classes Classes) (*Builder, error) {
	r, err := newRedactor(capture)
	if err != nil {
		return nil, err
	}
	return &Builder{capture: capture, redactor: r, bounds: bounds, resource: resource, version: version, device: device, classes: classes}, nil
}

// Trace makes the trace of a prompt: the request, the wait in the queue, the execution,
// and each node.
func (b *Builder) Trace(p *prompt.Prompt) ptrace.Traces {
	traces := ptrace.NewTraces()
	rs := traces.ResourceSpans().AppendEmpty()
	b.resource.CopyTo(rs.Resource())
	ss := rs.ScopeSpans().AppendEmpty()
	b.scope(ss.Scope())
	w := &traceWriter{Builder: b, prompt: p, spans: ss.Spans()}
	w.root()
	if !p.Started.IsZero() {
		w.queue()
		w.execution()
	} else if p.Outcome != prompt.Rejected && p.Outcome != prompt.Refused && p.Outcome != prompt.Error {
		w.queue()
	}
	return traces
}

func (b *Builder) scope(s pcommon.InstrumentationScope) {
	s.SetName(metadata.ScopeName)
	s.SetVersion(b.version)
}

func (b *Builder) mark(a pcommon.Map) {
	if b.device.Device().Simulated {
		a.PutBool(semconv.Simulated, true)
	}
}

// identify sets the attributes that a prompt's spans and records have in common.
func (b *Builder) identify(a pcommon.Map, p *prompt.Prompt) {
	putIfSet(a, "comfyui.prompt.id", boundtext.Line(p.ID, b.bounds.Label))
	putIfSet(a, "comfyui.workflow.id", p.Submission.Workflow)
	putIfSet(a, "comfyui.task_class", p.Sizing.TaskClass)
	putIfSet(a, "comfyui.model", boundtext.Line(p.Sizing.Model, b.bounds.Label))
}

// SizeClass is the longer side of an image in pixels, rounded up to a few steps.
func SizeClass(side float64) string {
	for _, class := range []int{512, 680, 1024, 1280, 2048} {
		if side <= float64(class) {
			return "<=" + strconv.Itoa(class)
		}
	}
	return ">2048"
}

func putIfSet(a pcommon.Map, key, value string) {
	if value != "" {
		a.PutStr(key, value)
	}
}

func putIfPositive[N int | float64](a pcommon.Map, key string, n N) {
	if n > 0 {
		a.PutInt(key, int64(n))
	}
}

// maxListed bounds the values of an attribute that is a list.
const maxListed = 256

func putList(a pcommon.Map, key string, values []string) {
	if len(values) == 0 {
		return
	}
	list := a.PutEmptySlice(key)
	for _, v := range values[:min(len(values), maxListed)] {
		list.AppendEmpty().SetStr(v)
	}
}
