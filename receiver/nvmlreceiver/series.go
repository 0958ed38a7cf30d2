// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"maps"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// seriesHistory is what the scrapes before recorded of one GPU.
type seriesHistory struct {
	samples  []table.Sample // of the last scrape
	identity table.Identity // and under which identity
	// counters are those of the GPU and its present MIG devices, up to maxCounters. Its keys
	// have a MIG device's id, but none for the GPU, and no name: it depends on the index.
	counters map[seriesKey]counterHistory
}

// seriesKey identifies a series by what is emitted of it: a device's identity may have
// been replaced by an equal one.
type seriesKey struct {
	table.Series // without its device
	id, name     string
}

func keyOf(s *table.Sample, gpu *table.Identity) seriesKey {
	on := s.Device(gpu)
	key := seriesKey{s.Series, on.ID, on.Name}
	key.On = nil
	return key
}

// counterHistory is what is known of a counter.
type counterHistory struct {
	last float64
	// start is since when it counts, if it ever went back.
	start pcommon.Timestamp
}

// maxCounters bounds the counters of one GPU that are followed; rates of further ones are
// wrong once, if they go back. A GPU and its MIG devices have a few hundred.
const maxCounters = 4096

func newSeriesHistory() seriesHistory {
	return seriesHistory{counters: map[seriesKey]counterHistory{}}
}

// restarted returns since when a counter counts, if it ever went back: the driver was
// reloaded, the GPU was reset, or somebody cleared it. With it, rates are right in
// stores that use start times. previous and now are the times of the scrapes.
func (h *seriesHistory) restarted(s *table.Sample, previous, now pcommon.Timestamp) pcommon.Timestamp {
	v := s.Value()
	key := keyOf(s, &table.Identity{})
	key.name = ""
	c, known := h.counters[key]
	if !known && len(h.counters) >= maxCounters {
		return 0
	}
	if v < c.last {
		c.start = previous
	}
	c.start = min(c.start, now) // the clock may have been set back
	c.last = v
	h.counters[key] = c
	return c.start
}

// forgetGone drops the counters of MIG devices that are no longer there.
func (h *seriesHistory) forgetGone(present []*table.Identity) {
	maps.DeleteFunc(h.counters, func(key seriesKey, _ counterHistory) bool {
		return key.id != "" && !slices.ContainsFunc(present, func(d *table.Identity) bool { return d.ID == key.id })
	})
}

func sameSeries(a, b []table.Sample) bool {
	return slices.EqualFunc(a, b, func(x, y table.Sample) bool { return x.Series == y.Series })
}
