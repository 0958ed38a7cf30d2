// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"math"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// The three attributes of hw.errors, packed into one number.
const (
	eccUncorrected = 1 << iota
	eccAggregate
	eccDRAM
	eccCombinations
)

var eccErrors = metric{
	func(c *metadata.MetricsConfig) bool { return c.HwErrors.Enabled },
	func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
		kind, lifetime, location := metadata.AttributeErrorTypeCorrected, metadata.AttributeHwGpuEccLifetimeVolatile, metadata.AttributeHwGpuMemoryLocationSram
		if s.attribute&eccUncorrected != 0 {
			kind = metadata.AttributeErrorTypeUncorrected
		}
		if s.attribute&eccAggregate != 0 {
			lifetime = metadata.AttributeHwGpuEccLifetimeAggregate
		}
		if s.attribute&eccDRAM != 0 {
			location = metadata.AttributeHwGpuMemoryLocationDram
		}
		mb.RecordHwErrorsDataPoint(ts, s.integer, kind, lifetime, location, c.id, c.name, metadata.AttributeHwTypeGpu)
	},
}

// eccFamilies has one row for each combination, since GPUs know some and not others.
func eccFamilies() []family {
	rows := make([]family, 0, eccCombinations)
	for attributes := range eccCombinations {
		which := nvml.EccCounter{
			Uncorrected: attributes&eccUncorrected != 0, Aggregate: attributes&eccAggregate != 0, DRAM: attributes&eccDRAM != 0,
		}
		rows = append(rows, family{
			name:    "ecc" + word(which.DRAM, ".dram", ".sram") + word(which.Uncorrected, ".uncorrected", ".corrected") + word(which.Aggregate, ".aggregate", ".volatile"),
			needs:   "nvmlDeviceGetMemoryErrorCounter",
			status:  !which.Aggregate,
			metrics: []metric{eccErrors},
			read: func(d nvml.Device, out *sheet) error {
				n, err := d.EccErrors(which)
				if err == nil && n < math.MaxInt64 {
					out.int(0, attributes, int64(n))
					switch {
					case which.Aggregate:
					case which.Uncorrected:
						out.health.uncorrected += n
					default:
						out.health.corrected += n
					}
				}
				return err
			},
		})
	}
	return rows
}

func word(yes bool, ifSo, ifNot string) string {
	if yes {
		return ifSo
	}
	return ifNot
}
