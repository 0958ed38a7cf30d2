// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
)

var (
	_ bounds.Registered = (*gpuScraper)(nil)
	_ bounds.Registered = (*eventLog)(nil)
)

// Bounds implements [bounds.Registered]. It waits for the scrape that is under way, though
// not for the driver.
func (s *gpuScraper) Bounds() []bounds.Bound {
	s.scraping.Lock()
	defer s.scraping.Unlock()
	all := append(bounds.Of(&s.once, s.bus, s.sessions), []bounds.Bound{
		{Name: "nvmlreceiver.gpuScraper.known", Max: nvml.MaxGPUs, Size: len(s.known)},
		{Name: "nvmlreceiver.gpuScraper.gpus", Max: nvml.MaxGPUs, Size: len(s.gpus)},
	}...)
	for _, g := range s.gpus {
		all = append(all, g.Bounds()...)
	}
	if s.telemetry != nil {
		all = append(all, s.telemetry.Bounds()...)
	}
	if s.xids != nil {
		all = append(all, s.xids.Bounds()...)
	}
	if s.owners != nil {
		all = append(append(all, s.owners.Bounds()...), s.holders.Bounds()...)
	}
	return all
}

// Bounds lists what is held of a GPU. Like the other methods, it belongs to the scrape.
func (g *gpu) Bounds() []bounds.Bound {
	return append(g.reader.Bounds(), bounds.Bound{Name: "nvmlreceiver.seriesHistory.counters", Max: maxCounters, Size: len(g.series.counters)})
}

// Bounds lists what is held for the GPUs. Like the other methods, it belongs to the scrape.
func (t *telemetry) Bounds() []bounds.Bound {
	// and one without a name, before the GPU's identity is known
	return []bounds.Bound{{Name: "nvmlreceiver.telemetry.options", Max: nvml.MaxGPUs + 1, Size: len(t.options)}}
}

// Bounds lists the allocations. Like the other methods, it belongs to the scrape.
func (h *holders) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "nvmlreceiver.holders.all", Max: owner.MaxAllocations, Size: len(h.all)},
		{Name: "nvmlreceiver.holders.known", Max: owner.MaxAllocations, Size: len(h.known)},
	}
}

// Bounds implements [bounds.Registered].
func (l *eventLog) Bounds() []bounds.Bound {
	return append(bounds.Of(&l.once, l.bus, l.sessions), []bounds.Bound{
		{Name: "nvmlreceiver.eventLog.events", Max: cap(l.events), Size: len(l.events)},
		{Name: "nvmlreceiver.eventLog.floods", Max: maxFloods, Size: int(l.flooding.Load())},
	}...)
}
