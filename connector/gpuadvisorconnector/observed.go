// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// observed counts what became of prompts that would not have been admitted, and were passed on
// since the receiver only observes. Its methods may be called from any goroutine.
type observed struct {
	// mu guards everything declared below.
	mu sync.Mutex
	// ends counts them, late adds up by how many seconds they came after their deadlines.
	ends map[observedEnd]int64
	late map[observedEnd]float64
	// dropped are those that are not among ends.
	dropped    int64
	classNames *advice.ClassNames
}

func newObserved(classes map[string]ClassConfig) *observed {
	return &observed{ends: map[observedEnd]int64{}, late: map[observedEnd]float64{}, classNames: advice.NewClassNames(classes)}
}

// observedEnd is how such a prompt ended.
type observedEnd struct{ class, reason, became string }

// What becomes of prompts.
const (
	becameInTime      = "in_time"
	becameLate        = "late"
	becameOutOfMemory = "out_of_memory"
	becameGivenUp     = "given_up"
	becameFailed      = "failed"
)

// maxObserved bounds the ends that are distinguished, maxObservedText their names.
const (
	maxObserved     = 4096
	maxObservedText = 256
)

// traces adds the prompts that have ended.
func (o *observed) traces(td ptrace.Traces) {
	for s := range promptSpans(td) {
		o.add(s)
	}
}

func (o *observed) add(s ptrace.Span) {
	a := s.Attributes()
	decision := pdataread.Text(a, semconv.AdmissionDecision)
	if decision == "" || decision == string(admission.Admit) || pdataread.True(a, semconv.AdmissionEnforced) {
		return
	}
	end := observedEnd{
		class: boundtext.Line(pdataread.Text(a, "comfyui.task_class"), maxObservedText), reason: boundtext.Line(pdataread.Text(a, semconv.AdmissionReason), maxObservedText),
		became: becameFailed,
	}
	late := 0.0
	switch outcome := pdataread.Text(a, "comfyui.prompt.outcome"); {
	case outcome == "success":
		end.became = becameInTime
		if v, ok := a.Get(semconv.AdmissionDeadline); ok && v.Type() == pcommon.ValueTypeDouble {
			deadline := time.UnixMilli(int64(min(max(v.Double(), 0), 1e11) * 1000))
			if over := s.EndTimestamp().AsTime().Sub(deadline); over > 0 {
				end.became, late = becameLate, over.Seconds()
			}
		}
	case outcome == "cancelled", outcome == "interrupted":
		end.became = becameGivenUp
	case pdataread.Text(a, "error.type") == "out_of_memory":
		end.became = becameOutOfMemory
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	end.class = o.classNames.Counted(end.class)
	if _, known := o.ends[end]; !known && len(o.ends) >= maxObserved {
		o.dropped++
		return
	}
	o.ends[end]++
	if late > 0 {
		o.late[end] += late
	}
}

// notCounted is how many prompts found no room.
func (o *observed) notCounted() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}

// emit adds the counts.
func (o *observed) emit(sm pmetric.ScopeMetrics, began, at pcommon.Timestamp) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.ends) == 0 {
		return
	}
	counts := counter(sm, "gpuadvisor.observed", "{prompt}")
	for end, n := range o.ends {
		p := end.put(counts, began, at)
		p.SetIntValue(n)
		p.Attributes().PutStr("gpuadvisor.became", end.became)
	}
	if len(o.late) == 0 {
		return
	}
	late := counter(sm, "gpuadvisor.observed.late", "s")
	for end, s := range o.late {
		end.put(late, began, at).SetDoubleValue(s)
	}
}

func (e observedEnd) put(points pmetric.NumberDataPointSlice, began, at pcommon.Timestamp) pmetric.NumberDataPoint {
	p := points.AppendEmpty()
	p.SetStartTimestamp(began)
	p.SetTimestamp(at)
	p.Attributes().PutStr("comfyui.task_class", e.class)
	p.Attributes().PutStr("comfyui.admission.reason", e.reason)
	return p
}

// counter adds a cumulative sum.
func counter(sm pmetric.ScopeMetrics, name, unit string) pmetric.NumberDataPointSlice {
	m := sm.Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	sum := m.SetEmptySum()
	sum.SetIsMonotonic(true)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	return sum.DataPoints()
}

// Bounds implements [bounds.Registered].
func (o *observed) Bounds() []bounds.Bound {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append(o.classNames.Bounds(),
		bounds.Bound{Name: "gpuadvisorconnector.observed.ends", Max: maxObserved, Size: len(o.ends)},
		bounds.Bound{Name: "gpuadvisorconnector.observed.late", Max: maxObserved, Size: len(o.late)},
	)
}
