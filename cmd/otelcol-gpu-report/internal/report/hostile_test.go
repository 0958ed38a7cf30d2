// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// crafted is a trace of three spans, two of which have their parent's id: without a
// memory of what was visited, each level has twice the rows of the one above.
const crafted = `{"data":[{"traceID":"t","spans":[
	{"spanID":"a","operationName":"comfyui.prompt","duration":5},
	{"spanID":"a","operationName":"x","references":[{"refType":"CHILD_OF","spanID":"a"}]},
	{"spanID":"a","operationName":"y","references":[{"refType":"CHILD_OF","spanID":"a"}]}]}]}`

func TestSpansWithTheirParentsIDAreListedOnce(t *testing.T) {
	all, err := parseTraces(strings.NewReader(crafted))
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Len(t, all[0].Spans, 3)
	assert.False(t, all[0].Omitted)
}

func TestRowsOfATraceAreBounded(t *testing.T) {
	var text strings.Builder
	text.WriteString(`{"data":[{"traceID":"t","spans":[{"spanID":"r","operationName":"comfyui.prompt","duration":5}`)
	for i := range 2 * maxRows {
		fmt.Fprintf(&text, `,{"spanID":"s%d","operationName":"x","references":[{"refType":"CHILD_OF","spanID":"r"}]}`, i)
	}
	text.WriteString(`]}]}`)
	all, err := parseTraces(strings.NewReader(text.String()))
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Len(t, all[0].Spans, maxRows)
	assert.True(t, all[0].Omitted)
}

func TestAGPUWithoutANumberCostsItsOwnCellOnly(t *testing.T) {
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		s := &store{instant: map[string]model.Vector{
			"error_type":  {of(3, "comfyui_prompt_outcome", "success"), of(bad, "comfyui_prompt_outcome", "error")},
			"< bool 0.01": {of(0.5, "hw_id", "a", "hw_name", "gpu0", "instance", "n"), of(bad, "hw_id", "b", "hw_name", "gpu1", "instance", "n")},
			"hw_energy_joules_total": {
				of(7.2e6, "hw_id", "a", "hw_name", "gpu0", "instance", "n"), of(bad, "hw_id", "b", "hw_name", "gpu1", "instance", "n"),
			},
			"by (instance, hw_id, hw_name) (avg_over_time(hw_gpu_utilization":       {of(bad, "hw_id", "a", "hw_name", "gpu0", "instance", "n"), of(0.4, "hw_id", "b", "hw_name", "gpu1", "instance", "n")},
			"by (comfyui_model) (increase(comfyui_execution_duration_seconds_count": {of(3, "comfyui_model", "x")},
		}}
		r, err := Make(t.Context(), s, nil, settings("UTC"))
		require.NoError(t, err)
		page, err := r.HTML()
		require.NoError(t, err, "%v", bad)
		text := string(page)
		assert.Contains(t, text, "<td>2.0 kWh</td>", "the other GPU's energy")
		assert.Contains(t, text, "unknown")
		assert.Contains(t, text, "values that are not numbers")
		assert.NotContains(t, text, "NaN</")
		assert.NotContains(t, text, "Inf<")
		require.Len(t, r.Outcomes, 1)
	}
}

// Answers of any content give rows within the bounds.
func FuzzJaegerAnswer(f *testing.F) {
	f.Add([]byte(crafted))
	f.Add([]byte(`{"data":[{"traceID":"t","spans":[{"spanID":"r","operationName":"comfyui.prompt","startTime":-1,"duration":9,"tags":[{"key":"gpu.energy","value":1e300},{"key":"gpu.memory.peak","value":"x"}]},
		{"spanID":"q","operationName":"comfyui.queue","duration":-5,"references":[{"refType":"CHILD_OF","spanID":"r"},{"refType":"CHILD_OF","spanID":"r"}]},
		{"spanID":"r","operationName":"comfyui.execution","references":[{"refType":"CHILD_OF","spanID":"q"}]}]}]}`))
	f.Add([]byte(`{"data":null}`))
	f.Add([]byte(`{"data":[{"spans":[null,{"references":null,"tags":[{"value":[]}]}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		all, err := parseTraces(strings.NewReader(string(raw)))
		if err != nil {
			return
		}
		spans := strings.Count(string(raw), "{")
		for _, s := range all {
			if len(s.Spans) > min(maxRows, spans) {
				t.Fatalf("%d rows of at most %d spans", len(s.Spans), spans)
			}
			_ = s.Why()
		}
		r := Report{Settings: settings("UTC"), Slow: all, QueriedTraces: true, PeakHour: -1}
		if _, err := r.HTML(); err != nil {
			t.Fatal(err)
		}
	})
}
