// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// quickToLoad is the seed of a law whose model is loaded in less than 1.5 s.
func quickToLoad() uint64 {
	for seed := uint64(1); ; seed++ {
		if law.New(seed).Checkpoint(law.DefaultCheckpoint).Loading < 1500*time.Millisecond {
			return seed
		}
	}
}

// TestRealTimeIsAsVirtualTime has the same clients come in both.
func TestRealTimeIsAsVirtualTime(t *testing.T) {
	t.Parallel()
	p := NewPlan(Setups[0], quickToLoad(), 2)
	p.Lasts, p.Limits = 12*time.Second, []time.Duration{6 * time.Second, 6 * time.Second}
	virtually := RunWith(t, p, 1, nil)
	screen := &sharedgpu.Latest{}
	really := RunLive(t, p, 1, screen, func(servers []string) []string { return servers })
	require.Len(t, really.Records, len(virtually.Records))
	compared, got := 0, 0
	for i, v := range virtually.Records {
		r := really.Records[i]
		require.Equal(t, v.ID, r.ID)
		if v.Ended.IsZero() || v.Ended.Sub(v.Came.Add(v.Limit)).Abs() < 1500*time.Millisecond {
			continue // which way it goes depends on the machine's speed
		}
		compared++
		if v.Got {
			got++
		}
		assert.Equal(t, v.Got, r.Got, "client %d", i)
	}
	assert.Greater(t, compared, 4)
	assert.Positive(t, got)
	assert.Less(t, got, compared, "a part of them came too late")
	assert.Equal(t, p.Setup.Memory, screen.Readings().Total)
}
