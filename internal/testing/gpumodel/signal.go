// SPDX-License-Identifier: Apache-2.0

package gpumodel

import "time"

// step is the resolution of a Signal.
const step = int64(time.Millisecond)

// Signal is a quantity over virtual time that begins at 0, in steps of 1 ms.
type Signal struct {
	sums []float64 // the integral up to the end of each step, in unit·s
}

// NewSignal returns the signal of values that each last a step.
func NewSignal(values []float64) *Signal {
	s := &Signal{sums: make([]float64, len(values)+1)}
	for i, v := range values {
		s.sums[i+1] = s.sums[i] + v*float64(step)/1e9
	}
	return s
}

// Joules is the integral from the begin to a time.
func (s *Signal) Joules(at int64) float64 {
	if at <= 0 {
		return s.sums[0]
	}
	i := at / step
	if i >= int64(len(s.sums)-1) {
		return s.sums[len(s.sums)-1]
	}
	return s.sums[i] + (s.sums[i+1]-s.sums[i])*float64(at%step)/float64(step)
}

// Between is the integral between two times.
func (s *Signal) Between(from, to int64) float64 { return s.Joules(to) - s.Joules(from) }
