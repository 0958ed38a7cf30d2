// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store answers questions by the longest piece of their PromQL. The end-to-end tests ask real
// stores; here are the answers that those seldom give.
type store struct {
	v1.API
	instant map[string]model.Vector
	over    map[string]model.Matrix
	err     error
	asked   []string
}

func (s *store) Query(_ context.Context, query string, _ time.Time, _ ...v1.Option) (model.Value, v1.Warnings, error) {
	s.asked = append(s.asked, query)
	found, answer := "", model.Vector{}
	for piece, v := range s.instant {
		if strings.Contains(query, piece) && len(piece) > len(found) {
			found, answer = piece, v
		}
	}
	return answer, nil, s.err
}

func (s *store) QueryRange(_ context.Context, query string, _ v1.Range, _ ...v1.Option) (model.Value, v1.Warnings, error) {
	s.asked = append(s.asked, query)
	for piece, v := range s.over {
		if strings.Contains(query, piece) {
			return v, nil, s.err
		}
	}
	return model.Matrix{}, nil, s.err
}

func of(v float64, labels ...string) *model.Sample {
	m := model.Metric{}
	for i := 0; i < len(labels); i += 2 {
		m[model.LabelName(labels[i])] = model.LabelValue(labels[i+1])
	}
	return &model.Sample{Metric: m, Value: model.SampleValue(v)}
}

func settings(zone string) Settings {
	l, err := time.LoadLocation(zone)
	if err != nil {
		panic(err)
	}
	return Settings{Window: 7 * 24 * time.Hour, End: time.Date(2026, 3, 8, 0, 0, 0, 0, time.UTC), Zone: l, Currency: "€"}
}

func TestHoursAreThoseOfTheZoneAndAPointTellsOfTheHourBefore(t *testing.T) {
	s := &store{
		instant: map[string]model.Vector{"comfyui_prompt_outcome, error_type": {of(10, "comfyui_prompt_outcome", "success"), of(2, "comfyui_prompt_outcome", "error", "error_type", "out_of_memory")}},
		over: map[string]model.Matrix{"comfyui_prompts_total": {{
			Metric: model.Metric{"comfyui_task_class": "people"},
			Values: []model.SamplePair{{Timestamp: model.TimeFromUnix(time.Date(2026, 3, 7, 13, 0, 0, 0, time.UTC).Unix()), Value: 10}},
		}}},
	}
	for zone, hour := range map[string]int{"UTC": 12, "Asia/Shanghai": 20} {
		r, err := Make(t.Context(), s, nil, settings(zone))
		require.NoError(t, err)
		assert.Equal(t, hour, r.PeakHour, zone)
		assert.Equal(t, []Outcome{{"success", 10}, {"error (out of memory)", 2}}, r.Outcomes)
	}
	for _, query := range s.asked {
		assert.NotContains(t, query, "$", "every variable is replaced")
	}
}

func TestStoreWithPromptsOnlyGivesAPageAllTheSame(t *testing.T) {
	s := &store{instant: map[string]model.Vector{"error_type": {of(3, "comfyui_prompt_outcome", "success")}, "card_mean": nil}}
	r, err := Make(t.Context(), s, nil, settings("UTC"))
	require.NoError(t, err)
	page, err := r.HTML()
	require.NoError(t, err)
	text := string(page)
	assert.Contains(t, text, "has no images in this time")
	assert.Contains(t, text, "has too few intervals")
	assert.NotContains(t, text, "NaN")
	assert.NotContains(t, text, "SIMULATED")
	assert.NotContains(t, text, "<svg")
}

