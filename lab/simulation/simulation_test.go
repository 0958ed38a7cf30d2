// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestAnHourOfPhotosKeepsToTheGPU runs the model for an hour of its own time.
func TestAnHourOfPhotosKeepsToTheGPU(t *testing.T) {
	for _, name := range []string{"rtx-2080-super", "h200"} {
		t.Run(name, func(t *testing.T) {
			state, err := fakenvml.Create(filepath.Join(t.TempDir(), "state"))
			require.NoError(t, err)
			defer func() { require.NoError(t, state.Close()) }()
			p, err := fakenvml.LoadProfile(name)
			require.NoError(t, err)
			gpu := state.AddGPU(p)
			c := New(gpu, p, 7)
			limit := (p.Values["memory_total"] - p.Values["memory_reserved"]) * mib
			photos, most, fastest := 0, int64(0), int64(0)
			now := time.Unix(0, 0)
			for range int(time.Hour / tick) {
				before := len(c.ahead)
				now = now.Add(tick)
				c.step(now)
				if len(c.ahead) > before {
					photos++
				}
				used := gpu.Get("memory_used")
				require.LessOrEqual(t, used, limit, "memory beyond the GPU")
				require.GreaterOrEqual(t, used, p.Values["memory_used"]*mib)
				most = max(most, used)
				fastest = max(fastest, gpu.Get("fan_speed"))
				temperature := gpu.Get("temperature_gpu")
				require.LessOrEqual(t, temperature, p.Values["temperature_gpu"]+32)
				require.GreaterOrEqual(t, temperature, p.Values["temperature_gpu"])
			}
			assert.Greater(t, photos, 500)
			assert.Greater(t, c.received, 1e9, "models and photos reach the GPU over PCIe")
			if p.Values["fan_count"] > 0 {
				assert.Greater(t, fastest, p.Values["fan_speed"]+20, "fans follow the temperature")
			}
			assert.Greater(t, most, p.Values["memory_used"]*mib+3000*mib, "large photos take their memory")
		})
	}
}

// TestTheModelIsUnloadedWhenNobodyComes leaves the GPU idle.
func TestTheModelIsUnloadedWhenNobodyComes(t *testing.T) {
	state, err := fakenvml.Create(filepath.Join(t.TempDir(), "state"))
	require.NoError(t, err)
	defer func() { require.NoError(t, state.Close()) }()
	p, err := fakenvml.LoadProfile("l40s")
	require.NoError(t, err)
	gpu := state.AddGPU(p)
	c := New(gpu, p, 1)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for c.loaded = false; !c.loaded || len(c.ahead) > 0; now = now.Add(tick) {
		c.step(now)
	}
	held := gpu.Get("memory_used")
	assert.Greater(t, held, p.Values["memory_used"]*mib, "the allocator keeps memory after a photo")
	for used := held; used > p.Values["memory_used"]*mib; used = gpu.Get("memory_used") {
		if now = now.Add(unloadAfter + tick); len(c.ahead) > 0 { // a photo came
			for ; len(c.ahead) > 0; now = now.Add(tick) {
				c.step(now)
			}
		}
		c.step(now)
	}
	assert.False(t, c.loaded)
}
