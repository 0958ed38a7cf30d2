// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// TestPromptsThatWaitAndRunAreVisible: their client has no socket, so that only the server's
// queue says which one runs.
func TestPromptsThatWaitAndRunAreVisible(t *testing.T) {
	base, _ := simulated(t)
	r := newRig(t, base, nil)
	scrape := func() pmetric.Metrics {
		m, err := r.scrape(context.Background())
		require.NoError(t, err)
		return m
	}
	assert.Equal(t, map[string]float64{"map[]": 0}, values(scrape(), "comfyui.queue.oldest.wait"), "none waits")
	assert.Empty(t, values(scrape(), "comfyui.progress.age"), "none runs")
	upload(t, r.base)
	begin := time.Now()
	for range 2 {
		photo(t, r.base, "c", 1088) // of 900 ms
	}
	var waits, ages []float64
	require.Eventually(t, func() bool {
		m := scrape()
		waits = append(waits, values(m, "comfyui.queue.oldest.wait")["map[]"])
		running := values(m, "comfyui.progress.age")
		for class, age := range running {
			assert.Equal(t, "map[comfyui.task_class:buildings]", class)
			ages = append(ages, age)
		}
		return r.following.tracker.OpenCount() == 0
	}, 20*time.Second, 20*time.Millisecond)
	lasted := time.Since(begin).Seconds()
	require.NotEmpty(t, ages)
	assert.Greater(t, slices.Max(ages), 0.4, "no message about its nodes came")
	assert.Less(t, slices.Max(ages), lasted)
	assert.Greater(t, slices.Max(waits), 0.4, "the second one waited for the first")
	assert.Less(t, slices.Max(waits), lasted)
	assert.Zero(t, values(scrape(), "comfyui.queue.oldest.wait")["map[]"])
}

func TestProgressOfPromptsWithASocketCountsSteps(t *testing.T) {
	base, _ := simulated(t)
	r := newRig(t, base, func(c *Config) { c.OwnSockets = ownAlways })
	upload(t, r.base)
	photo(t, r.base, "c", 2000) // of 3 s, with a step after each quarter
	var ages []float64
	require.Eventually(t, func() bool {
		m, err := r.scrape(context.Background())
		require.NoError(t, err)
		for _, age := range values(m, "comfyui.progress.age") {
			ages = append(ages, age)
		}
		return r.following.tracker.OpenCount() == 0
	}, 20*time.Second, 20*time.Millisecond)
	require.NotEmpty(t, ages)
	assert.Greater(t, slices.Max(ages), 0.3)
	assert.Less(t, slices.Max(ages), 2.0, "each step is progress")
}
