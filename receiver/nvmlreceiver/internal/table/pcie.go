// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"math"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	pcieGeneration = newWith1(level, "hw.gpu.pcie.link.generation", (*builder).RecordHwGpuPcieLinkGenerationDataPoint)
	pcieWidth      = newWith1(level, "hw.gpu.pcie.link.width", (*builder).RecordHwGpuPcieLinkWidthDataPoint)
	pcieIO         = newWith1(counter, "hw.gpu.io",
		func(mb *builder, ts timestamp, v int64, d direction, id, name string) {
			mb.RecordHwGpuIoDataPoint(ts, v, id, name, d)
		})
	pcieReplays = newPlain(counter, "hw.gpu.pcie.replays", (*builder).RecordHwGpuPcieReplaysDataPoint)
)

type (
	direction = metadata.AttributeNetworkIoDirection
	pcieState = metadata.AttributeHwGpuPcieState
)

const (
	transmit = metadata.AttributeNetworkIoDirectionTransmit
	receive  = metadata.AttributeNetworkIoDirectionReceive
)

var directions = [...]direction{transmit, receive}

// maxPCIe is beyond any generation or width of a link: more is not a valid reading.
const maxPCIe = 64

func pcieRows() []Row {
	const current, limit = metadata.AttributeHwGpuPcieStateCurrent, metadata.AttributeHwGpuPcieStateMax
	return []Row{
		pcieLinkRow("generation", pcieGeneration, current, nvml.Device.PcieGeneration, func(h *Health) *int { return &h.Generation }),
		pcieLinkRow("generation.max", pcieGeneration, limit, nvml.Device.MaxPcieGeneration, func(h *Health) *int { return &h.MaxGeneration }).asLimit(),
		pcieLinkRow("width", pcieWidth, current, nvml.Device.PcieWidth, func(h *Health) *int { return &h.Width }),
		pcieLinkRow("width.max", pcieWidth, limit, nvml.Device.MaxPcieWidth, func(h *Health) *int { return &h.MaxWidth }).asLimit(),
		{
			Name: "pcie.io", metrics: []*Metric{pcieIO.Metric}, fields: []uint32{nvml.FieldPCIeTx, nvml.FieldPCIeRx},
			read: func(d nvml.Device, out *Output) error {
				p := &out.Peaks.pcie
				values, err := out.fieldValues(d, nvml.FieldPCIeTx, nvml.FieldPCIeRx)
				if err == nil {
					err = p.update(values)
				}
				if err != nil {
					return err
				}
				for i, direction := range directions {
					c := &p.counters[i]
					out.putIf(c.seen, pcieIO.Of(int64(c.total), direction))
				}
				return nil
			},
		},
		// All ones is not a valid count.
		single("pcie.replays", nvml.Device.PcieReplays, 0, math.MaxUint32-1,
			func(n int) Sample { return pcieReplays.Of(int64(n)) }),
	}
}

// pcieLinkRow is the row of one property of the link, which becomes part of the health
// too.
func pcieLinkRow(
	name string, m with1[int64, pcieState], state pcieState,
	ask func(nvml.Device) (int, error), health func(*Health) *int,
) Row {
	return Row{
		Name: "pcie." + name, Status: true, metrics: []*Metric{m.Metric},
		read: func(d nvml.Device, out *Output) error {
			v, err := ask(d)
			if err == nil && v >= 0 && v <= maxPCIe {
				out.put(m.Of(int64(v), state))
				*health(&out.Health) = v
			}
			return err
		},
	}
}

// pcieCounters follows the GPU's byte counters. Where they have 32 bits they wrap after
// 4 GiB, so the sampler reads them too: at 100 ms it misses no wrap up to 40 GB/s.
type pcieCounters struct {
	counters [len(directions)]unwrapped
	short    bool // they have 32 bits
	fields   [len(directions)]nvml.FieldValue
}

// read asks for the counters alone, for the sampler.
func (p *pcieCounters) read(d nvml.Device) error {
	p.fields = [...]nvml.FieldValue{{FieldId: nvml.FieldPCIeTx}, {FieldId: nvml.FieldPCIeRx}}
	if err := d.FieldValues(p.fields[:]); err != nil {
		return err
	}
	return p.update(p.fields[:])
}

func (p *pcieCounters) update(values []nvml.FieldValue) error {
	for i := range values {
		v := &values[i]
		n, err := nvml.FieldNumber(v)
		if err != nil {
			return err
		}
		p.short = nvml.FieldIsShort(v)
		if n >= 0 && n < 1<<62 {
			p.counters[i].update(uint64(n), p.short)
		}
	}
	return nil
}

// unwrapped makes a counter that wraps at 2^32 into one that does not.
type unwrapped struct {
	last, total uint64
	seen        bool
}

func (w *unwrapped) update(n uint64, short bool) {
	if short && w.seen {
		w.total += uint64(uint32(n) - uint32(w.last))
	} else {
		w.total = n
	}
	w.last, w.seen = n, true
}
