// SPDX-License-Identifier: Apache-2.0

package gputimeline

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds lists what the set holds; what each GPU has, for the GPU that has the most of it.
func (ts *Set) Bounds() []bounds.Bound {
	var reasons, processes, uses, points, dates int
	for _, t := range ts.byID {
		reasons, processes = max(reasons, len(t.Throttle)), max(processes, len(t.ProcessMemory))
		uses = max(uses, len(t.ProcessUse))
		dates = max(dates, len(t.counter.dates), len(t.power.dates))
		t.eachStream(func(s *Stream) { points = max(points, len(s.Points)) })
	}
	return []bounds.Bound{
		{Name: "gputimeline.Set.byID", Max: ts.limits.GPUs, Size: len(ts.byID)},
		{Name: "gputimeline.Timeline.Throttle", Max: maxReasons, Size: reasons},
		{Name: "gputimeline.Timeline.ProcessMemory", Max: ts.limits.Processes, Size: processes},
		{Name: "gputimeline.Timeline.ProcessUse", Max: ts.limits.Processes, Size: uses},
		{Name: "gputimeline.dater.dates", Max: ts.limits.Samples, Size: dates},
		{Name: "gputimeline.Stream.Points", Max: ts.limits.Samples, Size: points},
	}
}
