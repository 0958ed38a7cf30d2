// SPDX-License-Identifier: Apache-2.0

package sampletrace

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAPromptBecomesATrace(t *testing.T) {
	received := time.Unix(100, 0).UTC()
	td := Prompt{
		ID: "p", Server: "node-1:8188", Received: received, Waited: time.Second, Ran: 2 * time.Second, Ahead: 3, Error: "out_of_memory", ErrorNode: 1,
		Root: map[string]any{"comfyui.image.side": 1280}, Execution: map[string]any{"gpu.energy": 1.5},
		Nodes: []Node{{Class: "A", Share: 0.25}, {Class: "B", Share: 0.75, Attributes: map[string]any{"x": true}}},
	}.Traces()
	spans := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans()
	require.Equal(t, 5, spans.Len())
	root, last := spans.At(0), spans.At(4)
	assert.True(t, root.ParentSpanID().IsEmpty())
	assert.Equal(t, map[string]any{"comfyui.prompt.id": "p", "comfyui.prompt.outcome": "error", "error.type": "out_of_memory", "comfyui.image.side": int64(1280)}, root.Attributes().AsRaw())
	assert.Equal(t, received.Add(3*time.Second), root.EndTimestamp().AsTime())
	assert.Equal(t, map[string]any{"comfyui.queue.ahead": int64(3)}, spans.At(1).Attributes().AsRaw())
	assert.Equal(t, spans.At(2).SpanID(), last.ParentSpanID())
	assert.Equal(t, received.Add(1500*time.Millisecond), last.StartTimestamp().AsTime())
	assert.Equal(t, received.Add(3*time.Second), last.EndTimestamp().AsTime())
	assert.Equal(t, ptrace.StatusCodeError, last.Status().Code())
	assert.Equal(t, ptrace.StatusCodeError, spans.At(2).Status().Code(), "the execution")
	assert.Equal(t, ptrace.StatusCodeUnset, spans.At(3).Status().Code())
	assert.NotEqual(t, TraceID("p"), TraceID("q"))
	assert.Equal(t, TraceID("p"), root.TraceID())
	assert.Panics(t, func() { Prompt{Root: map[string]any{"x": []int{1}}}.Traces() })
}
