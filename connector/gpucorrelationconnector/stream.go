// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import "slices"

// window is a span of time in ns since the epoch, by the clock of the samples.
type window struct{ from, to int64 }

func (w window) length() int64 { return w.to - w.from }

// clip is what two windows have in common; ok is false if that is nothing.
func (w window) clip(to window) (window, bool) {
	c := window{max(w.from, to.from), min(w.to, to.to)}
	return c, c.from <= c.to
}

// union joins windows that touch; the result is sorted.
func union(all []window) []window {
	if len(all) < 2 {
		return all
	}
	slices.SortFunc(all, func(a, b window) int { return int(min(max(a.from-b.from, -1), 1)) })
	out := all[:1]
	for _, w := range all[1:] {
		if last := &out[len(out)-1]; w.from <= last.to {
			last.to = max(last.to, w.to)
		} else {
			out = append(out, w)
		}
	}
	return out
}

// point is one value of a quantity at a time.
type point struct {
	at int64
	v  float64
}

// stream is the recent history of one quantity of one GPU: points in the order of
// their times, no two at the same time.
type stream struct {
	points []point
	// sparse streams keep of a run of equal values its first and its last.
	sparse bool
}

// arrival says how a point came.
type arrival int

const (
	inOrder arrival = iota
	late
	repeated
)

// put takes a point in, wherever it belongs.
func (s *stream) put(at int64, v float64) arrival {
	n := len(s.points)
	if n == 0 || at > s.points[n-1].at {
		if s.sparse && n >= 2 && s.points[n-1].v == v && s.points[n-2].v == v {
			s.points[n-1].at = at
		} else {
			s.points = append(s.points, point{at, v})
		}
		return inOrder
	}
	i := s.search(at)
	if s.points[i].at == at {
		s.points[i].v = v
		return repeated
	}
	s.points = slices.Insert(s.points, i, point{at, v})
	return late
}

// forget drops what is before a time, but for the last point before it, and all but
// the newest points.
func (s *stream) forget(before int64, most int) (dropped int) {
	i := max(s.search(before)-1, 0)
	if over := len(s.points) - most; over > i {
		dropped, i = over-i, over
	}
	s.points = s.points[i:]
	return dropped
}

// search is the place of the first point that is not before a time.
func (s *stream) search(at int64) int {
	i, _ := slices.BinarySearchFunc(s.points, at, func(p point, at int64) int {
		switch {
		case p.at < at:
			return -1
		case p.at > at:
			return 1
		}
		return 0
	})
	return i
}

func (s *stream) newest() (at int64, ok bool) {
	if len(s.points) == 0 {
		return 0, false
	}
	return s.points[len(s.points)-1].at, true
}

// within are the points of a window, its edges included.
func (s *stream) within(w window) []point {
	from := s.search(w.from)
	to := from
	for to < len(s.points) && s.points[to].at <= w.to {
		to++
	}
	return s.points[from:to]
}

// nearest is the value nearest in time.
func (s *stream) nearest(at int64) (v float64, ok bool) {
	i := s.search(at)
	switch {
	case len(s.points) == 0:
		return 0, false
	case i == len(s.points), i > 0 && at-s.points[i-1].at < s.points[i].at-at:
		i--
	}
	return s.points[i].v, true
}

// steps walks the steps between neighbouring points that overlap a window; share is
// the overlap's part of the step.
func (s *stream) steps(w window, do func(p, q point, overlap window, share float64)) {
	for i := max(s.search(w.from), 1); i < len(s.points) && s.points[i-1].at < w.to; i++ {
		p, q := s.points[i-1], s.points[i]
		if c, ok := w.clip(window{p.at, q.at}); ok && c.length() > 0 {
			do(p, q, c, float64(c.length())/float64(q.at-p.at))
		}
	}
}

// rise is by how much a counter rose in a window, interpolated at its edges, and of
// how many ns of the window that is known. A step back is a counter that began again:
// what happened in that step is not known.
func (s *stream) rise(w window) (sum float64, seen int64) {
	s.steps(w, func(p, q point, overlap window, share float64) {
		if q.v >= p.v {
			sum += (q.v - p.v) * share
			seen += overlap.length()
		}
	})
	return sum, seen
}

// integral is that of a quantity over a window in unit·s by the trapezoidal rule,
// and of how many ns of the window it is known.
func (s *stream) integral(w window) (sum float64, seen int64) {
	s.steps(w, func(p, q point, overlap window, _ float64) {
		at := func(t int64) float64 { return p.v + (q.v-p.v)*float64(t-p.at)/float64(q.at-p.at) }
		sum += (at(overlap.from) + at(overlap.to)) / 2 * float64(overlap.length()) / 1e9
		seen += overlap.length()
	})
	return sum, seen
}

// held is the integral of a quantity whose points are averages of the time since the
// point before, in unit·s.
func (s *stream) held(w window) (sum float64, seen int64) {
	s.steps(w, func(_, q point, overlap window, _ float64) {
		sum += q.v * float64(overlap.length()) / 1e9
		seen += overlap.length()
	})
	return sum, seen
}

// highest is the largest value of points; ok is false if there are none.
func highest(points []point) (v float64, ok bool) {
	for i, p := range points {
		if i == 0 || p.v > v {
			v = p.v
		}
	}
	return v, len(points) > 0
}

// most is the largest value in a window; ok is false if it holds no point. Of a run
// of equal values in a sparse stream only the ends are points, and count as well.
func (s *stream) most(w window) (v float64, ok bool) {
	v, ok = highest(s.within(w))
	if i := s.search(w.from); s.sparse && i > 0 && i < len(s.points) && s.points[i-1].v == s.points[i].v {
		if run := s.points[i].v; !ok || run > v {
			v, ok = run, true
		}
	}
	return v, ok
}
