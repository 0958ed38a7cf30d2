// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"math"
	"strings"
	"time"
	"unique"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// record is what is known of a prompt without its trace. Names that many prompts share are
// handles.
type record struct {
	id    string
	trace pcommon.TraceID
	root  pcommon.SpanID

	server, workflow, taskClass, model, sizeClass name
	outcome, errorType, errorNode                 name
	gpus                                          []name
	// received, begins and ended are in nanoseconds since 1970; begins is when its execution
	// began, 0 if it never ran.
	received, begins, ended int64
	ran                     time.Duration
	width, height, side     int64
	// ahead is how many prompts were in front of it; -1 if that is not known.
	ahead            int
	bill             bill
	parts            parts
	loadingEstimated bool
	// throttle is the reason for which it was throttled longest.
	throttle  name
	simulated bool
	// cached is true if no node ran, since all results were cached.
	cached bool
	usual  usual

	packed []byte
}

type name = unique.Handle[string]

var named = unique.Make[string]

// recordSize is about how much memory a record takes beside its trace.
const recordSize = 600

func (r *record) size() int { return recordSize + len(r.id) + len(r.packed) }

func (r *record) lasted() time.Duration { return time.Duration(r.ended - r.received) }

// bill is the GPU resources of a span; what is not known is negative.
type bill struct {
	memoryPeak, memoryNeed        int64
	energy, uncertainty, throttle float64
	quality, why                  name
}

// promptTrace are the spans of one prompt.
type promptTrace struct {
	traces ptrace.Traces
	root   ptrace.Span
}

const (
	rootSpan      = "comfyui.prompt"
	queueSpan     = "comfyui.queue"
	executionSpan = "comfyui.execution"
	nodeSpan      = "comfyui.node"
)

// split separates the prompts of traces. A span belongs to the nearest root above it; those
// that have none are left out.
func split(td ptrace.Traces) (all []promptTrace) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			all = append(all, splitScope(rs, ss)...)
		}
	}
	return all
}

// spanKey identifies a span: ids of spans are unique within a trace.
type spanKey struct {
	trace pcommon.TraceID
	span  pcommon.SpanID
}

func splitScope(rs ptrace.ResourceSpans, ss ptrace.ScopeSpans) (all []promptTrace) {
	spans := ss.Spans()
	at := make(map[spanKey]int, spans.Len())
	for i, s := range spans.All() {
		at[spanKey{s.TraceID(), s.SpanID()}] = i
	}
	of := make([]int, spans.Len()) // the root's place + 1; 0: not known yet; -1: none
	var owner func(i, depth int) int
	owner = func(i, depth int) int {
		if of[i] != 0 {
			return of[i]
		}
		s := spans.At(i)
		found := -1
		if s.Name() == rootSpan {
			found = i + 1
		} else if parent, ok := at[spanKey{s.TraceID(), s.ParentSpanID()}]; ok && depth < maxDepth {
			found = owner(parent, depth+1)
		}
		of[i] = found
		return found
	}
	places := map[int]int{}
	for i, s := range spans.All() {
		root := owner(i, 0)
		if root < 0 {
			continue
		}
		place, ok := places[root]
		if !ok {
			place = len(all)
			places[root] = place
			t := ptrace.NewTraces()
			to := t.ResourceSpans().AppendEmpty()
			rs.Resource().CopyTo(to.Resource())
			to.SetSchemaUrl(rs.SchemaUrl())
			scope := to.ScopeSpans().AppendEmpty()
			ss.Scope().CopyTo(scope.Scope())
			scope.SetSchemaUrl(ss.SchemaUrl())
			all = append(all, promptTrace{traces: t, root: spans.At(root - 1)})
		}
		s.CopyTo(all[place].spans().AppendEmpty())
	}
	return all
}

// maxDepth bounds how far above a span its root is looked for.
const maxDepth = 64

func (t *promptTrace) spans() ptrace.SpanSlice {
	return t.traces.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
}

func (t *promptTrace) resource() pcommon.Map {
	return t.traces.ResourceSpans().At(0).Resource().Attributes()
}

// read makes the record of a prompt.
func (t *promptTrace) read() *record {
	root := t.root.Attributes()
	r := &record{
		id: line(root, "comfyui.prompt.id"), trace: t.root.TraceID(), root: t.root.SpanID(),
		server: text(t.resource(), "service.instance.id"), workflow: text(root, "comfyui.workflow.id"),
		taskClass: text(root, "comfyui.task_class"), model: text(root, "comfyui.model"), sizeClass: text(root, "comfyui.image.size_class"),
		outcome: text(root, "comfyui.prompt.outcome"), errorType: text(root, "error.type"), errorNode: named(""),
		received: nanoseconds(t.root.StartTimestamp()), ended: nanoseconds(t.root.EndTimestamp()),
		width: whole(root, "comfyui.image.width", 0), height: whole(root, "comfyui.image.height", 0), side: whole(root, "comfyui.image.side", 0),
		ahead: -1, bill: readBill(root), throttle: named(""), simulated: pdataread.True(root, semconv.Simulated),
	}
	if r.id == "" { // the server gave it none
		r.id = r.trace.String()
	}
	r.ended = max(r.ended, r.received)
	queued := false
	for _, s := range t.spans().All() {
		switch {
		case s.Name() == queueSpan:
			r.ahead, queued = int(whole(s.Attributes(), "comfyui.queue.ahead", -1)), true
		case s.Name() == executionSpan:
			r.executed(s, t.spans())
		case strings.HasPrefix(s.Name(), nodeSpan) && s.Status().Code() == ptrace.StatusCodeError:
			r.errorNode = text(s.Attributes(), "comfyui.node.class")
		}
	}
	if r.begins == 0 {
		r.parts = partsWithoutExecution(r.lasted(), queued || r.outcome.Value() == refused)
	}
	return r
}

