// SPDX-License-Identifier: Apache-2.0

package state

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/prompts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type noAlerts struct{}

func (noAlerts) View(texts.Language) *view.Alerts { return nil }

// TestASamplerDoesNotWaitForThePage: it runs in the GPU's worker.
func TestASamplerDoesNotWaitForThePage(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	st, err := New(Settings{
		Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 1, Bytes: 1 << 20},
		Servers: &comfyevents.Servers{}, Alerts: noAlerts{}, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	st.Metrics(sampletext.Metrics(now, "host.name=node-1", "hw.gpu.memory.limit{hw.id=GPU-a} 1000\nhw.gpu.memory.usage{hw.id=GPU-a} 100"))
	st.mu.Lock() // a page is made
	st.MemoryRead("GPU-a", 900, now.Add(time.Millisecond))
	st.MemoryRead("GPU-a", 300, now.Add(2*time.Millisecond))
	st.mu.Unlock()
	memory := st.State(texts.English).GPUs[0].Memory
	assert.EqualValues(t, 300, memory.Used)
	assert.EqualValues(t, 900, memory.Peak, "between the two")
}

func TestALevelIsOnItsGPU(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	st, err := New(Settings{
		Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 1, Bytes: 1 << 20},
		Servers: &comfyevents.Servers{}, Alerts: noAlerts{}, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	st.Metrics(sampletext.Metrics(now, "host.name=node-1", "hw.gpu.memory.limit{hw.id=GPU-a} 1000\nhw.gpu.memory.usage{hw.id=GPU-a} 100"))
	assert.Nil(t, st.State(texts.English).GPUs[0].Load, "nothing is known")
	for level, want := range map[advice.Level]*view.Load{
		advice.Normal:    nil,
		advice.Busy:      {Level: "busy", Severity: view.Warning, Wait: 16, Text: "busy: 16.0 s of work"},
		advice.Saturated: {Level: "saturated", Severity: view.Warning, Wait: 16, Text: "saturated: 16.0 s of work"},
		advice.Critical:  {Level: "critical", Severity: view.Broken, Wait: 16, Text: "critical: 16.0 s of work"},
		advice.Unhealthy: {Level: "unhealthy", Severity: view.Broken, Wait: 16, Text: "unhealthy: the GPU is unusable"},
	} {
		st.SetLoads(map[string]advice.Load{"GPU-a": {Level: level, Wait: 16 * time.Second}})
		assert.Equal(t, want, st.State(texts.English).GPUs[0].Load, level)
	}
	st.SetLoads(map[string]advice.Load{"GPU-a": {Level: advice.Saturated, Wait: time.Second, Shortage: 1 << 30}})
	assert.Equal(t, "saturated: memory is short", st.State(texts.English).GPUs[0].Load.Text)
	st.SetLoads(map[string]advice.Load{"GPU-a": {Level: advice.Busy, Wait: 16 * time.Second}})
	assert.Equal(t, "繁忙：还有 16.0 秒的任务", st.State(texts.Chinese).GPUs[0].Load.Text)
}

// TestTheVerdictDoesNotContradictTheQueue: what waits is that of now, not of the last evaluation.
func TestTheVerdictDoesNotContradictTheQueue(t *testing.T) {
	begun := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := begun
	servers := &comfyevents.Servers{}
	servers.Add(queue{2, 1, begun})
	st, err := New(Settings{
		Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 1, Bytes: 1 << 20},
		Servers: servers, Alerts: noAlerts{}, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	st.Metrics(sampletext.Metrics(now, "host.name=node-1", "hw.gpu.memory.limit{hw.id=GPU-a} 1000\nhw.gpu.memory.usage{hw.id=GPU-a} 100"))
	st.Metrics(sampletext.Metrics(now, "service.name=comfyui,service.instance.id=node-1:8188", "comfyui.up 1"))
	st.Evaluate()
	for _, later := range []time.Duration{0, 900 * time.Millisecond, 7200 * time.Millisecond} { // without another evaluation
		now = begun.Add(later)
		v := st.State(texts.English)
		assert.InDelta(t, later.Seconds(), v.Servers[0].OldestWait, 1e-9)
		want := map[time.Duration]string{0: "no prompt yet", 900 * time.Millisecond: "nothing waits longer than 1 s", 7200 * time.Millisecond: "nothing waits longer than 8 s"}[later]
		assert.Contains(t, v.Verdict.Text, want)
	}
	for second := 55; second <= 65; second++ {
		now = begun.Add(time.Duration(second) * time.Second)
		st.Evaluate()
	}
	assert.Contains(t, st.State(texts.English).Verdict.Text, "the oldest for 65 s, and the wait grows.")
	now = now.Add(900 * time.Millisecond)
	v := st.State(texts.English)
	assert.InDelta(t, 65.9, v.Servers[0].OldestWait, 1e-9)
	assert.Contains(t, v.Verdict.Text, "the oldest for 66 s, and the wait grows.")
	assert.Equal(t, v.Verdict.Text, v.Conditions[0].Text)
}

// TestAPromptHasSeriesWhereSamplesAre: columns of no length would pass for figures.
func TestAPromptHasSeriesWhereSamplesAre(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	st, err := New(Settings{
		Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 10, Bytes: 1 << 20},
		Servers: &comfyevents.Servers{}, Alerts: noAlerts{}, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	st.Metrics(sampletext.Metrics(now, "host.name=node-1", "hw.gpu.memory.limit{hw.id=GPU-a} 1000\nhw.gpu.memory.usage{hw.id=GPU-a} 100"))
	for id, received := range map[string]time.Time{"new": now.Add(-time.Second), "old": now.Add(-2 * time.Hour)} {
		st.Traces(sampletrace.Prompt{ID: id, Received: received, Ran: 2 * time.Second, Execution: map[string]any{"hw.id": "GPU-a"}}.Traces())
	}
	shown, ok := st.Prompt(texts.English, "new")
	require.True(t, ok)
	assert.Len(t, shown.Series, 1)
	shown, ok = st.Prompt(texts.English, "old")
	require.True(t, ok)
	assert.Empty(t, shown.Series, "its samples are no longer held")
}
