// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
)

var allocatedMetric = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuAllocated.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		p := s.process
		mb.RecordHwGpuAllocatedDataPoint(ts, s.integer, c.id, c.name, p.Container, p.Namespace, p.Pod)
	},
}

// holders are the containers that the kubelet gave devices to, with or without a
// process on them.
type holders struct {
	all     []owner.Allocation
	holders map[owner.Allocation]*process
	samples []sample
}

// update takes the kubelet's last answer up.
func (h *holders) update(owners *owner.Resolver) {
	h.all = nil
	if owners != nil {
		h.all = owners.Allocations()
	}
	now := make(map[owner.Allocation]*process, len(h.all))
	for _, a := range h.all {
		if now[a] = h.holders[a]; now[a] == nil {
			now[a] = &process{Owner: owner.Owner{Namespace: a.Namespace, Pod: a.Pod, Container: a.Container}}
		}
	}
	h.holders = now
}

// of are the samples of those that hold a GPU or one of its MIG devices. A GPU
// that is lost is still held.
func (h *holders) of(c *gpu) []sample {
	h.samples = h.samples[:0]
	minor := -1
	if c.names.id != "" {
		minor = c.names.Minor
	}
	for _, a := range h.all {
		to := series{metric: &allocatedMetric, process: h.holders[a]}
		switch {
		case a.Device.UUID != "" && a.Device.UUID == c.names.id:
		case a.Device.UUID == "" && a.Device.GPUInstance < 0 && a.Device.Minor == minor:
		default:
			if to.of = c.held(a.Device, minor); to.of == nil {
				continue
			}
		}
		h.samples = append(h.samples, sample{series: to, integer: 1})
	}
	return h.samples
}

// held is the MIG device that an allocation names. It goes by what was emitted
// last, since the devices themselves belong to the GPU's worker.
func (c *gpu) held(d owner.DeviceID, minor int) *names {
	for i := range c.divided {
		n := c.divided[i]
		if d.UUID == n.id || d.UUID == "" && d.Minor == minor && strconv.Itoa(d.GPUInstance) == n.gpuInstance {
			return n
		}
	}
	return nil
}
