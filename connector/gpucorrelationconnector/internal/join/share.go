// SPDX-License-Identifier: Apache-2.0

package join

import (
	"math"
	"slices"

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
	// weight is the trace's part of what the work used beyond the power at rest, and doubt
	// the standard deviation of that part.
	weight, doubt float64
	division      string
}

// divide appends the parts of a trace's window, which is divided where others begin or
// end, and where what is known of the processes changes.
func (s *scratch) divide(out []share, w gputimeline.Interval, u *uses) []share {
	turns := s.turns[:0]
	for i := range u.others {
		o := &u.others[i]
		turns = append(turns, max(o.From, w.From), min(o.To, w.To))
	}
	if len(turns) > 0 {
		turns = append(turns, u.turns(w)...)
	}
	turns = append(turns, w.To)
	s.turns = turns
	slices.Sort(turns)
	running := newRunning(u.others)
	at := w.From
	for _, t := range turns {
		if t > at || w.Length() == 0 && len(out) == 0 {
			out = append(out, running.share(gputimeline.Interval{From: at, To: t}, u))
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
func (r *running) share(part gputimeline.Interval, u *uses) share {
	for ; r.next < len(r.byFrom) && r.byFrom[r.next].From < part.To; r.next++ {
		r.open = append(r.open, r.byFrom[r.next])
	}
	r.open = slices.DeleteFunc(r.open, func(o otherUse) bool { return o.To <= part.From })
	if len(r.open) == 0 {
		return share{Interval: part, n: 1, weight: 1, division: divisionAlone}
	}
	if s, ok := r.byUse(part, u); ok {
		return s
	}
	w := 1 / float64(1+len(r.open))
	return share{Interval: part, n: 1 + len(r.open), weight: w, doubt: (1 - w) / ninety, division: divisionEven} // it may be all
}

const (
	// likeDoubt is that of the parts of processes that use as much of the GPU as each other:
	// by how much their power for the same use differs.
	likeDoubt = 0.1
	// unlikeDoubt is what part of the difference between two processes' use may be none of
	// their power, or more.
	unlikeDoubt = 0.4
)

// byUse divides a part of a window by what the processes used; ok is false where the driver
// does not say.
func (r *running) byUse(part gputimeline.Interval, u *uses) (s share, ok bool) {
	at := (part.From + part.To) / 2
	near := u.near(at)
	if len(near) == 0 {
		return s, false
	}
	count := map[int64]int{u.pid: 1} // traces of one process are alike
	for _, o := range r.open {
		count[o.pid]++
	}
	rates, users, apart := map[int64]float64{}, 0, 0.0
	widest, alone := int64(0), 0.0
	for pid, n := range count {
		rate, ran, known := u.rate(pid, at, near)
		if !known {
			return s, false
		}
		if rates[pid] = rate; rate > 0 {
			users += n
			apart = max(apart, boundaryDoubt*ran.alone/(ran.alone+ran.shared)/max(ran.shared, boundaryDoubt))
			if ran.alone > max(alone, ran.shared) {
				widest, alone = pid, ran.alone
			}
		}
	}
	all := 0.0
	for _, rate := range rates {
		all += rate
	}
	// Who mostly ran alone is known the least: it used what the others left of the GPU.
	if busy, seen := u.busy.HeldIntegral(part); alone > 0 && seen > 0 {
		left := busy/(float64(seen)/1e9) - (all - rates[widest])
		all -= rates[widest]
		rates[widest] = min(max(left, minUse), 1)
		all += rates[widest]
	}
	own := rates[u.pid]
	switch {
	case users == 0:
		return s, false
	case own == 0: // its process did nothing: neither did the trace
		return share{Interval: part, n: 1 + users, division: divisionUtilization}, true
	case users == 1:
		return share{Interval: part, n: 1, weight: 1, division: divisionAlone}, true
	}
	w := own / all / float64(count[u.pid])
	doubt := math.Hypot(w*(1-w)*(likeDoubt+apart), unlikeDoubt*(w-1/float64(users)))
	return share{Interval: part, n: users, weight: w, doubt: doubt, division: divisionUtilization}, true
}
