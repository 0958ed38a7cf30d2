// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"encoding/binary"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// TestATraceThatComesAgainCountsOnce, beside one that is new, too.
func TestATraceThatComesAgainCountsOnce(t *testing.T) {
	r := newRig(t, func(c *Config) { c.CollectionInterval = time.Hour })
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, false)))
	defer r.bus.Servers.Add(&server{comfyevents.Server{Name: theServer, GPUs: []string{gpuID}}})()
	r.advice.Refresh(r.state.GPUs())
	p := sent("a", time.Minute, 2*time.Second, map[string]any{"comfyui.admission.decision": "reject", "comfyui.admission.reason": "memory_busy"})
	p.Error = "out_of_memory"
	td := p.Traces()
	require.NoError(t, r.traces.ConsumeTraces(t.Context(), td))
	spans := td.SpanCount()
	require.NoError(t, r.traces.ConsumeTraces(t.Context(), td))
	sent("b", time.Minute, 2*time.Second, map[string]any{"comfyui.image.side": 400}).Add(td)
	require.NoError(t, r.traces.ConsumeTraces(t.Context(), td))
	assert.Greater(t, td.SpanCount(), spans, "what others read, too, is not changed")

	_, _, raw := r.advice.Unsaved()
	var rest struct {
		GPUs map[string]struct {
			Probes []struct{ Failures int }
		}
	}
	require.NoError(t, json.Unmarshal(raw, &rest))
	require.Len(t, rest.GPUs[gpuID].Probes, 1)
	assert.Equal(t, 1, rest.GPUs[gpuID].Probes[0].Failures)
	sm := pmetric.NewMetrics().ResourceMetrics().AppendEmpty().ScopeMetrics().AppendEmpty()
	r.observed.emit(sm, 1, 2)
	require.Equal(t, 1, sm.Metrics().Len())
	require.Equal(t, 1, sm.Metrics().At(0).Sum().DataPoints().Len())
	assert.EqualValues(t, 1, sm.Metrics().At(0).Sum().DataPoints().At(0).IntValue())
	assert.EqualValues(t, 2, r.recommended.Recommendations().All.Requests)
	var shown struct {
		Prompts []struct{ ID string }
	}
	r.get("/v1/prompts", &shown)
	assert.Len(t, shown.Prompts, 2)
}

func TestPromptsThatAreKnownToBeCountedAreBounded(t *testing.T) {
	r := newRepeats()
	add := func(n uint64) (left int) {
		td := ptrace.NewTraces()
		s := td.ResourceSpans().AppendEmpty().ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		s.SetName("comfyui.prompt")
		var id pcommon.TraceID
		binary.BigEndian.PutUint64(id[:], n)
		s.SetTraceID(id)
		s.SetSpanID(pcommon.SpanID{1})
		return r.without(td).SpanCount()
	}
	for n := range uint64(2 * maxRecounted) {
		require.Equal(t, 1, add(n+1))
	}
	for _, b := range r.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
	assert.Zero(t, add(2*maxRecounted), "the last are known")
	assert.Equal(t, 1, add(0), "without an id they are all new")
	assert.Equal(t, 1, add(0))
}

// numberTrace makes spans those of another trace.
func numberTrace(td ptrace.Traces, n uint64) {
	for _, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
		id := s.TraceID()
		binary.BigEndian.PutUint64(id[:], n)
		s.SetTraceID(id)
	}
}

func BenchmarkRepeats(b *testing.B) {
	r, td := newRepeats(), sent("a", time.Minute, 2*time.Second, nil).Traces()
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		numberTrace(td, n)
		r.without(td)
	}
}
