// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"time"
)

// agreement compares a GPU's energy counter with its integrated instant power.
type agreement struct {
	checked int64
	differs bool
}

const (
	// agreementWindow is over what time they are compared, agreementInterval how often.
	agreementWindow   = int64(54 * time.Second)
	agreementInterval = int64(2 * time.Second)
	// maxDifference is the relative difference from which the two disagree: drivers of good
	// GPUs differ by 3 %, of others by 10 % and more. They agree again below minDifference.
	maxDifference, minDifference = 0.07, 0.05
)

// Disagrees reports whether the two did not agree when they were compared last.
func (t *Timeline) Disagrees() bool { return t.agreement.differs }

// Disagreement is by how much the counter differs from the power, relative to the power; 0
// while they agree. changed is true when they begin or cease to disagree.
func (t *Timeline) Disagreement() (difference float64, changed bool) {
	newest, _ := t.Pace.Newest()
	a := &t.agreement
	if newest-a.checked < agreementInterval {
		return 0, false
	}
	a.checked = newest
	w := Interval{newest - agreementWindow, newest}
	energy, seen := t.Energy.Rise(w)
	power, alike := t.PowerInstant.Integral(w)
	if min(seen, alike) < agreementWindow*9/10 || power <= 0 {
		return 0, false
	}
	// Each is known for nearly all of the window, not for the same part of it.
	difference = energy/float64(seen)/(power/float64(alike)) - 1
	before := a.differs
	switch size := math.Abs(difference); {
	case size > maxDifference:
		a.differs = true
	case size < minDifference:
		a.differs = false
	}
	if !a.differs {
		difference = 0
	}
	return difference, a.differs != before
}
