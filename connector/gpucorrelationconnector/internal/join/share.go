// SPDX-License-Identifier: Apache-2.0

package join

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// The ways in which a GPU's energy is divided among those that used it at once.
const (
	divisionAlone       = "alone"
	divisionUtilization = "utilization" // by what each process used
	divisionEven        = "even"
)

// share is a part of a window in which n traces used the GPU. A trace uses a GPU while its
// process does, so far as that is known.
type share struct {
	gputimeline.Interval
	n int
	// weight is the trace's part of what the work used beyond the power at rest.
	weight   float64
	division string
}

const (
	// minUse is the use of a process below which it did not use the GPU.
	minUse = 0.005
	// maxUseAge is how far a sample of the processes' use may be from a time, in ns: they
	// come once a second, and only while several processes use the GPU.
	maxUseAge = int64(2500 * time.Millisecond)
)

// uses answers what the processes of a view used of the GPU.
type uses struct {
	*view
	pid    int64
	others []otherUse
	times  []int64 // of the samples of their use
}

func (v *view) uses(pid int64, others []otherUse) *uses {
	u := &uses{view: v, pid: pid, others: others}
	for _, s := range v.ProcessUse {
		for _, p := range s.Points {
			u.times = append(u.times, p.At)
		}
	}
	slices.Sort(u.times)
	u.times = slices.Compact(u.times)
	return u
}

// sampleOf is the time that the sample of a process's use at a time is of; ok is false if
// there is none.
func (u *uses) sampleOf(at int64) (of gputimeline.Interval, ok bool) {
	i, _ := slices.BinarySearch(u.times, at+1)
	if len(u.times) == 0 {
		return of, false
	}
	if i == len(u.times) {
		i-- // the next is not here yet
	}
	of.To = u.times[i]
	of.From = of.To - time.Second.Nanoseconds()
	if i > 0 {
		of.From = max(u.times[i-1], of.To-maxUseAge)
	}
	return of, at-of.To < maxUseAge && of.From-at < maxUseAge
}

// rate is what a process used of the GPU while a trace of it ran, in a time; known is
// false if the driver says nothing of the process.
func (u *uses) rate(pid int64, of gputimeline.Interval, ran int64) (rate float64, known bool) {
	s := u.ProcessUse[pid]
	if pid == 0 || s == nil {
		return 0, false
	}
	i := s.Search(of.To)
	if i == len(s.Points) || s.Points[i].At != of.To {
		return 0, true // the driver has no samples of a process that did nothing
	}
	if rate = s.Points[i].Value; ran > 0 {
		rate *= min(float64(of.Length())/float64(ran), 20)
	}
	return rate, true
}

// ran is how long traces of a process ran in a time.
func (u *uses) ran(pid int64, of gputimeline.Interval, first gputimeline.Interval) int64 {
	var all []gputimeline.Interval
	if c, ok := of.Clip(first); ok {
		all = append(all, c)
	}
	for _, o := range u.others {
		if c, ok := of.Clip(o.Interval); ok && o.pid == pid {
			all = append(all, c)
		}
	}
	sum := int64(0)
	for _, w := range gputimeline.Union(all) {
		sum += w.Length()
	}
	return sum
}

// maxTimes bounds the times at which the division of one window changes because of the
// processes' use.
const maxTimes = 4096

// divide appends the parts of a trace's window, which is divided where others begin or
// end, and where what is known of the processes changes.
func (s *scratch) divide(out []share, w gputimeline.Interval, u *uses) []share {
	turns := s.turns[:0]
	shared := false
	for i := range u.others {
		o := &u.others[i]
		if o.From < w.To && o.To > w.From {
			turns = append(turns, max(o.From, w.From), min(o.To, w.To))
			shared = true
		}
	}
	if shared {
		for _, at := range u.times[:min(len(u.times), maxTimes)] {
			if at > w.From && at < w.To {
				turns = append(turns, at)
			}
		}
	}
	turns = append(turns, w.To)
	s.turns = turns
	slices.Sort(turns)
	running := newRunning(u.others)
	at := w.From
	for _, t := range turns {
		if t > at || w.Length() == 0 && len(out) == 0 {
			part := gputimeline.Interval{From: at, To: t}
			out = append(out, running.share(part, w, u))
			at = t
		}
	}
	return out
}

// running walks what others use, in the order of time.
type running struct {
	byFrom []otherUse
	next   int
	open   []otherUse
}

func newRunning(others []otherUse) *running {
	r := &running{byFrom: slices.Clone(others)}
	slices.SortFunc(r.byFrom, func(a, b otherUse) int { return int(min(max(a.From-b.From, -1), 1)) })
	return r
}

// share is what a trace gets of a part of its window, in which the same others run.
func (r *running) share(part, window gputimeline.Interval, u *uses) share {
	for ; r.next < len(r.byFrom) && r.byFrom[r.next].From < part.To; r.next++ {
		r.open = append(r.open, r.byFrom[r.next])
	}
	r.open = slices.DeleteFunc(r.open, func(o otherUse) bool { return o.To <= part.From })
	if len(r.open) == 0 {
		return share{part, 1, 1, divisionAlone}
	}
	even := share{part, 1 + len(r.open), 1 / float64(1+len(r.open)), divisionEven}
	of, ok := u.sampleOf((part.From + part.To) / 2)
	if !ok {
		return even
	}
	// Traces of one process are alike.
	count := map[int64]int{u.pid: 1}
	for _, o := range r.open {
		count[o.pid]++
	}
	all, own, users := 0.0, 0.0, 0
	for pid, n := range count {
		rate, known := u.rate(pid, of, u.ran(pid, of, r.ofProcess(pid, window, u)))
		if !known {
			return even
		}
		if pid == u.pid {
			own = rate
		}
		if all += rate; rate >= minUse {
			users += n
		}
	}
	switch {
	case users == 0:
		return even
	case own < minUse: // its process did nothing: neither did the trace
		return share{part, 1 + users, 0, divisionUtilization}
	case users == count[u.pid] && users == 1:
		return share{part, 1, 1, divisionAlone}
	}
	return share{part, users, own / all / float64(count[u.pid]), divisionUtilization}
}

// ofProcess is the trace's window if it is of a process.
func (r *running) ofProcess(pid int64, window gputimeline.Interval, u *uses) gputimeline.Interval {
	if pid == u.pid {
		return window
	}
	return gputimeline.Interval{From: 1, To: 0}
}
