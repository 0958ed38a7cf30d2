// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// One scrape brings more samples, processes, reasons and GPUs than there is room for.
func TestSizesOfASetStayWithinItsBounds(t *testing.T) {
	set := NewSet(Limits{GPUs: 2, Samples: 10, Processes: 3})
	var counts Counts
	used := map[string]bool{}
	for i := range 1000 {
		s := &Sample{GPU: []string{"GPU-a", "GPU-b", "GPU-c"}[i%3], At: int64(1 + i*7919%1000), Value: float64(i), of: quantity(i / 3 % 10), pid: int64(i), key: string(rune('a' + i%100))}
		set.Add(s, &counts)
		require.NoError(t, growth.Within(set.Bounds()))
		for name := range growth.Used(set.Bounds()) {
			used[name] = true
		}
	}
	assert.Len(t, used, len(set.Bounds()))
	assert.Positive(t, counts.Dropped)
}
