// SPDX-License-Identifier: Apache-2.0

package gpumodel

import (
	"math"
	"math/rand/v2"
	"time"
)

// Pace says when a GPU is read: those of the fast receiver.
type Pace struct {
	Work, Rest time.Duration // between two reads while work runs, and at rest
	Jitter     time.Duration // of a read, to both sides
	After      time.Duration // for how long after work it is read as while work runs
	Notice     time.Duration // how long before it begins to work a server accepts a prompt
	// Late is the share of reads that come LateBy later.
	Late   float64
	LateBy [2]time.Duration
}

// UsualPace is the pace of the fast receiver on a busy machine.
func UsualPace() Pace {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	return Pace{
		Work: ms(50), Rest: ms(200), Jitter: ms(4), After: ms(500), Notice: ms(10),
		Late: 0.01, LateBy: [2]time.Duration{ms(30), ms(90)},
	}
}

// Reads are the times at which a GPU is read while works run on it, which are sorted by
// their begin.
func (p *Pace) Reads(works []Work, end int64, random *rand.Rand) (all []int64) {
	jitter := p.Jitter.Nanoseconds()
	next, until := 0, int64(math.MinInt64) // the next work, and until when the GPU counts as busy
	for tick := int64(0); tick < end; {
		for next < len(works) && works[next].From-p.Notice.Nanoseconds() <= tick {
			until = max(until, works[next].To+p.After.Nanoseconds())
			next++
		}
		at := tick + random.Int64N(2*jitter+1) - jitter
		if random.Float64() < p.Late {
			at += between(p.LateBy, random)
		}
		if n := len(all); at > 0 && (n == 0 || at > all[n-1]) { // a late read is not caught up
			all = append(all, at)
		}
		if tick < until {
			tick += p.Work.Nanoseconds()
			continue
		}
		tick += p.Rest.Nanoseconds()
		if next < len(works) {
			// The work is noticed, and the next read comes within the interval.
			noticed := works[next].From - p.Notice.Nanoseconds()
			if noticed < tick {
				tick = max(noticed, tick-p.Rest.Nanoseconds()) + random.Int64N(p.Work.Nanoseconds())
			}
		}
	}
	return all
}

// Uses reads the share of the GPU that each process used: the mean, in whole percent, of
// the driver's samples, which last a sixth of a second, since the last read.
type Uses struct {
	Run    *Run
	Period time.Duration
	since  int64
}

// driverSample is for how long one of the driver's samples of a process's use lasts.
const driverSample = int64(time.Second) / 6

// Due reports whether several processes of ours run, and their use was not read within the
// period.
func (u *Uses) Due(at int64) bool {
	if at-u.since < u.Period.Nanoseconds() {
		return false
	}
	running := map[int]bool{}
	for i := range u.Run.Works {
		if w := &u.Run.Works[i]; w.From <= at && at < w.To {
			running[w.Process] = true
		}
	}
	return len(running) > 1
}

// Read is the share of each process at a time; processes that did nothing have none.
func (u *Uses) Read(at int64) map[int]float64 {
	to := floor(at, 0, driverSample)
	from := max(floor(u.since, 0, driverSample), to-12*driverSample) // the driver's buffer
	u.since = at
	all := map[int]float64{}
	for p, use := range u.Run.Use {
		if to <= from {
			continue
		}
		if share := math.Round(100*use.Between(from, to)/(float64(to-from)/1e9)) / 100; share > 0 {
			all[p] = share
		}
	}
	return all
}
