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
