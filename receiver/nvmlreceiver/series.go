// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// seriesHistory is what the scrapes before recorded of one GPU.
type seriesHistory struct {
	samples  []table.Sample // of the last scrape
	identity table.Identity // and under which identity
	// counters is bounded by the counters that a GPU has.
	counters map[table.Series]counterHistory
}

// counterHistory is what is known of a counter.
type counterHistory struct {
	last float64
	// start is since when it counts, if it ever went back.
	start pcommon.Timestamp
}

func newSeriesHistory() seriesHistory {
	return seriesHistory{counters: map[table.Series]counterHistory{}}
}

// restarted returns since when a counter counts, if it ever went back: the driver was
// reloaded, the GPU was reset, or somebody cleared it. With it, rates are right in
// stores that use start times. previous and now are the times of the scrapes.
func (h *seriesHistory) restarted(s *table.Sample, previous, now pcommon.Timestamp) pcommon.Timestamp {
	v := s.Value()
	c := h.counters[s.Series]
	if v < c.last {
		c.start = previous
	}
	c.start = min(c.start, now) // the clock may have been set back
	c.last = v
	h.counters[s.Series] = c
	return c.start
}

func sameSeries(a, b []table.Sample) bool {
	return slices.EqualFunc(a, b, func(x, y table.Sample) bool { return x.Series == y.Series })
}
