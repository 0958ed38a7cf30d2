// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"time"
)

// Held is the memory that a process held of a GPU.
type Held struct {
	// Stream is the process's memory in By at the samples of the GPU's memory, which are more
	// frequent than lists of its processes: between two lists it is the GPU's less what
	// the others held.
	Stream
	// Between is true if there are samples between lists. Others is by how much what the others
	// held differs from one list to the next there, in By: any memory, if something was allocated
	// during each list.
	Between bool
	Others  float64
}

// SameMemory is by how much memory that stayed the same may differ between two readings, in By:
// drivers round.
const SameMemory = 8 << 20

const (
	// sameTime is how far a list of the processes and a sample of the GPU's memory may be apart
	// to be compared.
	sameTime = int64(60 * time.Millisecond)
	// steadyTime is how far the samples before and after a list may be apart to show that
	// nothing was allocated meanwhile.
	steadyTime = int64(300 * time.Millisecond)
	// maxLists bounds the lists before and after a time that are searched for a steady one.
	maxLists = 16
)

// Held is the memory of a process in an interval, and at the samples before and after it; nil
// if no list of the processes has the process.
func (t *Timeline) Held(pid int64, w Interval) *Held {
	listed := t.ProcessMemory[pid]
	h := &Held{Stream: t.Memory.around(w)}
	if listed == nil || len(h.Points) == 0 {
		return nil
	}
	hull := Interval{h.Points[0].At - sameTime, h.Points[len(h.Points)-1].At + sameTime}
	others, known := t.others(listed, hull, h.Points)
	if !known {
		h.Between, h.Others = true, math.Inf(1)
	}
	if len(others) == 0 {
		return nil
	}
	next := 0 // the first list after a sample
	for i := range h.Points {
		p := &h.Points[i]
		for next < len(others) && others[next].At <= p.At {
			next++
		}
		before, after := others[max(next-1, 0)], others[min(next, len(others)-1)]
		held := before.Value
		switch {
		case near(before, *p):
		case near(after, *p):
			held = after.Value
		default:
			// Memory that was allocated between the two readings must not seem to be theirs.
			held = min(before.Value, after.Value)
			h.Between, h.Others = true, max(h.Others, before.Value-after.Value, after.Value-before.Value)
		}
		p.Value = max(p.Value-held, 0)
	}
	return h
}

// near reports whether two points are of about the same time.
func near(p, q Point) bool { return max(p.At-q.At, q.At-p.At) <= sameTime }

// others is what all but one process held, at lists of the processes in an interval and around
// it. Where the lists are not as frequent as the samples, only those count during which nothing
// was allocated; known is false if there are none. It is sorted.
func (t *Timeline) others(listed *Stream, w Interval, samples []Point) (lists []Point, known bool) {
	var all, steady []Point
	later := 0 // lists after the interval
	for _, l := range t.Lists.Points[max(t.Lists.Search(w.From)-maxLists, 0):] {
		held, ok := listed.listed(l.At)
		gpu, sampled := t.Memory.nearest(l.At)
		if ok && sampled && near(gpu, l) {
			p := Point{l.At, max(gpu.Value-held, 0)}
			all = append(all, p)
			if t.Memory.isSteady(l.At) {
				steady = append(steady, p)
			}
		}
		if l.At <= w.To {
			continue
		}
		if later++; later == maxLists || len(steady) > 0 && steady[len(steady)-1].At > w.To {
			break
		}
	}
	switch {
	case coverEach(all, samples):
		known = true
	case len(steady) > 0:
		all, known = steady, true
	}
	return around(all, w), known
}

// isSteady reports whether the quantity stayed the same around a time.
func (s *Stream) isSteady(at int64) bool {
	i := s.Search(at)
	if i == 0 || i == len(s.Points) {
		return false
	}
	p, q := s.Points[i-1], s.Points[i]
	return q.At-p.At <= steadyTime && max(p.Value-q.Value, q.Value-p.Value) <= SameMemory
}

// coverEach reports whether there is a list at the time of each sample.
func coverEach(lists, samples []Point) bool {
	s := Stream{Points: lists}
	for _, p := range samples {
		if l, ok := s.nearest(p.At); !ok || !near(l, p) {
			return false
		}
	}
	return true
}

// around are the points of an interval, the last before it and the first after it.
func around(all []Point, w Interval) []Point {
	s := Stream{Points: all}
	return s.around(w).Points
}

// listed is the value of a sparse stream at the time of a list; ok is false if the list did
// not have it.
func (s *Stream) listed(at int64) (v float64, ok bool) {
	i := s.Search(at)
	switch {
	case i == len(s.Points):
		return 0, false
	case s.Points[i].At == at || i > 0 && s.Points[i-1].Value == s.Points[i].Value:
		return s.Points[i].Value, true
	}
	return 0, false
}

// Growth compares the last point before an interval with the largest value up to the first
// point after it. shrank is true if the quantity also became smaller meanwhile; ok is false
// if there is no such point within a gap of either edge.
func (s *Stream) Growth(w Interval, gap time.Duration) (before, most float64, shrank, ok bool) {
	from := s.Search(w.From+1) - 1 // the last that is not after the start
	to := s.Search(w.To)           // the first that is not before the end
	if from < 0 || to == len(s.Points) || w.From-s.Points[from].At > gap.Nanoseconds() || s.Points[to].At-w.To > gap.Nanoseconds() {
		return 0, 0, false, false
	}
	points := s.Points[from : to+1]
	before, most = points[0].Value, points[0].Value
	for i, p := range points[1:] {
		most = max(most, p.Value)
		shrank = shrank || p.Value < points[i].Value
	}
	return before, most, shrank, true
}
