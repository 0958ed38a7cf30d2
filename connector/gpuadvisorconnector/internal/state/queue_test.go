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

// queue is a server with prompts of one kind: the first runs.
type queue struct {
	prompts int
	begun   time.Time
}

func (queue) Name() string { return "node-1:8188" }

func (q queue) Server() comfyevents.Server {
	s := comfyevents.Server{Name: q.Name(), GPUs: []string{"GPU-a"}, Open: q.prompts}
	for i := range q.prompts {
		p := comfyevents.OpenPrompt{ID: fmt.Sprintf("open-%d", i), Workflow: "colorize", Model: "m", Accepted: q.begun}
		if i == 0 {
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
	servers.Add(queue{61, now})
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
