// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"slices"
	"time"
)

// Joules is the GPU's energy over a window in J, and of how many ns of it that is
// known: its own counter, else its power integrated.
func (t *Timeline) Joules(w Interval) (sum float64, seen int64) {
	switch {
	case len(t.Energy.Points) > 0:
		return t.Energy.Rise(w)
	case len(t.PowerInstant.Points) > 0:
		return t.PowerInstant.Integral(w)
	}
	return t.PowerAverage.Integral(w)
}

// RestPower is what the GPU draws while no process uses it: of each minute of the last hour
// the mean of the time in which none did.
type RestPower struct {
	updated int64
	minutes [60]restMinute
}

type restMinute struct {
	minute          int64
	joules, seconds float64
	memory          float64 // By, in use then
}

// quiet is for how long nothing must have used the GPU before a time counts as rest.
const quiet = int64(5 * time.Second)

// UpdateRest adds the time since the last call to the power at rest, if nothing used the GPU
// in it and in the five seconds before. idleSince is when the last trace ended that used it.
func (t *Timeline) UpdateRest(idleSince int64) {
	newest, ok := t.Pace.Newest()
	if !ok || newest-t.Rest.updated < int64(time.Second) {
		return
	}
	// One piece follows on the other, so that a step of the counter is missed only at the ends.
	piece := Interval{max(t.Rest.updated, newest-2*int64(time.Second)), newest}
	t.Rest.updated = newest
	if idleSince > piece.From-quiet || !t.isUnused(Interval{piece.From - quiet, newest}) {
		return
	}
	joules, seen := t.Joules(piece)
	if seen < piece.Length()*9/10 {
		return
	}
	minute := newest / int64(time.Minute)
	slot := &t.Rest.minutes[minute%int64(len(t.Rest.minutes))]
	if slot.minute != minute {
		*slot = restMinute{minute: minute}
	}
	slot.joules += joules
	slot.seconds += float64(seen) / 1e9
	slot.memory, _ = t.Memory.Nearest(newest)
}

// isUnused reports whether it is known that no process used the GPU: ours or others, on a
// GPU with MIG those of all instances.
func (t *Timeline) isUnused(w Interval) bool {
	for _, s := range t.ProcessUse {
		if used, ok := s.Max(w); ok && used > 0 {
			return false
		}
	}
	if t.Pace.Points[0].At > w.From {
		return false
	}
	used, known := t.Utilization.Max(w)
	return known && used == 0
}

const (
	// minRest is for how many seconds of a minute the GPU must have rested for its mean to
	// count beside those of other minutes.
	minRest = 10
	// leastRest is for how many seconds in all it must have rested: a counter's step more or
	// less must not matter.
	leastRest = 4
)

// Watts is the power at rest: the median of the minutes'. ok is false while the GPU was
// never seen without use.
func (r *RestPower) Watts() (watts float64, ok bool) {
	all, short := make([]float64, 0, len(r.minutes)), restMinute{}
	oldest := r.updated/int64(time.Minute) - int64(len(r.minutes))
	for i := range r.minutes {
		switch m := &r.minutes[i]; {
		case m.minute <= oldest || m.seconds == 0:
		case m.seconds >= minRest:
			all = append(all, m.joules/m.seconds)
		default:
			short.joules, short.seconds = short.joules+m.joules, short.seconds+m.seconds
		}
	}
	if len(all) == 0 {
		return short.joules / max(short.seconds, 1e-9), short.seconds >= leastRest
	}
	slices.Sort(all)
	return (all[len(all)/2] + all[(len(all)-1)/2]) / 2, true
}

// Memory is how much memory was in use when the power at rest was measured last, in By:
// with models in memory a GPU may draw more.
func (r *RestPower) Memory() (memory float64) {
	newest := int64(0)
	for i := range r.minutes {
		if m := &r.minutes[i]; m.minute > newest && m.seconds > 0 {
			newest, memory = m.minute, m.memory
		}
	}
	return memory
}
