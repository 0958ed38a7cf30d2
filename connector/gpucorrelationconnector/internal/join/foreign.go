// SPDX-License-Identifier: Apache-2.0

package join

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// addForeign adds for how long processes without traces used the GPU in the intervals of a
// process, pid. The driver reports what each process used about once a second: of a second of
// which another one used the GPU for a half, a half counts. Times that are shared with other
// traces do not count twice. Nothing is added where the span's own process is not known.
func (b *bill) addForeign(g *view, intervals []gputimeline.Interval, pid int64) {
	if pid == 0 {
		return
	}
	for _, w := range intervals {
		for _, s := range g.sharesWithin(w) {
			if part, _ := w.Clip(s.Interval); s.n == 1 {
				b.foreign += g.foreignUse(part, pid)
			}
		}
	}
}

// foreignUse is for how long processes other than pid and those of other traces used the GPU.
func (v *view) foreignUse(part gputimeline.Interval, pid int64) time.Duration {
	used := 0.0
	for other, s := range v.ProcessUse {
		if other == 0 || other == pid || v.traced[other] {
			continue
		}
		for i, q := range s.Points {
			// What the driver reports first is of the second before; where it said nothing of
			// the process for long, maxUseAge is.
			since := q.At - time.Second.Nanoseconds()
			if i > 0 {
				since = max(s.Points[i-1].At, q.At-maxUseAge)
			}
			if c, ok := part.Clip(gputimeline.Interval{From: since, To: q.At}); ok && q.Value >= minUse {
				used += q.Value * float64(c.Length()) / 1e9
			}
		}
	}
	return min(time.Duration(used*float64(time.Second)), time.Duration(part.Length()))
}
