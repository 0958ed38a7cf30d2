// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	// slowAnswer is the median from which the server is asked half as often: its handler
	// runs on the event loop that also serves its users.
	slowAnswer = 20 * time.Millisecond
	// medianOf is how many answers the median is of, fastAnswers how many fast ones in a row
	// double the rate again.
	medianOf    = 5
	fastAnswers = 10
	// maxInterval is the longest interval that slow answers lead to.
	maxInterval = 5 * time.Second
	// busyShare is the part of the time in which a question may be under way, on average
	// over averagedOver.
	busyShare    = 0.02
	averagedOver = time.Minute
)

// Pace decides how often a server is asked. The times between questions vary by a quarter, so
// that they are not always asked at the same step of prompts that last equally long.
type Pace struct {
	configured, interval time.Duration
	random               *rand.Rand
	// lasted are the durations of the last answers since the interval was changed.
	lasted []time.Duration
	fast   int // fast answers in a row
	// budget is for how long questions may be under way; it was last filled at filled.
	budget time.Duration
	filled time.Time
}

// NewPace makes the pace of a server that is asked every interval as long as its answers
// are fast.
func NewPace(interval time.Duration, seed uint64) *Pace {
	return &Pace{configured: interval, interval: interval, random: rand.New(rand.NewPCG(seed, 0))}
}

// Interval is the mean time from one question to the next.
func (p *Pace) Interval() time.Duration { return p.interval }

// First is the time from the beginning of work to the first question.
func (p *Pace) First() time.Duration { return p.part(0, 1) }

// Next is the time from one question to the next.
func (p *Pace) Next() time.Duration { return p.part(0.75, 1.25) }

// part is a random part of the interval.
func (p *Pace) part(from, to float64) time.Duration {
	return time.Duration((from + (to-from)*p.random.Float64()) * float64(p.interval))
}

// Allows reports whether another question may be asked: questions may be under way for 2 %
// of the time.
func (p *Pace) Allows(now time.Time) bool {
	full := time.Duration(busyShare * float64(averagedOver))
	switch {
	case p.filled.IsZero():
		p.budget = full
	default:
		p.budget = min(p.budget+time.Duration(busyShare*float64(max(now.Sub(p.filled), 0))), full)
	}
	p.filled = now
	return p.budget > 0
}

// Answered records an answer.
func (p *Pace) Answered(lasted time.Duration) {
	p.budget -= lasted
	if p.lasted = append(p.lasted, lasted); len(p.lasted) > medianOf {
		p.lasted = p.lasted[1:]
	}
	if p.fast++; lasted > slowAnswer {
		p.fast = 0
	}
	switch {
	case len(p.lasted) == medianOf && slices.Sorted(slices.Values(p.lasted))[medianOf/2] > slowAnswer:
		p.slower()
	case p.fast == fastAnswers:
		p.change(max(p.interval/2, p.configured))
	}
}

// Late records a question that timed out.
func (p *Pace) Late(lasted time.Duration) {
	p.budget -= lasted
	p.fast = 0
	p.slower()
}

func (p *Pace) slower() { p.change(min(2*p.interval, max(maxInterval, p.configured))) }

func (p *Pace) change(interval time.Duration) {
	p.interval, p.lasted, p.fast = interval, p.lasted[:0], 0
}