func TestGPUsAreIdleFromTheLimitOnAndNamesAreEscaped(t *testing.T) {
	s := &store{instant: map[string]model.Vector{
		"error_type":     {of(3, "comfyui_prompt_outcome", "success")},
		"< bool 0.01":    {of(0.96, "hw_id", "a", "hw_name", "gpu0", "instance", "n"), of(0.94, "hw_id", "b", "hw_name", "<b>gpu1", "instance", "n")},
		"hw_gpu_up":      {of(1)},
		"comfyui_model)": {of(math.NaN(), "comfyui_model", "x")},
	}}
	r, err := Make(t.Context(), s, nil, settings("UTC"))
	require.NoError(t, err)
	require.Len(t, r.IdleGPUs(), 1)
	assert.Equal(t, "gpu0", r.IdleGPUs()[0].Name)
	assert.Empty(t, r.Models, "what is not a number is left out")
	page, err := r.HTML()
	require.NoError(t, err)
	assert.Contains(t, string(page), "SIMULATED")
	assert.NotContains(t, string(page), "<b>gpu1")
}

func TestErrorOfTheStoreNamesTheQuestion(t *testing.T) {
	_, err := Make(t.Context(), &store{err: errors.New("it is full")}, nil, settings("UTC"))
	require.ErrorContains(t, err, "comfyui_prompts_total")
	require.ErrorContains(t, err, "it is full")
	_, err = Make(t.Context(), &store{}, nil, settings("UTC"))
	require.ErrorContains(t, err, "no comfyui_prompts_total in the 168h0m0s before 2026-03-08")
}

// spansOf reads spans as Jaeger's query API returns them.
func spansOf(t *testing.T, text string) []jaegerSpan {
	t.Helper()
	var spans []jaegerSpan
	require.NoError(t, json.Unmarshal([]byte(text), &spans))
	return spans
}

func TestWhyAImageWasSlow(t *testing.T) {
	trace := func(wait, node int, throttled float64) string {
		return fmt.Sprintf(`[
			{"spanID": "n2", "operationName": "comfyui.node SaveImage", "startTime": %[2]d, "duration": 1000, "references": [{"refType": "CHILD_OF", "spanID": "e"}]},
			{"spanID": "n1", "operationName": "comfyui.node DDColor_Colorize", "startTime": %[1]d, "duration": %[3]d, "references": [{"refType": "CHILD_OF", "spanID": "e"}],
				"tags": [{"key": "gpu.energy", "value": 20}, {"key": "gpu.memory.peak", "value": 4096}]},
			{"spanID": "caller", "operationName": "POST /colour", "startTime": 0, "duration": 9000000},
			{"spanID": "r", "operationName": "comfyui.prompt", "startTime": 0, "duration": %[4]d, "references": [{"refType": "CHILD_OF", "spanID": "caller"}],
				"tags": [{"key": "comfyui.prompt.outcome", "value": "error"}, {"key": "error.type", "value": "out_of_memory"}, {"key": "comfyui.image.side", "value": 1280},
				{"key": "gpu.energy", "value": 21}, {"key": "gpu.throttle.time", "value": %[5]g}]},
			{"spanID": "q", "operationName": "comfyui.queue", "startTime": 0, "duration": %[1]d, "references": [{"refType": "CHILD_OF", "spanID": "r"}]},
			{"spanID": "e", "operationName": "comfyui.execution", "startTime": %[1]d, "duration": %[6]d, "references": [{"refType": "CHILD_OF", "spanID": "r"}]}
		]`, wait, wait+node, node, wait+node+1000, throttled, node+1000)
	}
	item := func(text string) *Slow {
		all := images("t", spansOf(t, text))
		require.Len(t, all, 1)
		return &all[0]
	}
	s := item(trace(3_000_000, 1_000_000, 0))
	assert.Equal(t, "waited for others: 75 %", s.Why())
	assert.Equal(t, "error (out of memory)", s.Outcome)
	assert.InDelta(t, 3, s.Wait, 1e-9)
	assert.InDelta(t, 1.001, s.Execution, 1e-9)
	assert.True(t, s.Billed)
	names := make([]string, len(s.Spans))
	for i, item := range s.Spans {
		names[i] = strings.Repeat(" ", item.Depth) + item.Name
	}
	assert.Equal(t, []string{"comfyui.prompt", " comfyui.queue", " comfyui.execution", "  comfyui.node DDColor_Colorize", "  comfyui.node SaveImage"}, names)
	assert.Equal(t, "DDColor_Colorize: 99 %", item(trace(10_000, 1_000_000, 0.01)).Why())
	assert.Equal(t, "DDColor_Colorize: 99 %, the GPU throttled for 40 % of its execution", item(trace(10_000, 1_000_000, 0.4004)).Why())
	assert.Empty(t, (&Slow{}).Why())
	loop := `[{"spanID": "r", "operationName": "comfyui.prompt", "duration": 5, "references": [{"refType": "CHILD_OF", "spanID": "r"}]}]`
	assert.NotPanics(t, func() { images("t", spansOf(t, loop)) }, "a span below itself")
}

