// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ends are the times at which work ends, by queue.
func ends(r *Replay, queues []Queue, others ...float64) (all [][]float64) {
	for _, q := range r.Run(queues, others) {
		var at []float64
		for _, e := range q {
			at = append(at, math.Round(e.At*1000)/1000)
		}
		all = append(all, at)
	}
	return all
}

func of(seconds ...float64) (q Queue) {
	for _, s := range seconds {
		q = append(q, Work{Mean: s})
	}
	return q
}

func TestServersOfOneGPUShareItsTime(t *testing.T) {
	var r Replay
	assert.Equal(t, [][]float64{{2, 5}}, ends(&r, []Queue{of(2, 3)}), "alone")
	assert.Equal(t, [][]float64{{4, 7}, {4}}, ends(&r, []Queue{of(2, 3), of(2)}), "half as fast until the neighbour has ended")
	assert.Equal(t, [][]float64{{3}, {5}, {6}}, ends(&r, []Queue{of(1), of(2), of(3)}), "three, two, one")
	assert.Equal(t, [][]float64{{3}, nil}, ends(&r, []Queue{of(2), nil}, 0, 0.5), "a neighbour that is busy half of the time")
	assert.Equal(t, [][]float64{nil}, ends(&r, []Queue{nil}))
}

func TestDeviationsAddUpAndGrowWithTheTime(t *testing.T) {
	var r Replay
	queue := Queue{{Mean: 2, Variance: 0.09, Usual: 1.9, Spread: 0.0009}, {Mean: 2, Variance: 0.16, Usual: 1.8, Spread: 0.0016}}
	alone := r.Run([]Queue{queue}, nil)[0]
	assert.InDelta(t, 0.3, alone[0].Deviation, 1e-9)
	assert.InDelta(t, 0.5, alone[1].Deviation, 1e-9)
	assert.InDelta(t, 2, alone[1].Begin, 1e-9)
	assert.InDelta(t, 3.7, alone[1].Usual, 1e-9)
	assert.InDelta(t, 0.05, alone[1].Spread, 1e-9)
	shared := r.Run([]Queue{queue, of(10)}, nil)[0]
	assert.InDelta(t, 1, shared[1].Deviation, 1e-9, "half as fast")
	assert.InDelta(t, 7.4, shared[1].Usual, 1e-9, "without rare ones")
	assert.InDelta(t, 0.1, shared[1].Spread, 1e-9)
}

func TestReplayAllocatesNothingOnceItHasRoom(t *testing.T) {
	var r Replay
	queues := []Queue{of(1, 2, 3), of(2, 2), nil}
	r.Run(queues, nil)
	assert.Zero(t, testing.AllocsPerRun(100, func() { r.Run(queues, nil) }))
}
