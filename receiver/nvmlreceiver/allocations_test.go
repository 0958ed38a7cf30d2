// SPDX-License-Identifier: Apache-2.0

// The race detector allocates too, so the goals are asserted without it.
//go:build linux && cgo && !race

package nvmlreceiver

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAScrapeAllocatesLittleMoreThanAPlainLoop asserts the goals that BenchmarkScrape
// prints.
func TestAScrapeAllocatesLittleMoreThanAPlainLoop(t *testing.T) {
	for gpus, limit := range map[int]float64{1: 1.06, 8: 1.10, 64: 1.12} {
		r, blueprints, _ := benchRig(t, gpus)
		ours, _ := allocations(func() { _, _ = r.scrape(context.Background()) })
		plain, _ := allocations(func() { plainLoop(blueprints) })
		assert.LessOrEqual(t, ours/plain, limit, "%d GPUs", gpus)
		require.NoError(t, r.shutdown(context.Background()))
	}
}
