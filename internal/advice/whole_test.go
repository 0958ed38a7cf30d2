// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// ranNodes has the engine learn from the trace of a server's prompt whose nodes ran for so long, as the receiver writes it, beside a
// number of cached ones.
func (w *world) ranNodes(name, id string, cached int, nodes ...Node) {
	took := time.Duration(0)
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.instance.id", name)
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	root, execution := pcommon.SpanID{1}, pcommon.SpanID{2}
	for i, n := range nodes {
		s := spans.AppendEmpty()
		s.SetName("comfyui.node " + n.ID)
		s.SetSpanID(pcommon.SpanID{3, byte(i)})
		s.SetParentSpanID(execution)
		s.Attributes().PutStr("comfyui.node.id", n.ID)
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(w.now.Add(took - n.Ran)))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(w.now.Add(took)))
		took += n.Ran
	}
	s := spans.AppendEmpty()
	s.SetName("comfyui.execution")
	s.SetSpanID(execution)
	s.SetParentSpanID(root)
	s.SetStartTimestamp(pcommon.NewTimestampFromTime(w.now.Add(-took)))
	s.SetEndTimestamp(pcommon.NewTimestampFromTime(w.now))
	a := s.Attributes()
	a.PutInt("comfyui.nodes.executed", int64(len(nodes)))
	a.PutInt("comfyui.nodes.cached", int64(cached))
	active := gib / 10
	if took > time.Second {
		active = 3 * gib
	}
	a.PutInt("comfyui.memory.active.peak", active)
	a.PutInt("comfyui.memory.reserved.peak", 4*gib)
	p := spans.AppendEmpty()
	p.SetName("comfyui.prompt")
	p.SetSpanID(root)
	for key, value := range map[string]string{"comfyui.prompt.id": id, "comfyui.workflow.id": "colour", "comfyui.model": "ddcolor", "comfyui.prompt.outcome": "success"} {
		p.Attributes().PutStr(key, value)
	}
	p.Attributes().PutInt("comfyui.image.side", 512)
	for _, x := range executionsIn(td) {
		w.Executed(&x)
	}
}

// ranAs has a server run a prompt of such nodes, and the engine learn from its trace.
func (w *world) ranAs(name string, cached int, nodes ...Node) {
	id := w.queued(name, "people", 512)
	for _, n := range nodes {
		w.pass(n.Ran)
	}
	w.ended(name)
	w.ranNodes(name, id, cached, nodes...)
}

var (
	loadImage   = Node{"1", 10 * time.Millisecond}
	ddcolor     = Node{"2", 1940 * time.Millisecond}
	coldDDColor = Node{"2", 6 * time.Second}
	saveImage   = Node{"3", 50 * time.Millisecond}
)

// samples are what was learned of the prompts: their mean time and how many they are.
func (w *world) samples() (mean float64, n int) {
	for _, k := range w.kinds.All() {
		for _, s := range k.time.samples {
			mean += s.Cost
			n++
		}
	}
	return mean / float64(max(n, 1)), n
}

// TestAnExecutionOfWhichMostWasCachedIsNotLearned: the same workflow with another name of its file saves
// the image again.
func TestAnExecutionOfWhichMostWasCachedIsNotLearned(t *testing.T) {
	w := newWorld(t, "a")
	w.ranAs("a", 0, loadImage, coldDDColor, saveImage)
	for range 5 {
		w.ranAs("a", 0, loadImage, ddcolor, saveImage)
		w.ranAs("a", 1, ddcolor, saveImage) // as most are: LoadImage, or what loads a model
	}
	mean, n := w.samples()
	require.Equal(t, 10, n)
	require.InDelta(t, 2, mean, 0.05)
	least := func() (least float64) {
		for _, k := range w.kinds.All() {
			least = k.memory.leastOf(sizeOf(512, 1, 0))
		}
		return least
	}
	require.InDelta(t, 3*gib, least(), 1)
	for range 30 {
		w.ranAs("a", 2, saveImage)
		w.ranAs("a", 3)
	}
	_, n = w.samples()
	assert.Equal(t, 10, n)
	assert.InDelta(t, 3*gib, least(), 1, "what needed little does not hide what needed much")
	w.ranAs("a", 1, ddcolor, saveImage)
	_, n = w.samples()
	assert.Equal(t, 11, n)

	changed, _ := w.Unsaved()
	require.Len(t, changed, 1)
	next := newWorld(t, "a")
	_, err := next.LoadKind(changed[0].Data, w.now)
	require.NoError(t, err)
	next.now = w.now
	next.sampled()
	next.ranAs("a", 0, loadImage, coldDDColor, saveImage)
	next.ranAs("a", 2, saveImage)
	_, n = next.samples()
	assert.Equal(t, 11, n, "nor after a restart")
}

// TestTheHeaviestNodeIsTheOneWithMostOfTheTime, whatever was loaded first.
func TestTheHeaviestNodeIsTheOneWithMostOfTheTime(t *testing.T) {
	loader, sampler := Node{"loader", 12 * time.Second}, Node{"sampler", 5 * time.Second}
	w := newWorld(t, "a")
	w.ranAs("a", 0, loader, sampler, saveImage) // cold
	w.ranAs("a", 0, Node{"loader", 8 * time.Second}, sampler)
	for range 10 {
		w.ranAs("a", 1, sampler, saveImage)
	}
	_, n := w.samples()
	assert.GreaterOrEqual(t, n, 9, "loaders are cached from the first execution on")
	h := heaviest{}
	for i := range 100 {
		h.add([]Node{{fmt.Sprint(i), time.Second}, {"small", time.Millisecond}})
	}
	h.add(nil)
	assert.LessOrEqual(t, h.ahead, 1.0)
	for range 10_000 {
		h.add([]Node{sampler})
	}
	assert.Equal(t, heaviest{"sampler", maxAhead}, h)
}

// TestWithoutNodesExecutionsAreLearned: a pipeline may leave them out of traces.
func TestWithoutNodesExecutionsAreLearned(t *testing.T) {
	h := heaviest{id: "2"}
	assert.False(t, h.isPart(&Execution{CachedNodes: 2}))
	assert.False(t, h.isPart(&Execution{Nodes: []Node{saveImage}}), "nothing was cached: it is another branch")
	assert.True(t, h.isPart(&Execution{CachedNodes: 2, Nodes: []Node{saveImage}}))
	assert.False(t, (&heaviest{}).isPart(&Execution{CachedNodes: 2, Nodes: []Node{saveImage}}))
}
