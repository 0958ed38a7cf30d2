// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"cmp"
	"slices"
)

// Interval is a span of time in ns since the epoch, by the clock of the samples.
type Interval struct{ From, To int64 }

// Length is in ns.
func (w Interval) Length() int64 { return w.To - w.From }

// Clip is what two intervals have in common; ok is false if that is nothing.
func (w Interval) Clip(to Interval) (Interval, bool) {
	c := Interval{max(w.From, to.From), min(w.To, to.To)}
	return c, c.From <= c.To
}

// Union joins intervals that touch; the result is sorted.
func Union(all []Interval) []Interval {
	if len(all) < 2 {
		return all
	}
	slices.SortFunc(all, func(a, b Interval) int { return cmp.Compare(a.From, b.From) })
	out := all[:1]
	for _, w := range all[1:] {
		if last := &out[len(out)-1]; w.From <= last.To {
			last.To = max(last.To, w.To)
		} else {
			out = append(out, w)
		}
	}
	return out
}

// Point is one value of a quantity at a time.
type Point struct {
	At    int64
	Value float64
}

// Stream is the recent history of one quantity of one GPU: points in the order of
// their times, no two at the same time.
type Stream struct {
	Points []Point
	// sparse streams keep of a run of equal values its first and its last.
	sparse bool
}

// Arrival says how a point came.
type Arrival int

// How a point arrived.
const (
	InOrder Arrival = iota
	Late
	Repeated
)

// Put inserts a point, wherever it belongs.
func (s *Stream) Put(at int64, v float64) Arrival {
	n := len(s.Points)
	if n == 0 || at > s.Points[n-1].At {
		if s.sparse && n >= 2 && s.Points[n-1].Value == v && s.Points[n-2].Value == v {
			s.Points[n-1].At = at
		} else {
			s.Points = append(s.Points, Point{at, v})
		}
		return InOrder
	}
	i := s.Search(at)
	if s.Points[i].At == at {
		s.Points[i].Value = v
		return Repeated
	}
	s.Points = slices.Insert(s.Points, i, Point{at, v})
	return Late
}

// bound drops the oldest point beyond a limit. A scrape may bring any number of points.
func (s *Stream) bound(limit int) (dropped int) {
	if len(s.Points) <= limit {
		return 0
	}
	s.Points = s.Points[1:]
	return 1
}

// Forget drops what is before a time, but for the last point before it, and all but
// the newest points.
func (s *Stream) Forget(before int64, limit int) (dropped int) {
	i := max(s.Search(before)-1, 0)
	if over := len(s.Points) - limit; over > i {
		dropped, i = over-i, over
	}
	s.Points = s.Points[i:]
	return dropped
}

// around copies the points of an interval, and the ones before and after it.
func (s *Stream) around(w Interval) Stream {
	from := max(s.Search(w.From)-1, 0)
	to := max(s.Search(w.To), from)
	if to < len(s.Points) && s.Points[to].At == w.To {
		to++
	}
	if to < len(s.Points) {
		to++
	}
	return Stream{Points: slices.Clone(s.Points[from:to]), sparse: s.sparse}
}

// Search is the place of the first point that is not before a time.
func (s *Stream) Search(at int64) int {
	i, _ := slices.BinarySearchFunc(s.Points, at, func(p Point, at int64) int { return cmp.Compare(p.At, at) })
	return i
}

// Newest is the time of the newest point; ok is false if there is none.
func (s *Stream) Newest() (at int64, ok bool) {
	if len(s.Points) == 0 {
		return 0, false
	}
	return s.Points[len(s.Points)-1].At, true
}

// Within are the points of an interval, its edges included.
func (s *Stream) Within(w Interval) []Point {
	from := s.Search(w.From)
	to := from
	for to < len(s.Points) && s.Points[to].At <= w.To {
		to++
	}
	return s.Points[from:to]
}

// Nearest is the value nearest in time.
func (s *Stream) Nearest(at int64) (v float64, ok bool) {
	p, ok := s.nearest(at)
	return p.Value, ok
}

func (s *Stream) nearest(at int64) (p Point, ok bool) {
	i := s.Search(at)
	switch {
	case len(s.Points) == 0:
		return Point{}, false
	case i == len(s.Points), i > 0 && at-s.Points[i-1].At < s.Points[i].At-at:
		i--
	}
	return s.Points[i], true
}

// EachStep walks the steps between neighbouring points that overlap an interval; share is
// the overlap's part of the step.
func (s *Stream) EachStep(w Interval, do func(p, q Point, overlap Interval, share float64)) {
	for i := max(s.Search(w.From), 1); i < len(s.Points) && s.Points[i-1].At < w.To; i++ {
		p, q := s.Points[i-1], s.Points[i]
		if c, ok := w.Clip(Interval{p.At, q.At}); ok && c.Length() > 0 {
			do(p, q, c, float64(c.Length())/float64(q.At-p.At))
		}
	}
}

// Rise is by how much a counter rose in an interval, interpolated at its edges, and of
// how many ns of the interval that is known. A step back is a counter that began again:
// what happened in that step is not known.
func (s *Stream) Rise(w Interval) (sum float64, seen int64) {
	s.EachStep(w, func(p, q Point, overlap Interval, share float64) {
		if q.Value >= p.Value {
			sum += (q.Value - p.Value) * share
			seen += overlap.Length()
		}
	})
	return sum, seen
}

// Integral is that of a quantity over an interval in unit·s by the trapezoidal rule,
// and of how many ns of the interval it is known.
func (s *Stream) Integral(w Interval) (sum float64, seen int64) {
	s.EachStep(w, func(p, q Point, overlap Interval, _ float64) {
		at := func(t int64) float64 { return p.Value + (q.Value-p.Value)*float64(t-p.At)/float64(q.At-p.At) }
		sum += (at(overlap.From) + at(overlap.To)) / 2 * float64(overlap.Length()) / 1e9
		seen += overlap.Length()
	})
	return sum, seen
}

// HeldIntegral is the integral of a quantity whose points are averages of the time since the
// point before, in unit·s.
func (s *Stream) HeldIntegral(w Interval) (sum float64, seen int64) {
	s.EachStep(w, func(_, q Point, overlap Interval, _ float64) {
		sum += q.Value * float64(overlap.Length()) / 1e9
		seen += overlap.Length()
	})
	return sum, seen
}

// highest is the largest value of points; ok is false if there are none.
func highest(points []Point) (v float64, ok bool) {
	for i, p := range points {
		if i == 0 || p.Value > v {
			v = p.Value
		}
	}
	return v, len(points) > 0
}

// Max is the largest value in an interval; ok is false if it holds no point. Of a run
// of equal values in a sparse stream only the ends are points, and count as well.
func (s *Stream) Max(w Interval) (v float64, ok bool) {
	v, ok = highest(s.Within(w))
	if i := s.Search(w.From); s.sparse && i > 0 && i < len(s.Points) && s.Points[i-1].Value == s.Points[i].Value {
		if run := s.Points[i].Value; !ok || run > v {
			v, ok = run, true
		}
	}
	return v, ok
}
