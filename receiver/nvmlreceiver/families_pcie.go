// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var pcieGeneration = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuPcieLinkGeneration.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuPcieLinkGenerationDataPoint(ts, s.integer, metadata.AttributeHwGpuPcieState(s.attribute), c.id, c.name)
	},
}

var pcieWidth = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwGpuPcieLinkWidth.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		mb.RecordHwGpuPcieLinkWidthDataPoint(ts, s.integer, metadata.AttributeHwGpuPcieState(s.attribute), c.id, c.name)
	},
}

func pcieFamilies() []family {
	return []family{
		pcieLink("pcie.generation", "nvmlDeviceGetCurrPcieLinkGeneration", metadata.AttributeHwGpuPcieStateCurrent, pcieGeneration, nvml.Device.PcieGeneration,
			func(h *health) *int { return &h.generation }),
		pcieLink("pcie.generation.max", "nvmlDeviceGetMaxPcieLinkGeneration", metadata.AttributeHwGpuPcieStateMax, pcieGeneration, nvml.Device.MaxPcieGeneration,
			func(h *health) *int { return &h.maxGeneration }),
		pcieLink("pcie.width", "nvmlDeviceGetCurrPcieLinkWidth", metadata.AttributeHwGpuPcieStateCurrent, pcieWidth, nvml.Device.PcieWidth,
			func(h *health) *int { return &h.width }),
		pcieLink("pcie.width.max", "nvmlDeviceGetMaxPcieLinkWidth", metadata.AttributeHwGpuPcieStateMax, pcieWidth, nvml.Device.MaxPcieWidth,
			func(h *health) *int { return &h.maxWidth }),
		{
			name: "pcie.io", needs: "nvmlDeviceGetFieldValues",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuIo.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuIoDataPoint(ts, s.integer, c.id, c.name, metadata.AttributeNetworkIoDirection(s.attribute))
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				p := &out.window.pcie
				if err := p.take(d); err != nil {
					return err
				}
				for i, direction := range directions {
					if p.counters[i].seen {
						out.int(0, int(direction), int64(p.counters[i].total))
					}
				}
				return nil
			},
		},
		{
			name: "pcie.replays", needs: "nvmlDeviceGetPcieReplayCounter",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuPcieReplays.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuPcieReplaysDataPoint(ts, s.integer, c.id, c.name)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				n, err := d.PcieReplays()
				if err == nil && n < 1<<32-1 { // all ones is no count
					out.int(0, 0, int64(n))
				}
				return err
			},
		},
	}
}

// pcieLink is the row of one property of the link. A generation or a width of
// more than 64 is no reading.
func pcieLink(name, needs string, attribute metadata.AttributeHwGpuPcieState, m metric, ask func(nvml.Device) (int, error), health func(*health) *int) family {
	return family{
		name: name, needs: needs, status: true, metrics: []metric{m},
		read: func(d nvml.Device, out *sheet) error {
			v, err := ask(d)
			if err == nil && v >= 0 && v <= 64 {
				out.int(0, int(attribute), int64(v))
				*health(&out.health) = v
			}
			return err
		},
	}
}

var directions = [...]metadata.AttributeNetworkIoDirection{metadata.AttributeNetworkIoDirectionTransmit, metadata.AttributeNetworkIoDirectionReceive}

// pcieWindow follows the GPU's byte counters. Where they have 32 bits they wrap
// after 4 GiB, so the sampler looks at them too: at 100 ms it misses no wrap up
// to 40 GB/s.
type pcieWindow struct {
	counters [len(directions)]wrapping
	short    bool
	fields   [len(directions)]nvml.FieldValue
}

// take reads the counters, on behalf of a scrape or of the sampler.
func (p *pcieWindow) take(d nvml.Device) error {
	p.fields = [...]nvml.FieldValue{{FieldId: nvml.FieldPCIeTx}, {FieldId: nvml.FieldPCIeRx}}
	if err := d.FieldValues(p.fields[:]); err != nil {
		return err
	}
	for i := range p.fields {
		v := &p.fields[i]
		if err := nvml.FieldError(v); err != nil {
			return err
		}
		p.short = nvml.FieldIsShort(v)
		if n := nvml.FieldNumber(v); n >= 0 && n < 1<<62 {
			p.counters[i].take(uint64(n), p.short)
		}
	}
	return nil
}

// wrapping makes a counter that wraps at 2^32 into one that does not.
type wrapping struct {
	last, total uint64
	seen        bool
}

func (w *wrapping) take(n uint64, short bool) {
	switch {
	case !short || !w.seen:
		w.total = n
	default:
		w.total += uint64(uint32(n) - uint32(w.last))
	}
	w.last, w.seen = n, true
}
