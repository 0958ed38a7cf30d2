// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestStepsBeyondASamplingPeriodAreNotActiveTime(t *testing.T) {
	var e peakWindow
	e.add(1_000_000, 100)
	e.add(1_500_000, 100)
	assert.InDelta(t, 0.5, e.active, 1e-9)
	e.add(60_000_000, 100) // the GPU was away
	assert.InDelta(t, 0.5, e.active, 1e-9)
	e.add(59_000_000, 100) // a clock that jumps back
	e.add(60_500_000, 50)
	assert.InDelta(t, 0.75, e.active, 1e-9)
}
