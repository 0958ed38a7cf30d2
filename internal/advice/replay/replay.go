// SPDX-License-Identifier: Apache-2.0

// Package replay predicts when the work ends that ComfyUI servers of one GPU have. A server runs
// one prompt at a time, in the order of its queue; of k servers that work on a GPU each runs at
// a k-th of its speed.
package replay

import "math"

// Work is one prompt: Mean seconds of the whole GPU, with their variance. Rare ones take several
// times as long: Usual and Spread are the mean and the variance of the others.
type Work struct{ Mean, Variance, Usual, Spread float64 }

// End is when work ends, in seconds from now, with the deviation of what precedes it. Begin is when it
// starts. Usual and Spread are the end and the deviation unless one of those prompts is a rare one.
type End struct{ Begin, At, Deviation, Usual, Spread float64 }

// Queue is the work of a server: what runs comes first.
type Queue []Work

// Replay is memory that is used again. The zero value is ready for use.
type Replay struct {
	ends  [][]End
	at    []int     // the place of the work that runs, by queue
	left  []float64 // seconds of the GPU that it needs
	begun []float64
	spent []float64 // variance of what has ended
	done  []float64 // and its seconds of the GPU
	// usual and spread are the same without rare ones.
	usual, spread []float64
}

const never = math.MaxFloat64

// Run returns the ends of all work, by queue and place, valid until the next call. Servers
// whose queues are empty are busy for a share of the time, by what was seen of them: others is
// that of each queue.
func (r *Replay) Run(queues []Queue, others []float64) [][]End {
	r.reset(queues)
	now := 0.0
	for {
		working, idle := 0, 0.0
		for q := range queues {
			if r.at[q] < len(queues[q]) {
				working++
			} else if q < len(others) {
				idle += others[q]
			}
		}
		if working == 0 {
			return r.ends
		}
		pace := 1 / (float64(working) + idle)
		next := never
		for q := range queues {
			if r.at[q] < len(queues[q]) {
				next = min(next, r.left[q])
			}
		}
		now += next / pace
		for q := range queues {
			i := r.at[q]
			if i >= len(queues[q]) {
				continue
			}
			if r.left[q] -= next; r.left[q] > 1e-9 {
				continue
			}
			w := queues[q][i]
			r.spent[q] += w.Variance
			slow := 1.0
			if r.done[q] += w.Mean; r.done[q] > 0 {
				slow = max(now/r.done[q], 1)
			}
			r.usual[q] += w.Usual
			r.spread[q] += w.Spread
			r.ends[q] = append(r.ends[q], End{
				Begin: r.begun[q], At: now, Deviation: math.Sqrt(r.spent[q]) * slow,
				Usual: now + (r.usual[q]-r.done[q])*slow, Spread: math.Sqrt(r.spread[q]) * slow,
			})
			r.at[q], r.begun[q] = i+1, now
			if i+1 < len(queues[q]) {
				r.left[q] = max(queues[q][i+1].Mean, 1e-9)
			}
		}
	}
}

func (r *Replay) reset(queues []Queue) {
	n := len(queues)
	if cap(r.ends) < n {
		r.ends = append(r.ends[:cap(r.ends)], make([][]End, n-cap(r.ends))...)
	}
	r.ends = r.ends[:n]
	r.at, r.left, r.begun, r.spent, r.done = sized(r.at, n), sized(r.left, n), sized(r.begun, n), sized(r.spent, n), sized(r.done, n)
	r.usual, r.spread = sized(r.usual, n), sized(r.spread, n)
	for q := range queues {
		r.ends[q] = r.ends[q][:0]
		if len(queues[q]) > 0 {
			r.left[q] = max(queues[q][0].Mean, 1e-9)
		}
	}
}

// sized is a slice of n zeros.
func sized[T int | float64](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	s = s[:n]
	clear(s)
	return s
}
