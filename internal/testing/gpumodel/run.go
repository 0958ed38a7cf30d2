// SPDX-License-Identifier: Apache-2.0

package gpumodel

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Work is one execution's use of a GPU.
type Work struct {
	Process int
	// From and To are those of the execution, in ns. Its head and its tail run on the host.
	From, To int64
	// Watts is what it draws above rest while it uses all of the GPU.
	Watts float64
	// Demand is the share of the GPU that it uses where nobody else does.
	Demand float64
	// Remote is the part of it, from its begin, that runs elsewhere.
	Remote time.Duration
	// Phases are the ends of its phases, whose powers differ; empty for phases of 100 to
	// 400 ms at random.
	Phases []int64
	// Spread is by how much the phases' powers differ from Watts; 0 is 10 %.
	Spread float64
}

// Shape is how a GPU draws power.
type Shape struct {
	Rest, Noise float64 // W
	Ramp        time.Duration
	Head, Tail  [2]time.Duration // on the host, at random between two times
	// Glow is the power that remains after the work, and for how long (it decays).
	Glow      float64
	GlowDecay time.Duration
}

// Usual is the shape that the benchmarks use.
func Usual() Shape {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	return Shape{
		Rest: 60, Noise: 15, Ramp: ms(15), Head: [2]time.Duration{ms(5), ms(40)}, Tail: [2]time.Duration{ms(10), ms(60)},
		Glow: 15, GlowDecay: ms(60),
	}
}

// Run is what a GPU did: the power that each process caused, and the rest.
type Run struct {
	Works []Work
	Total *Signal   // W
	Rest  *Signal   // W, which no process causes
	Power []*Signal // W above rest, by process
	Use   []*Signal // the share of the GPU that each process used
	End   int64
}

// NewRun simulates works on a GPU up to a time. Several at once slow each other down as
// time slices do: what they use adds up to no more than the GPU.
func NewRun(shape Shape, works []Work, processes int, end time.Duration, random *rand.Rand) *Run {
	n := int(end.Nanoseconds() / step)
	demand, watts, glow := grid(processes, n), grid(processes, n), grid(processes, n)
	for i := range works {
		shape.draw(&works[i], demand[works[i].Process], watts[works[i].Process], glow[works[i].Process], random)
	}
	rest, total := make([]float64, n), make([]float64, n)
	noise := 0.0
	power := make([]float64, processes)
	for i := range n {
		if i%noiseSteps == 0 {
			noise = shape.Noise * random.NormFloat64()
		}
		all, sum := 0.0, 0.0
		for p := range processes {
			all += demand[p][i]
		}
		for p := range processes {
			demand[p][i] /= max(all, 1)
			power[p] = demand[p][i]*watts[p][i] + glow[p][i]
			sum += power[p]
		}
		// The noise of the work is caused by who works.
		rest[i] = shape.Rest
		if sum < shape.Glow/2 {
			rest[i] = max(rest[i]+noise, 1)
		}
		total[i] = rest[i]
		for p := range processes {
			if sum >= shape.Glow/2 {
				power[p] += max(noise, -sum) * power[p] / sum
			}
			watts[p][i] = power[p]
			total[i] += power[p]
		}
	}
	r := &Run{Works: works, Total: NewSignal(total), Rest: NewSignal(rest), End: end.Nanoseconds()}
	for p := range processes {
		r.Power, r.Use = append(r.Power, NewSignal(watts[p])), append(r.Use, NewSignal(demand[p]))
	}
	return r
}

// noiseSteps is for how many steps the noise stays the same.
const noiseSteps = 5

func grid(rows, columns int) [][]float64 {
	all := make([][]float64, rows)
	for i := range all {
		all[i] = make([]float64, columns)
	}
	return all
}

func between(d [2]time.Duration, random *rand.Rand) int64 {
	return d[0].Nanoseconds() + random.Int64N(max(d[1].Nanoseconds()-d[0].Nanoseconds(), 1))
}

// draw adds one work: a head on the host, a ramp, phases of different powers, a ramp, a
// tail on the host in which the power decays.
func (s *Shape) draw(w *Work, demand, watts, glow []float64, random *rand.Rand) {
	begin, end := w.From+w.Remote.Nanoseconds()+between(s.Head, random), w.To-between(s.Tail, random)
	ramp := s.Ramp.Nanoseconds()
	spread := w.Spread
	if spread == 0 {
		spread = 0.1
	}
	phases := w.Phases
	if len(phases) == 0 {
		for at := begin; at < end; {
			at += int64(100+random.IntN(300)) * int64(time.Millisecond)
			phases = append(phases, at)
		}
	}
	level := w.Watts * (1 + spread*(2*random.Float64()-1))
	for at := begin / step * step; at < end && at/step < int64(len(watts)); at += step {
		for len(phases) > 0 && at >= phases[0] {
			phases = phases[1:]
			level = w.Watts * (1 + spread*(2*random.Float64()-1))
		}
		middle := at + step/2
		part := min(float64(middle-begin)/float64(ramp), float64(end-middle)/float64(ramp), 1)
		watts[at/step] = level * max(part, 0)
		demand[at/step] = w.Demand
	}
	decay := float64(s.GlowDecay.Nanoseconds())
	for at := max(end, begin) / step * step; at < end+6*s.GlowDecay.Nanoseconds() && at/step < int64(len(glow)); at += step {
		glow[at/step] = max(glow[at/step], s.Glow*math.Exp(-float64(at+step/2-end)/decay))
	}
}

// Caused is the power above rest that a process caused between two times, in J.
func (r *Run) Caused(process int, from, to int64) float64 { return r.Power[process].Between(from, to) }

// Node is a part of a work, in ns.
type Node struct{ From, To int64 }

// RestShare is what of the rest power falls on a work between two times, in J: it is
// divided by time among those that ran on the GPU then.
func (r *Run) RestShare(work int, from, to int64) (joules float64) {
	turns := []int64{from, to}
	uses := func(i int) (int64, int64) { return r.Works[i].From + r.Works[i].Remote.Nanoseconds(), r.Works[i].To }
	var near []int
	for i := range r.Works {
		begin, end := uses(i)
		if begin < to && end > from {
			near = append(near, i)
			turns = append(turns, min(max(begin, from), to), min(max(end, from), to))
		}
	}
	slices.Sort(turns)
	for i := range turns[1:] {
		a, b := turns[i], turns[i+1]
		n := 0
		mine := false
		for _, k := range near {
			if begin, end := uses(k); begin <= a && end >= b {
				n++
				mine = mine || k == work
			}
		}
		if mine && b > a {
			joules += r.Rest.Between(a, b) / float64(n)
		}
	}
	return joules
}

// Truth is what a work caused between two times, in J: with its part of the rest power, and
// without. What its process caused while another work of it ran is the other's.
func (r *Run) Truth(work int, from, to int64) (energy, above float64) {
	above = r.Caused(r.Works[work].Process, from, to)
	return above + r.RestShare(work, from, to), above
}
