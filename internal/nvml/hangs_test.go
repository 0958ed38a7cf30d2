// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
)

// A GPU whose calls hang now and then is reported twice, and then as long as they do.
func TestAGPUThatHangsAgainAndAgainIsNotReportedEachTime(t *testing.T) {
	w := &worker{calls: calls{start: time.Now().Add(-time.Hour)}}
	g, c := &GPU{worker: w}, &w.calls
	now := time.Now()
	var reports []string
	after := func(d time.Duration) {
		now = now.Add(d)
		if h, changed := g.checkCall(now, time.Second); changed {
			reports = append(reports, map[bool]string{true: "responds", false: "hangs"}[h.Err == nil])
		}
	}
	call := int64(0)
	hang := func() {
		call++ // since long ago: each is another call
		c.function.Store(new(string))
		c.began.Store(call)
	}
	for range 5 {
		hang()
		after(time.Second)
		after(time.Second)
		c.began.Store(0)
		after(time.Second)
	}
	assert.Equal(t, []string{"hangs", "responds", "hangs"}, reports)
	after(flapWindow)
	assert.Equal(t, []string{"hangs", "responds", "hangs", "responds"}, reports)
	after(flapWindow)
	hang()
	after(time.Second)
	c.began.Store(0)
	after(time.Second)
	assert.Equal(t, []string{"hangs", "responds"}, reports[4:], "it has been sound for a minute")
}

func TestACallThatWaitsForOthersIsNoHang(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s", "l40s")
	sessions := NewSessions(fast)
	s, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { sessions.Release(context.Background()) })
	hung := make(chan Hang, 10)
	s.SubscribeHangs(func(h Hang) { hung <- h })
	waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 2 })
	machine.Lock(time.Millisecond)
	machine.Stall(2, 300*time.Millisecond) // each second call holds the lock
	for _, gpu := range s.Snapshot().GPUs {
		for range 3 {
			on(t, gpu, func(d Device) { _, _ = d.Temperature() })
		}
	}
	assert.Empty(t, hung)
	machine.Stall(0, 0)
	gpus[0].SetDelayOnce("nvmlDeviceGetTemperature", 1300*time.Millisecond)
	on(t, s.Snapshot().GPUs[0], func(d Device) { _, _ = d.Temperature() })
	select {
	case h := <-hung:
		require.ErrorIs(t, h.Err, errHangs)
		require.ErrorContains(t, h.Err, "nvmlDeviceGetTemperature")
	case <-time.After(5 * time.Second):
		require.NoError(t, errors.New("it was not reported"))
	}
	require.Eventually(t, func() bool { return len(hung) == 1 }, 5*time.Second, time.Millisecond)
	assert.NoError(t, (<-hung).Err)
	assert.NoError(t, s.Snapshot().GPUs[0].Hung())
}
