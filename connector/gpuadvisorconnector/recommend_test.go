// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

const theServer = "node-1:8188"

// sent is a prompt of a client that came so long ago, waited 1 s, and ran for so long.
func sent(id string, ago, ran time.Duration, root map[string]any) sampletrace.Prompt {
	all := map[string]any{"comfyui.task_class": "people", "comfyui.workflow.id": "colour", "comfyui.model": "ddcolor", "comfyui.image.side": 680}
	for key, value := range root {
		all[key] = value
	}
	return sampletrace.Prompt{ID: id, Server: theServer, Received: time.Now().Add(-ago), Waited: time.Second, Ran: ran, Root: all, Execution: map[string]any{"hw.id": gpuID}}
}

func TestARequestIsReadFromItsTrace(t *testing.T) {
	read := func(p sampletrace.Prompt, change func(root ptrace.Span, spans ptrace.SpanSlice)) recommend.Request {
		td := p.Traces()
		spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
		if change != nil {
			change(spans.At(0), spans)
		}
		all := requestsIn(td, time.Now())
		require.Len(t, all, 1)
		r := all[0].Request
		assert.Equal(t, theServer, r.Server)
		assert.Equal(t, "people", r.Class)
		return r
	}
	p := sent("a", time.Minute, 2*time.Second, map[string]any{"comfyui.image.batch": 4, "comfyui.steps": 20, "comfyui.client.id": "a client", "comfyui.admission.enforced": true})
	p.Execution["comfyui.loading.duration"] = 1.5
	r := read(p, nil)
	assert.Equal(t, recommend.Made, r.Outcome)
	assert.Equal(t, "a client", r.Client)
	assert.Equal(t, []int{680, 4, 20}, []int{r.Side, r.Batch, r.Steps})
	assert.Equal(t, 3*time.Second, r.Ended.Sub(r.Came))
	assert.Equal(t, gpuID, r.GPU)
	assert.InDelta(t, 1.5, r.Loading, 1e-9)
	assert.True(t, r.Ordered)

	r = read(sent("b", time.Minute, 0, nil), func(root ptrace.Span, spans ptrace.SpanSlice) {
		root.Attributes().PutStr("comfyui.prompt.outcome", "refused")
		root.Attributes().PutStr("error.type", "memory_busy")
		root.Attributes().PutDouble("comfyui.admission.retry_after", 12.4)
		hold := spans.AppendEmpty()
		root.CopyTo(hold)
		hold.SetName("comfyui.hold")
		hold.SetSpanID(pcommon.SpanID{9})
		hold.SetParentSpanID(root.SpanID())
		hold.SetEndTimestamp(root.StartTimestamp() + pcommon.Timestamp(20*time.Second))
	})
	assert.Equal(t, recommend.Refused, r.Outcome)
	assert.Equal(t, admission.MemoryBusy, r.Reason)
	assert.Equal(t, 12400*time.Millisecond, r.RetryAfter)
	assert.Equal(t, 20*time.Second, r.Held)

	for outcome, want := range map[string]recommend.Outcome{
		"cancelled": recommend.GivenUp, "interrupted": recommend.GivenUp, "error": recommend.Failed, "lost": recommend.Failed, "rejected": recommend.Failed, "": recommend.Failed,
	} {
		r = read(sent("c", time.Minute, time.Second, nil), func(root ptrace.Span, _ ptrace.SpanSlice) {
			root.Attributes().PutStr("comfyui.prompt.outcome", outcome)
		})
		assert.Equal(t, want, r.Outcome, outcome)
	}
	p = sent("d", time.Minute, time.Second, nil)
	p.Error = "out_of_memory"
	assert.Equal(t, recommend.OutOfMemory, read(p, nil).Outcome)
	assert.Empty(t, requestsIn(sent("e", -time.Hour, time.Second, nil).Traces(), time.Now()), "it has not ended")
	assert.Empty(t, requestsIn(ptrace.NewTraces(), time.Now()))
}