func TestMemoryIsWhatIsNeededWhereThatIsKnown(t *testing.T) {
	class := func(people, buildings float64) model.Vector {
		return model.Vector{of(people, "comfyui_task_class", "people"), of(buildings, "comfyui_task_class", "buildings")}
	}
	const need, held = "comfyui_execution_memory_need_bytes_sum", "sum by (comfyui_task_class) (increase(comfyui_execution_gpu_memory_peak_bytes_sum[1w])) / "
	const count = "sum by (comfyui_task_class) (increase(comfyui_execution_duration_seconds_count[1w]))"
	for name, test := range map[string]struct {
		need     model.Vector
		kind     string
		memories []float64
	}{
		"known of all classes": {class(3, 7.8), MemoryNeeded, []float64{3, 7.8}},
		"unknown":              {nil, MemoryHeld, []float64{8, 8.5}},
		"known of one":         {model.Vector{of(3, "comfyui_task_class", "people")}, MemoryHeld, []float64{8, 8.5}},
	} {
		t.Run(name, func(t *testing.T) {
			s := &store{
				instant: map[string]model.Vector{
					"comfyui_prompt_outcome, error_type": {of(10, "comfyui_prompt_outcome", "success")}, need: test.need, held: class(8, 8.5), count: class(10, 10),
				},
				over: map[string]model.Matrix{"comfyui_prompts_total": {{
					Metric: model.Metric{"comfyui_task_class": "people"}, Values: []model.SamplePair{{Timestamp: model.TimeFromUnix(settings("UTC").End.Unix()), Value: 10}},
				}}},
			}
			r, err := Make(t.Context(), s, nil, settings("UTC"))
			require.NoError(t, err)
			assert.Equal(t, test.kind, r.ClassMemory)
			require.Len(t, r.Classes, 2)
			want := test.memories
			assert.Equal(t, want, []float64{r.Classes[0].Memory, r.Classes[1].Memory})
			assert.InDelta(t, test.memories[1]/test.memories[0], r.Classes[1].MemoryAgainst, 1e-9)
		})
	}
}

func TestMemoryOfAnImageSaysWhichItIs(t *testing.T) {
	image := func(tags string) *Slow {
		all := images("t", spansOf(t, `[
			{"spanID": "r", "operationName": "comfyui.prompt", "duration": 5, "tags": [{"key": "gpu.energy", "value": 21}, {"key": "gpu.memory.peak", "value": 4096}]},
			{"spanID": "e", "operationName": "comfyui.execution", "duration": 4, "references": [{"refType": "CHILD_OF", "spanID": "r"}], "tags": [`+tags+`]}]`))
		require.Len(t, all, 1)
		return &all[0]
	}
	s := image(``)
	assert.Equal(t, []any{4096.0, MemoryHeld}, []any{s.Memory, s.MemoryIs})
	s = image(`{"key": "comfyui.memory.need", "value": 1024}, {"key": "comfyui.memory.need.executions", "value": 2}`)
	assert.Equal(t, []any{4096.0, MemoryHeld}, []any{s.Memory, s.MemoryIs}, "of two executions it is a guess")
	s = image(`{"key": "comfyui.memory.need", "value": 1024}, {"key": "comfyui.memory.need.executions", "value": 3}`)
	assert.Equal(t, []any{1024.0, MemoryNeeded}, []any{s.Memory, s.MemoryIs})
}
