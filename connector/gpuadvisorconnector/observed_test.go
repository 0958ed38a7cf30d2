// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// TestWouldBeRefusalsAreFollowedToTheirEnds: what others would have gained is not claimed.
func TestWouldBeRefusalsAreFollowedToTheirEnds(t *testing.T) {
	deadline := time.Unix(1_700_000_000, 0)
	o := newObserved(map[string]ClassConfig{"people": {}, "buildings": {}})
	add := func(decision, outcome, errorType string, enforced bool, after time.Duration) {
		td := ptrace.NewTraces()
		s := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetName("comfyui.prompt")
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(deadline.Add(after)))
		a := s.Attributes()
		if decision != "" {
			a.PutStr("comfyui.admission.decision", decision)
			a.PutStr("comfyui.admission.reason", "deadline")
			a.PutBool("comfyui.admission.enforced", enforced)
			a.PutDouble("comfyui.admission.deadline", float64(deadline.Unix()))
		}
		a.PutStr("comfyui.task_class", "people")
		a.PutStr("comfyui.prompt.outcome", outcome)
		if errorType != "" {
			a.PutStr("error.type", errorType)
		}
		o.traces(td)
	}
	add("reject", "success", "", false, -time.Second)
	add("reject", "success", "", false, 3*time.Second)
	add("hold", "success", "", false, 1500*time.Millisecond)
	add("reject", "error", "out_of_memory", false, 0)
	add("reject", "error", "RuntimeError", false, 0)
	add("reject", "interrupted", "interrupted", false, 0)
	add("reject", "cancelled", "cancelled", false, 0)
	add("admit", "success", "", false, time.Second) // admitted
	add("reject", "refused", "deadline", true, 0)   // refused
	add("", "success", "", false, time.Second)      // nobody was asked
	sm := pmetric.NewMetrics().ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	o.emit(sm, 1, 2)
	require.Equal(t, 2, sm.Metrics().Len())
	ends := map[string]int64{}
	for _, p := range sm.Metrics().At(0).Sum().DataPoints().All() {
		became, _ := p.Attributes().Get("gpuadvisor.became")
		ends[became.Str()] = p.IntValue()
		class, _ := p.Attributes().Get("comfyui.task_class")
		assert.Equal(t, "people", class.Str())
	}
	assert.Equal(t, map[string]int64{"in_time": 1, "late": 2, "out_of_memory": 1, "failed": 1, "given_up": 2}, ends)
	late := sm.Metrics().At(1).Sum().DataPoints()
	require.Equal(t, 1, late.Len())
	assert.InDelta(t, 4.5, late.At(0).DoubleValue(), 1e-9)
	of := func(class, reason string) {
		td := ptrace.NewTraces()
		s := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetName("comfyui.prompt")
		s.Attributes().PutStr("comfyui.admission.decision", "reject")
		s.Attributes().PutStr("comfyui.admission.reason", reason)
		s.Attributes().PutStr("comfyui.task_class", class)
		o.traces(td)
	}
	for i := range 5000 {
		of(fmt.Sprint("forged ", i), "deadline")
	}
	of("buildings", "deadline")
	byClass := map[string]int64{}
	for end, n := range o.ends {
		byClass[end.class] += n
	}
	assert.EqualValues(t, 1, byClass["buildings"], "whatever names clients made up")
	assert.EqualValues(t, 5000-100, byClass[advice.OtherClass])
	assert.Zero(t, o.notCounted())
	for i := range 2 * maxObserved {
		of("people", fmt.Sprint(i))
	}
	assert.Greater(t, o.notCounted(), int64(maxObserved))
	for _, b := range o.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
}
