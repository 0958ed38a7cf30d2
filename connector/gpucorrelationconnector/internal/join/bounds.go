// SPDX-License-Identifier: Apache-2.0

package join

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered]. What each GPU has is listed for the GPU that has
// the most of it.
func (j *Joiner) Bounds() []bounds.Bound {
	j.steps.lock()
	defer j.steps.unlock()
	limits := &j.settings.Limits
	var ended, open, queue, xids, chunks int
	for _, g := range j.gpus {
		ended, open = max(ended, len(g.active.ended)), max(open, len(g.active.open))
		queue, xids = max(queue, len(g.queue)), max(xids, len(g.xids))
		chunks = max(chunks, len(g.active.windows.chunks), len(g.records.chunks))
	}
	// Each trace that waits has a span. Those that follow on spans that wait may find room
	// beyond the limit (see fits).
	return append(j.timelines.Bounds(), []bounds.Bound{
		{Name: "join.Joiner.gpus", Max: limits.GPUs, Size: len(j.gpus)},
		{Name: "join.Joiner.byTrace", Max: limits.Spans, Size: len(j.byTrace)},
		{Name: "join.Joiner.arrived", Max: limits.Spans, Size: j.arrived.Len()},
		{Name: "join.Joiner.ready", Max: 2 * limits.Spans, Size: len(j.ready)},
		{Name: "join.Joiner.waitingRecords", Max: limits.Records, Size: j.waitingRecords.Len()},
		{Name: "join.Joiner.records", Max: limits.Records, Size: len(j.records)},
		{Name: "join.recollection.ended", Max: limits.Traces, Size: j.memory.ended.Len()},
		{Name: "join.recollection.open", Max: limits.Traces, Size: j.memory.open.Len()},
		{Name: "join.activities.ended", Max: limits.Traces, Size: ended},
		{Name: "join.activities.open", Max: limits.Traces, Size: open},
		{Name: "join.gpu.queue", Max: limits.Spans, Size: queue},
		{Name: "join.gpu.xids", Max: maxXIDs, Size: xids},
		// A chunk has an item at least: windows that ended, those that are open, records.
		{Name: "join.ordered.chunks", Max: max((meanWindows+1)*limits.Traces, maxWindows) + maxPartWindows + limits.Records, Size: chunks},
	}...)
}
