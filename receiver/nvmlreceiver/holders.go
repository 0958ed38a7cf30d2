// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// holders are the containers that the kubelet allocated devices to, with or without a
// process on them.
type holders struct {
	all   []owner.Allocation
	known map[owner.Allocation]*table.Process
}

// update reads the kubelet's last answer.
func (h *holders) update(owners *owner.Resolver) {
	h.all = nil
	if owners != nil {
		h.all = owners.Allocations()
	}
	known := make(map[owner.Allocation]*table.Process, len(h.all))
	for _, a := range h.all {
		if known[a] = h.known[a]; known[a] == nil {
			known[a] = &table.Process{Owner: owner.Owner{Namespace: a.Namespace, Pod: a.Pod, Container: a.Container}}
		}
	}
	h.known = known
}

// appendTo adds the allocations of a GPU and its MIG devices to its samples. A lost GPU
// is still allocated.
func (h *holders) appendTo(samples []table.Sample, g *gpu) []table.Sample {
	minor := -1
	if g.identity.ID != "" {
		minor = g.identity.Minor
	}
	for _, a := range h.all {
		s := table.Allocated.Of(1, h.known[a], 0)
		switch {
		case a.Device.UUID != "" && a.Device.UUID == g.identity.ID:
		case a.Device.UUID == "" && a.Device.GPUInstance < 0 && a.Device.Minor == minor:
		default:
			on := g.migDevice(a.Device, minor)
			if on == nil {
				continue
			}
			s = s.OnDevice(on)
		}
		samples = append(samples, s)
	}
	return samples
}

// migDevice is the MIG device that an allocation names, by the GPU's last good reading;
// nil if there is none.
func (g *gpu) migDevice(d owner.DeviceID, minor int) *table.Identity {
	for _, m := range g.reading.MIG {
		if d.UUID == m.ID || d.UUID == "" && d.Minor == minor && strconv.Itoa(d.GPUInstance) == m.GPUInstance {
			return m
		}
	}
	return nil
}
