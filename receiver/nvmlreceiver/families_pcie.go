//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvmllib"
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
		pcieLink("pcie.generation", "nvmlDeviceGetCurrPcieLinkGeneration", metadata.AttributeHwGpuPcieStateCurrent, pcieGeneration, nvmllib.Device.PcieGeneration,
			func(h *health) *int { return &h.generation }),
		pcieLink("pcie.generation.max", "nvmlDeviceGetMaxPcieLinkGeneration", metadata.AttributeHwGpuPcieStateMax, pcieGeneration, nvmllib.Device.MaxPcieGeneration,
			func(h *health) *int { return &h.maxGeneration }),
		pcieLink("pcie.width", "nvmlDeviceGetCurrPcieLinkWidth", metadata.AttributeHwGpuPcieStateCurrent, pcieWidth, nvmllib.Device.PcieWidth,
			func(h *health) *int { return &h.width }),
		pcieLink("pcie.width.max", "nvmlDeviceGetMaxPcieLinkWidth", metadata.AttributeHwGpuPcieStateMax, pcieWidth, nvmllib.Device.MaxPcieWidth,
			func(h *health) *int { return &h.maxWidth }),
		{
			name: "pcie.replays", needs: "nvmlDeviceGetPcieReplayCounter",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuPcieReplays.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuPcieReplaysDataPoint(ts, s.integer, c.id, c.name)
				},
			}},
			read: func(d nvmllib.Device, out *sheet) error {
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
func pcieLink(name, needs string, attribute metadata.AttributeHwGpuPcieState, m metric, ask func(nvmllib.Device) (int, error), health func(*health) *int) family {
	return family{
		name: name, needs: needs, status: true, metrics: []metric{m},
		read: func(d nvmllib.Device, out *sheet) error {
			v, err := ask(d)
			if err == nil && v >= 0 && v <= 64 {
				out.int(0, int(attribute), int64(v))
				*health(&out.health) = v
			}
			return err
		},
	}
}
