// SPDX-License-Identifier: Apache-2.0

package growth

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

var sum int

func search(list []int) func(int) {
	return func(int) {
		for _, v := range list {
			sum += v
		}
	}
}

func TestACostThatGrowsIsFound(t *testing.T) {
	ratio, _, _ := compare(0, search(make([]int, 2_000)), search(make([]int, 20_000)))
	assert.Greater(t, ratio, Limit)
	Constant(t, "the same", search(make([]int, 2_000)), search(make([]int, 2_000)))
}

func TestASizeBeyondItsMaximumIsFound(t *testing.T) {
	require.NoError(t, Within([]bounds.Bound{{Name: "a.b.c", Max: 1, Size: 1}}))
	require.ErrorContains(t, Within([]bounds.Bound{{Name: "a.b.c", Max: 1, Size: 2}}), "a.b.c holds 2, of 1 at most")
}