// executed reads the execution's span.
func (r *record) executed(s ptrace.Span, spans ptrace.SpanSlice) {
	a := s.Attributes()
	r.begins = min(max(nanoseconds(s.StartTimestamp()), r.received), r.ended)
	r.ran = time.Duration(max(min(nanoseconds(s.EndTimestamp()), r.ended)-r.begins, 0))
	for _, id := range gpusOf(a) {
		r.gpus = append(r.gpus, named(id))
	}
	r.bill = readBill(a)
	r.cached = whole(a, "comfyui.nodes.executed", -1) == 0
	r.loadingEstimated = pdataread.True(a, "comfyui.loading.estimated")
	r.throttle = throttleReason(a)
	r.parts = partsOf(r, s, spans)
	r.simulated = r.simulated || pdataread.True(a, semconv.Simulated)
}

// gpusOf are the GPUs that a span names, at most maxGPUs.
func gpusOf(a pcommon.Map) (ids []string) {
	if v, ok := a.Get(semconv.GPUIDs); ok && v.Type() == pcommon.ValueTypeSlice {
		for _, id := range v.Slice().All() {
			if id.Type() == pcommon.ValueTypeStr && len(ids) < maxGPUs {
				ids = append(ids, boundtext.Line(id.Str(), maxText))
			}
		}
	}
	if id := line(a, semconv.GPUID); id != "" && len(ids) == 0 {
		ids = append(ids, id)
	}
	return ids
}

const maxGPUs = 16

func readBill(a pcommon.Map) bill {
	return bill{
		memoryPeak: whole(a, "gpu.memory.peak", -1), memoryNeed: whole(a, "comfyui.memory.need", -1),
		energy: seconds(a, "gpu.energy", -1), uncertainty: seconds(a, "gpu.energy.uncertainty", -1), throttle: seconds(a, "gpu.throttle.time", -1),
		quality: text(a, "gpu.correlation"), why: text(a, "gpu.correlation.reason"),
	}
}

// exists reports whether there are figures.
func (b *bill) exists() bool {
	return b.memoryPeak >= 0 || b.energy >= 0
}

const throttlePrefix = "gpu.throttle.time."

// throttleReason is the reason that held the clocks down for the longest time.
func throttleReason(a pcommon.Map) name {
	reason, longest := "", 0.0
	for key, v := range a.All() {
		if of, ok := strings.CutPrefix(key, throttlePrefix); ok && len(of) <= maxText && v.Type() == pcommon.ValueTypeDouble && (v.Double() > longest || v.Double() == longest && of < reason) {
			reason, longest = of, v.Double()
		}
	}
	return named(reason)
}

func text(a pcommon.Map, key string) name { return named(line(a, key)) }

// maxText bounds ids and names, in bytes: any service may send traces.
const maxText = 256

// line is a text attribute within the bound.
func line(a pcommon.Map, key string) string { return boundtext.Line(pdataread.Text(a, key), maxText) }

// whole is an integer attribute, seconds a real one, whatever their type; or what is given.
func whole(a pcommon.Map, key string, otherwise int64) int64 {
	if v := seconds(a, key, -1); v >= 0 && v < 1<<62 {
		return int64(v)
	}
	return otherwise
}

func seconds(a pcommon.Map, key string, otherwise float64) float64 {
	v, ok := a.Get(key)
	if !ok {
		return otherwise
	}
	var n float64
	switch v.Type() {
	case pcommon.ValueTypeInt:
		n = float64(v.Int())
	case pcommon.ValueTypeDouble:
		n = v.Double()
	default:
		return otherwise
	}
	if !(n >= 0 && n < 1e18) { // NaN, too
		return otherwise
	}
	return n
}

// nanoseconds is a time that is at least 1, and that a duration can be added to.
func nanoseconds(t pcommon.Timestamp) int64 { return int64(min(max(t, 1), math.MaxInt64/2)) }

func at(nanoseconds int64) time.Time { return time.Unix(0, nanoseconds).UTC() }

func (b *bill) view(why func(name) string) *view.Bill {
	if !b.exists() {
		return nil
	}
	v := &view.Bill{
		MemoryPeak: wholeIf(b.memoryPeak), MemoryNeed: wholeIf(b.memoryNeed), Energy: realIf(b.energy), EnergyUncertainty: realIf(b.uncertainty),
		ThrottleTime: realIf(b.throttle), Quality: b.quality.Value(),
	}
	if b.why.Value() != "" {
		v.Why = why(b.why)
	}
	return v
}

func wholeIf(v int64) *int64 {
	if v < 0 {
		return nil
	}
	return &v
}

func realIf(v float64) *float64 {
	if v < 0 {
		return nil
	}
	return &v
}
