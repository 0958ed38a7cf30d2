// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

const vendor = "NVIDIA"

// The series that the collector itself makes of a GPU. They stay while a GPU
// is late or lost.
var (
	infoMetric = metric{
		func(c *metadata.MetricsConfig) bool { return c.HwGpuInfo.Enabled },
		func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
			mb.RecordHwGpuInfoDataPoint(ts, s.integer, c.driver, c.VBIOS, c.Architecture, c.BoardPart, c.cuda, c.computeInstance, c.gpuInstance, c.MIG, c.profile, c.NUMANode, c.PCIBusID,
				c.id, c.Model, c.name, c.parent, c.Serial, vendor)
		},
	}
	upMetric = metric{
		func(c *metadata.MetricsConfig) bool { return c.HwGpuUp.Enabled },
		func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
			mb.RecordHwGpuUpDataPoint(ts, s.integer, c.id, c.name)
		},
	}
	statusMetric = metric{
		func(c *metadata.MetricsConfig) bool { return c.HwStatus.Enabled },
		func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
			mb.RecordHwStatusDataPoint(ts, s.integer, c.id, c.name, metadata.AttributeHwState(s.attribute), metadata.AttributeHwTypeGpu)
		},
	}
)

var statuses = [...]metadata.AttributeHwState{
	metadata.AttributeHwStateOk, metadata.AttributeHwStateDegraded, metadata.AttributeHwStateFailed, metadata.AttributeHwStatePredictedFailure,
}

// appendState adds what the collector knows of a GPU to its samples.
func appendState(samples []sample, c *gpu) []sample {
	if c.condition == unknown {
		return samples
	}
	up := int64(0)
	if c.condition == healthy {
		up = 1
	}
	samples = append(samples,
		sample{series: series{metric: &infoMetric}, integer: 1},
		sample{series: series{metric: &upMetric}, integer: up})
	is := status(c.condition, &c.sheet.health, c.errorsRise)
	for _, s := range statuses {
		v := int64(0)
		if s == is {
			v = 1
		}
		samples = append(samples, sample{series: series{metric: &statusMetric, attribute: int(s)}, integer: v})
	}
	return samples
}
