// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// TestIdleTimeIsThatInWhichSomethingThatFitsWaits goes through each way in which time is none.
func TestIdleTimeIsThatInWhichSomethingThatFitsWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLedger()
		// Process 1 is the client's server and holds 1 GiB beside its context, process 2 a neighbour.
		l.pids, l.context = []int{1, 2}, map[int]int64{1: law.GiB, 2: law.GiB}
		show := func(neighbour int64) {
			l.Show(sharedgpu.Readings{Total: 8 * law.GiB, Used: 2*law.GiB + neighbour, Processes: []sharedgpu.ProcessReading{{PID: 1, Used: 2 * law.GiB}, {PID: 2, Used: neighbour}}})
		}
		show(law.GiB) // 5 GiB are free, and 1 GiB is the server's own
		idle := func(d time.Duration) time.Duration {
			before := l.idle
			time.Sleep(d)
			l.change()()
			return l.idle - before
		}
		r := &Request{ID: "a", Cost: law.Drawn{Need: 6 * law.GiB}}
		l.measure(time.Minute)
		assert.Zero(t, idle(time.Second), "nobody is there")
		l.came(r)
		assert.Zero(t, idle(time.Second), "nobody has submitted a prompt")
		l.submits(r)
		assert.Equal(t, time.Second, idle(time.Second), "a prompt is held")
		l.refused(r, 429, &Refusal{})
		assert.Equal(t, time.Second, idle(time.Second), "it was refused and waits")
		l.Began(nil, "another")
		assert.Zero(t, idle(time.Second), "the GPU works")
		l.Ended(nil, "another", sharedgpu.Worked{})
		assert.Equal(t, time.Second, idle(time.Second))
		show(2 * law.GiB)
		assert.Zero(t, idle(time.Second), "it does not fit beside what the neighbour holds")
		show(law.GiB)
		assert.Equal(t, time.Second, idle(time.Second))
		l.accepted(r)
		assert.Zero(t, idle(time.Second), "it is the server's")
		l.submits(r)
		l.left(r, errFailed)
		assert.Zero(t, idle(time.Second), "it has left")
		l.submits(r)
		before, passed := l.idle, time.Since(l.begin)
		idle(time.Hour)
		assert.Equal(t, time.Minute-passed, l.idle-before, "it ends with the measured time")
	})
}
