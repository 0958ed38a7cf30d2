// SPDX-License-Identifier: Apache-2.0

package state

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/prompts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

// queue is a server with prompts of one kind: the first ones run.
type queue struct {
	prompts, running int
	begun            time.Time
}

func (queue) Name() string { return "node-1:8188" }

func (q queue) Server() comfyevents.Server {
	s := comfyevents.Server{Name: q.Name(), GPUs: []string{"GPU-a"}, Open: q.prompts}
	for i := range q.prompts {
		p := comfyevents.OpenPrompt{ID: fmt.Sprintf("open-%d", i), Workflow: "colorize", Model: "m", Accepted: q.begun}
		if i < q.running {
			p.Started = q.begun
		}
		s.Prompts = append(s.Prompts, p)
	}
	return s
}

// TestAQueueIsListedToItsEnd: the state, which is sent to each viewer, has its beginning.
func TestAQueueIsListedToItsEnd(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	servers := &comfyevents.Servers{}
	servers.Add(queue{61, 1, now})
	st, err := New(Settings{
		Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 10, Bytes: 1 << 20}, Servers: servers, Alerts: noAlerts{}, Now: func() time.Time { return now },
	})
	require.NoError(t, err)
	for i := range 3 { // what is usual
		st.Traces(sampletrace.Prompt{
			ID: fmt.Sprintf("ended-%d", i), Server: "node-1:8188", Received: now.Add(-time.Minute), Ran: 2 * time.Second,
			Root: map[string]any{"comfyui.workflow.id": "colorize", "comfyui.model": "m"}, Execution: map[string]any{"hw.id": "GPU-a"},
		}.Traces())
	}
	shown := st.State(texts.English).Servers[0]
	assert.Len(t, shown.Prompts, 50)
	assert.Equal(t, 61, shown.Listed)
	whole, ok := st.Queue(texts.English, "node-1:8188")
	require.True(t, ok)
	require.Len(t, whole.Prompts, 61)
	assert.Equal(t, shown.Prompts, whole.Prompts[:50])
	_, ok = st.Queue(texts.English, "node-2:8188")
	assert.False(t, ok)

	open, ok := st.Open(texts.English, "open-55")
	require.True(t, ok)
	assert.Equal(t, whole.Prompts[55], open.OpenPrompt)
	assert.Equal(t, "node-1:8188", open.Server)
	assert.Equal(t, 55, open.Ahead)
	assert.Equal(t, "55 prompts ahead", open.Text)
	assert.Equal(t, now.Add(110*time.Second), *open.Starts, "after 55 of 2 s")
	_, ok = st.Open(texts.English, "ended-1")
	assert.False(t, ok)

	found := st.Prompts(texts.English, page.Query{ID: "open-55", Limit: 1})
	assert.Empty(t, found.Prompts)
	require.Len(t, found.Open, 1)
	assert.Equal(t, open, found.Open[0])
	found = st.Prompts(texts.English, page.Query{ID: "ended-1", Limit: 1})
	assert.Len(t, found.Prompts, 1)
	assert.Empty(t, found.Open)
	assert.Empty(t, st.Prompts(texts.English, page.Query{ID: "ended", Limit: 1}).Prompts, "a part of an id is none")
}

// TestOnePromptOfAQueueIsNext whatever runs: the first that waits. Each other one has as many ahead as
// its text says.
func TestOnePromptOfAQueueIsNext(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for running, want := range [][]string{
		{"next", "1 prompt ahead", "2 prompts ahead"},
		{"running", "next", "2 prompts ahead"},
		{"running", "running", "next"},
	} {
		servers := &comfyevents.Servers{}
		servers.Add(queue{3, running, now})
		st, err := New(Settings{Machine: machine.DefaultLimits(), Prompts: prompts.Limits{Prompts: 10, Bytes: 1 << 20}, Servers: servers, Alerts: noAlerts{}, Now: func() time.Time { return now }})
		require.NoError(t, err)
		var shown []string
		for i, p := range st.State(texts.English).Servers[0].Prompts {
			shown = append(shown, p.Text)
			ahead := i
			if i < running {
				ahead = 0
			}
			assert.Equal(t, ahead, p.Ahead, "%d of %d that run", i, running)
			alone, ok := st.Open(texts.English, p.ID)
			require.True(t, ok)
			assert.Equal(t, p, alone.OpenPrompt, "as its page has it")
		}
		assert.Equal(t, want, shown, "%d run", running)
	}
}
