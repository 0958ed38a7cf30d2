// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// More GPUs than a session remembers are replaced one after the other, while XIDs come.
func TestSizesOfASessionStayWithinItsBounds(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s", "h100")
	sessions := NewSessions(Timing{Rescan: time.Millisecond, Probe: 300 * time.Millisecond, Close: 300 * time.Millisecond})
	s, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { sessions.Release(context.Background()) })
	cancel := s.SubscribeXIDs(func(XIDEvent) {})
	defer cancel()
	waitFor(t, s, func(n Snapshot) bool { return len(n.GPUs) == 2 })
	stays := s.Snapshot().GPUs[1]
	used := map[string]bool{}
	for i := range MaxGPUs + 30 {
		uuid := fmt.Sprintf("GPU-%08d", i)
		gpus[0].SetText("uuid", uuid)
		machine.Event(1, fakenvml.EventXID, int64(i))
		require.Eventually(t, func() bool {
			all := s.Bounds()
			require.NoError(t, growth.Within(all))
			for name := range growth.Used(all) {
				used[name] = true
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.find(uuid) != nil
		}, 10*time.Second, 100*time.Microsecond)
	}
	snapshot := s.Snapshot()
	assert.Len(t, snapshot.GPUs, MaxGPUs)
	assert.True(t, slices.Contains(snapshot.GPUs, stays), "the GPUs of the machine are not forgotten")
	require.NoError(t, stays.Err())
	for _, name := range []string{"nvml.Snapshot.GPUs", "nvml.Session.slots", "nvml.Session.covered", "nvml.watch.registered", "nvml.workers.byIndex"} {
		assert.True(t, used[name], "%s held something", name)
	}
}

func TestAnXIDCostsTheSameHoweverManyAreCompared(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	gpu := &GPU{}
	with := func(n int) func(int) {
		k := &kernelLog{seen: map[xidKey]*xidSeen{}}
		for i := range n {
			require.True(t, k.count(xidKey{gpu, uint64(i)}, byLine, now))
		}
		return func(i int) {
			for range 10 {
				k.count(xidKey{gpu, uint64(i % n)}, byEvent, now)
			}
		}
	}
	growth.Constant(t, "ten XIDs", with(100), with(1_000))
}

func TestXIDsBeyondTheLimitAreNotCompared(t *testing.T) {
	k := &kernelLog{seen: map[xidKey]*xidSeen{}}
	for i := range uint64(maxSeen + 10) {
		assert.Equal(t, i < maxSeen, k.count(xidKey{nil, i}, byLine, time.Time{}))
		require.NoError(t, growth.Within(k.Bounds()))
	}
}
