// SPDX-License-Identifier: Apache-2.0

package join

import (
	"maps"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

const (
	// minUse is the use of a process below which it did not use the GPU.
	minUse = 0.005
	// maxUseAge is how far the samples are from a time that say how to divide it, in ns:
	// they come once a second, and only while several processes use the GPU.
	maxUseAge = int64(2500 * time.Millisecond)
	// maxUseSamples bounds the samples of the processes' use that one window is divided by.
	maxUseSamples = 1024
	// useAge is how old the last of the driver's samples is on average when the processes'
	// use is read, in ns: it makes one each sixth of a second.
	useAge = int64(time.Second) / 12
	// boundaryDoubt is the deviation of where a reading begins and ends, in s.
	boundaryDoubt = 0.2
)

// uses is what the processes on a GPU used of it around a window of a trace.
type uses struct {
	pid     int64      // of the trace
	others  []otherUse // within the window
	samples []useSample
	// busy is the use of the whole GPU.
	busy *gputimeline.Stream
	// processes are the processes of which the driver reports the use.
	processes map[int64]bool
}

// useSample is one reading of what each process used.
type useSample struct {
	gputimeline.Interval // that it is of
	by                   map[int64]used
}

// used is what a process used in the time of a sample, and how long it ran in it without
// and with other processes, in s.
type used struct{ seconds, alone, shared float64 }

// uses finds what the processes used; around are the times that others used just before and
// after the window.
func (v *view) uses(pid int64, own gputimeline.Interval, others, around []otherUse) *uses {
	u := &uses{pid: pid, others: others, busy: &v.Utilization, processes: map[int64]bool{}}
	if len(others) == 0 || len(v.ProcessUse) == 0 {
		return u
	}
	ran := map[int64][]gputimeline.Interval{pid: {own}}
	for _, some := range [][]otherUse{others, around} {
		for _, o := range some {
			ran[o.pid] = append(ran[o.pid], o.Interval)
		}
	}
	for p := range ran {
		ran[p] = gputimeline.Union(ran[p])
	}
	for p := range v.ProcessUse {
		u.processes[p] = p != 0
	}
	u.find(v, ran)
	return u
}

// find makes the samples from the readings of all processes, which are read together.
func (u *uses) find(v *view, ran map[int64][]gputimeline.Interval) {
	values := map[int64]map[int64]float64{}
	for p, s := range v.ProcessUse {
		for _, q := range s.Points {
			if values[q.At] == nil {
				values[q.At] = map[int64]float64{}
			}
			values[q.At][p] = q.Value
		}
	}
	times := slices.Sorted(maps.Keys(values))
	times = times[max(len(times)-maxUseSamples, 0):]
	for i, at := range times {
		s := useSample{Interval: gputimeline.Interval{From: at - time.Second.Nanoseconds(), To: at}, by: map[int64]used{}}
		if i > 0 {
			s.From = max(times[i-1], at-maxUseAge)
		}
		s.From, s.To = s.From-useAge, s.To-useAge
		active := map[int64][]gputimeline.Interval{} // who used the GPU at all
		for p := range ran {
			if values[at][p] >= minUse {
				active[p] = clip(ran[p], s.Interval)
			}
		}
		for p := range active {
			var others []gputimeline.Interval
			for q := range active {
				if q != p {
					others = append(others, active[q]...)
				}
			}
			shared := common(active[p], gputimeline.Union(others))
			s.by[p] = used{values[at][p] * float64(s.Length()) / 1e9, seconds(active[p]) - shared, shared}
		}
		u.samples = append(u.samples, s)
	}
}

// clip are the parts of intervals that lie in another.
func clip(all []gputimeline.Interval, to gputimeline.Interval) (parts []gputimeline.Interval) {
	for _, w := range all {
		if c, ok := w.Clip(to); ok {
			parts = append(parts, c)
		}
	}
	return parts
}

func seconds(all []gputimeline.Interval) (sum float64) {
	for _, w := range all {
		sum += float64(w.Length()) / 1e9
	}
	return sum
}

// common is how long intervals overlap, in s; both lists are sorted and apart.
func common(a, b []gputimeline.Interval) (sum float64) {
	for i, k := 0, 0; i < len(a) && k < len(b); {
		if c, ok := a[i].Clip(b[k]); ok {
			sum += float64(c.Length()) / 1e9
		}
		if a[i].To < b[k].To {
			i++
		} else {
			k++
		}
	}
	return sum
}

// turns are the times in a window at which another sample begins.
func (u *uses) turns(w gputimeline.Interval) (all []int64) {
	for i := range u.samples {
		if at := u.samples[i].To; at > w.From && at < w.To {
			all = append(all, at)
		}
	}
	return all
}

// near are the samples around a time.
func (u *uses) near(at int64) []useSample {
	from, _ := slices.BinarySearchFunc(u.samples, at-maxUseAge, func(s useSample, at int64) int { return int(min(max(s.To-at, -1), 1)) })
	to := from
	for to < len(u.samples) && u.samples[to].From < at+maxUseAge {
		to++
	}
	return u.samples[from:to]
}

func (s *useSample) holds(at int64) bool { return s.From <= at && at < s.To }

// rate is what a process used of the GPU while others did, as a share of the time, and how
// long it ran alone and with others in the samples, in s; 0 if it did not use the GPU at a
// time, and not known if the driver says nothing of it. A process uses more where it is alone, so that both
// rates are fitted to the samples; where these do not distinguish them they are the same.
func (u *uses) rate(pid int64, at int64, near []useSample) (rate float64, ran used, known bool) {
	if !u.processes[pid] {
		return 0, ran, false
	}
	const alike = 0.05 // s², by which equal rates are preferred: the variance of a sample beside that of the difference
	a, b, c, x, y := alike, alike, -alike, 0.0, 0.0
	for i := range near {
		s := &near[i]
		p := s.by[pid]
		if s.holds(at) && p.seconds == 0 {
			return 0, ran, true
		}
		a, b, c = a+p.alone*p.alone, b+p.shared*p.shared, c+p.alone*p.shared
		x, y = x+p.seconds*p.alone, y+p.seconds*p.shared
		ran.alone, ran.shared = ran.alone+p.alone, ran.shared+p.shared
	}
	if ran.shared == 0 {
		return 0, ran, true
	}
	return min(max((a*y-c*x)/(a*b-c*c), minUse), 1), ran, true
}
