// SPDX-License-Identifier: Apache-2.0

// What one goroutine costs is measured without the race detector, with which it takes two minutes.
//go:build !race

package join

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestHostileInputCostsInProportionAndHoldsTheLockForAFewItems(t *testing.T) {
	for _, h := range hostiles {
		t.Run(h.name, func(t *testing.T) {
			big, ratio := h.compare(t, h.short, 1)
			t.Logf("%v, %.1f times for ten times as much, at most %d items and %v a hold, %.1f MiB", big.time, ratio, big.items, big.hold, big.heap)
			assert.LessOrEqual(t, ratio, float64(maxRatio))
			assert.LessOrEqual(t, big.items, maxItems)
			assert.LessOrEqual(t, big.heap, h.bounds)
		})
	}
}
