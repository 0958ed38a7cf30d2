// SPDX-License-Identifier: Apache-2.0

package gputimeline

import "time"

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

// RestPower is what the GPU draws when nothing runs on it: the lowest mean power
// of a second within the last hour, in W.
type RestPower struct {
	updated int64
	minutes [60]struct {
		minute int64
		watts  float64
	}
}

// UpdateRest lowers the power at rest if the last second drew less.
func (t *Timeline) UpdateRest() {
	newest, ok := t.Pace.Newest()
	if !ok || newest-t.Rest.updated < int64(time.Second) {
		return
	}
	t.Rest.updated = newest
	joules, seen := t.Joules(Interval{newest - int64(time.Second), newest})
	if seen < int64(900*time.Millisecond) {
		return
	}
	watts, minute := joules/(float64(seen)/1e9), newest/int64(time.Minute)
	slot := &t.Rest.minutes[minute%int64(len(t.Rest.minutes))]
	if slot.minute != minute || watts < slot.watts {
		slot.minute, slot.watts = minute, watts
	}
}

// Watts is the power at rest; ok is false while it is not known.
func (r *RestPower) Watts() (watts float64, ok bool) {
	oldest := r.updated/int64(time.Minute) - int64(len(r.minutes))
	for i := range r.minutes {
		if m := &r.minutes[i]; m.minute > oldest && m.minute != 0 && (!ok || m.watts < watts) {
			watts, ok = m.watts, true
		}
	}
	return watts, ok
}