// TestRecommendationsComeFromTracesAlone has no advisor in the receiver: prompts that ran out of
// memory, and prompts that were late since others precede.
func TestRecommendationsComeFromTracesAlone(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Classes = map[string]ClassConfig{"people": {Deadline: time.Minute, Objective: 4 * time.Second}}
		c.CollectionInterval = time.Hour // recommendations are not made before they are asked for
	})
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, true)))
	remove := r.bus.Servers.Add(&server{comfyevents.Server{Name: theServer, GPUs: []string{gpuID}}})
	defer remove()
	r.advice.Refresh(r.state.GPUs())
	add := func(p sampletrace.Prompt) { require.NoError(t, r.traces.ConsumeTraces(t.Context(), p.Traces())) }
	const all = 200
	for i := range all {
		ago := 2*time.Hour - time.Duration(i)*10*time.Second
		p := sent(fmt.Sprint(i), ago, 2*time.Second, nil)
		switch {
		case i%4 == 1:
			p.Error = "out_of_memory"
		case i%20 == 2:
			p.Waited = 3 * time.Second
		}
		add(p)
	}
	var v view.Recommendations
	require.Equal(t, http.StatusOK, r.get("/v1/recommendations?lang=en", &v))
	assert.Equal(t, "memory", v.All.Shortage)
	assert.EqualValues(t, all, v.All.Requests)
	assert.InDelta(t, all/4*4, v.All.Memory, 1, "what they needed, and what they used in vain")
	assert.InDelta(t, all/4*2, v.All.OutOfMemory, 1)
	assert.InDelta(t, all/20*2, v.All.Time, 1)
	require.Len(t, v.GPUs, 1)
	assert.Equal(t, gpuID, v.GPUs[0].GPU)
	require.Len(t, v.Classes, 1)
	assert.Equal(t, all, v.Classes[0].Requests)
	require.NotNil(t, v.Classes[0].Objective, "%+v", v.Classes[0])
	assert.Equal(t, 680, *v.Classes[0].Objective, "a wait that had no reason is not replayed")

	points := map[string]float64{}
	for _, m := range r.advisor.metrics(time.Now()).ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		for _, p := range m.Gauge().DataPoints().All() {
			name := m.Name()
			for _, key := range []string{"hw.id", "gpuadvisor.shortage", "comfyui.task_class", "gpuadvisor.basis"} {
				if v, ok := p.Attributes().Get(key); ok {
					name += " " + v.Str()
				}
			}
			points[name] = p.DoubleValue()
			if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
				points[name] = float64(p.IntValue())
			}
			simulated, _ := p.Attributes().Get("gpu.simulated")
			assert.True(t, simulated.Bool(), name)
		}
	}
	assert.InDelta(t, all/4*4, points["gpuadvisor.held_back.time "+gpuID+" memory"], 1)
	assert.InDelta(t, all/20*2, points["gpuadvisor.held_back.time "+gpuID+" time"], 1)
	assert.Contains(t, points, "gpuadvisor.held_back.time "+gpuID+" size")
	assert.InDelta(t, all*2, points["gpuadvisor.offered.time "+gpuID], 1)
	assert.InDelta(t, 680, points["gpuadvisor.recommended.side people objective"], 0)
	for _, b := range r.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
}

// TestRecommendationsAreMadeNowAndThen has a clock that a test advances, and recommendations that
// last a second to be made.
func TestRecommendationsAreMadeNowAndThen(t *testing.T) {
	r := newRig(t, nil)
	now, step := time.Now(), time.Duration(0)
	of := newRecommender(createDefaultConfig().(*Config), r.advice, func() time.Time {
		now = now.Add(step)
		return now
	})
	requests := func() int64 { return of.Recommendations().All.Requests }
	add := func(id string) { of.traces(sent(id, time.Hour, time.Second, nil).Traces()) }
	add("a")
	assert.EqualValues(t, 1, requests())
	add("b")
	assert.EqualValues(t, 1, requests(), "whoever asks often costs no more")
	now = now.Add(recommendedFor)
	assert.EqualValues(t, 2, requests())
	now, step = now.Add(recommendedFor), time.Second
	assert.EqualValues(t, 2, requests())
	step = 0
	add("c")
	now = now.Add(900 * time.Second)
	assert.EqualValues(t, 2, requests(), "what costs much is made seldom")
	now = now.Add(100 * time.Second)
	assert.EqualValues(t, 3, requests())
}

func BenchmarkRecommenderTraces(b *testing.B) {
	r := newRecommender(createDefaultConfig().(*Config), advice.NewAdvisor(advice.DefaultSettings(), &comfyevents.Servers{}, time.Now, nil), time.Now)
	td := sent("a", time.Minute, 2*time.Second, nil).Traces()
	n := uint64(0)
	b.ReportAllocs()
	for b.Loop() {
		n++
		numberTrace(td, n)
		r.traces(td)
	}
	if got := r.Recommendations().All.Requests; got != int64(n) {
		b.Fatalf("%d requests of %d", got, n)
	}
}
