// SPDX-License-Identifier: Apache-2.0

package protocol

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
)

func TestMessagesOfOlderAndOddServersAreRead(t *testing.T) {
	m, ok := ParseMessage([]byte(`{"type": "executing", "data": {"node": 7, "prompt_id": "p"}}`))
	require.True(t, ok)
	assert.Equal(t, "7", m.Node, "node ids were numbers once")
	m, ok = ParseMessage([]byte(`{"type": "executing", "data": {"node": null, "prompt_id": "p"}}`))
	assert.True(t, ok && m.NoNode)
	m, ok = ParseMessage([]byte(`{"type": "execution_error", "data": {"prompt_id": "p", "node_id": "2", "timestamp": 1795489984750, "exception_type": "torch.OutOfMemoryError"}}`))
	require.True(t, ok)
	assert.Equal(t, "torch.OutOfMemoryError", m.Error.Type)
	assert.Equal(t, time.UnixMilli(1795489984750), m.At)
	m, ok = ParseMessage([]byte(`{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"state": 7}, "2": {"state": "running", "value": 1}}}}`))
	require.True(t, ok)
	assert.Equal(t, "running", m.States["2"].State, "one damaged node does not hide the others")
	for _, text := range []string{``, `null`, `[]`, `{"type": 1}`, `{"type": "something_new", "data": {}}`, `{"type": "status"`, `"status"`} {
		_, ok := ParseMessage([]byte(text))
		assert.False(t, ok, text)
	}
}

func TestWorkflowOf10000NodesIsRead(t *testing.T) {
	nodes := map[string]any{}
	for i := range 10_000 {
		nodes[fmt.Sprint(i)] = map[string]any{"class_type": "Node", "inputs": map[string]any{"from": []any{fmt.Sprint(i - 1), 0}, "x": i}}
	}
	body, err := json.Marshal(map[string]any{"prompt": nodes})
	require.NoError(t, err)
	s, err := ParseSubmission(body)
	require.NoError(t, err)
	require.Len(t, s.Nodes, 10_000)
	assert.Equal(t, "9", s.Nodes[9].ID, "in the order of their numbers")
	again, err := ParseSubmission([]byte(strings.ReplaceAll(string(body), `"x":5,`, `"x":6,`)))
	require.NoError(t, err)
	assert.Equal(t, s.Workflow, again.Workflow, "values do not change a workflow's shape")
}

func TestHistoryOfEveryRecordingIsRead(t *testing.T) {
	entries := 0
	for _, r := range comfyreplay.All(t) {
		for _, l := range r.Lines {
			if l.Kind != "response" || l.Status != 200 {
				continue
			}
			all, err := ParseHistory(l.Body)
			if err != nil {
				continue
			}
			for id, f := range all {
				if len(f.Messages) == 0 {
					continue
				}
				entries++
				assert.Equal(t, id, f.PromptID)
				_, ended := f.End()
				assert.True(t, ended, "%s: %s", r.Name, id)
				assert.False(t, f.Start().IsZero())
				assert.NotEmpty(t, f.Nodes)
			}
		}
	}
	assert.Greater(t, entries, 15)
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"type": "progress_state", "data": {"prompt_id": "p", "nodes": {"1": {"state": "running"}}}}`))
	f.Add([]byte(`{"type": "execution_cached", "data": {"nodes": [1, "2", null], "timestamp": 1e300}}`))
	f.Add([]byte(`{"type": "executed", "data": {"output": {"images": {}}}}`))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = ParseMessage(text) })
}

func FuzzSubmission(f *testing.F) {
	f.Add([]byte(`{"prompt": {"1": {"class_type": "A", "inputs": {"x": ["2", 0]}}}, "client_id": "c", "extra_data": {"traceparent": "x"}}`))
	f.Add([]byte(`{"prompt": [], "extra_data": 7}`))
	f.Fuzz(func(_ *testing.T, body []byte) { _, _ = ParseSubmission(body) })
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"prompt_id": "p", "node_errors": {"2": {}}, "error": "text"}`))
	f.Add([]byte(`{"queue_running": [[0, "p", {}, {}, []]], "queue_pending": [7]}`))
	f.Add([]byte(`{"p": {"prompt": [0, "p", {}], "status": {"messages": [["execution_start", {"timestamp": 1}], [], [1]]}, "outputs": {"3": {"images": [{}]}}}}`))
	f.Fuzz(func(_ *testing.T, body []byte) {
		_ = ParseAnswer(body)
		_, _ = ParseQueue(body)
		_, _ = ParseHistory(body)
		_, _ = ParseSystemStats(body)
		_ = ParseRemoval(body)
	})
}
