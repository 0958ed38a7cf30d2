// SPDX-License-Identifier: Apache-2.0

package join

import (
	"maps"
	"slices"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// refuse marks spans that get no figures.
func (j *Joiner) refuse(uses []use, reason string) {
	for i := range uses {
		if u := &uses[i]; u.gpu != "" || u.rolled != nil {
			j.mark(u, None, reason)
		}
	}
}

func (j *Joiner) mark(u *use, outcome, reason string) {
	j.counts.Spans[SpanOutcome{outcome, reason}]++
	a := u.span.Attributes()
	a.PutStr("gpu.correlation", outcome)
	if reason != "" {
		a.PutStr("gpu.correlation.reason", reason)
	}
}

// bill writes figures onto the spans of a trace.
func (j *Joiner) bill(w *waitingTrace) {
	shares := map[string][]share{}
	for i := range w.uses {
		u := &w.uses[i]
		if u.gpu != "" && u.rolled == nil {
			u.rolled = map[string][]gputimeline.Interval{u.gpu: {u.interval}}
		}
		if u.rolled == nil {
			continue
		}
		if u.reason != "" {
			j.mark(u, None, u.reason)
			continue
		}
		var sum *bill
		outcome, reason := Measured, ""
		for _, id := range slices.Sorted(maps.Keys(u.rolled)) {
			intervals := u.rolled[id]
			g := j.gpus[id]
			if g == nil || len(g.Pace.Points) == 0 {
				outcome, reason = None, reasonNoSamples
				break
			}
			intervals = gputimeline.Union(intervals)
			if _, ok := shares[id]; !ok {
				all := intervals
				if known := g.active.byTrace[w.trace]; known != nil {
					all = known.intervals
				}
				shares[id] = g.active.shares(w.trace, all)
			}
			b := billOf(g, intervals, shares[id], u.pid)
			if why := j.doubt(g, intervals, b, w.cause); why == reasonNoSamples {
				outcome, reason = None, why
				break
			} else if why != "" {
				outcome, reason = Estimate, why
			}
			if sum == nil {
				sum = b
			} else {
				sum.add(b)
			}
			if len(u.rolled) == 1 && !u.named {
				u.span.Attributes().PutStr(semconv.GPUID, id)
			}
		}
		j.mark(u, outcome, reason)
		if outcome != None {
			sum.write(u.span.Attributes())
			sum.writeXIDs(u)
		}
	}
}

// doubt is the reason why the figures of some intervals are only an estimate; empty if
// they are measured.
func (j *Joiner) doubt(g *gpu, intervals []gputimeline.Interval, b *bill, cause string) string {
	first := g.Pace.Points[0].At
	newest, _ := g.Pace.Newest()
	from, to := intervals[0].From, intervals[len(intervals)-1].To
	switch gap := j.settings.MaxGap.Nanoseconds(); {
	case b.samples == 0 && (from > newest+gap || to < first-gap):
		return reasonNoSamples
	case to > newest && g.Ended != 0:
		return reasonLost
	case to > newest && cause != "":
		return cause
	case from < first:
		return reasonHistory
	case b.gap > j.settings.MaxGap:
		return reasonGap
	case b.samples < 2:
		return reasonFew
	}
	return ""
}
