// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"math"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

type (
	errorType   = metadata.AttributeErrorType
	eccLifetime = metadata.AttributeHwGpuEccLifetime
	eccLocation = metadata.AttributeHwGpuMemoryLocation
)

const (
	corrected   = metadata.AttributeErrorTypeCorrected
	uncorrected = metadata.AttributeErrorTypeUncorrected
	aggregate   = metadata.AttributeHwGpuEccLifetimeAggregate
	dram        = metadata.AttributeHwGpuMemoryLocationDram
)

var sramThresholdExceeded = newPlain(level, "hw.gpu.ecc.sram.threshold_exceeded", (*builder).RecordHwGpuEccSramThresholdExceededDataPoint)

var eccErrors = newWith3(counter, "hw.errors",
	func(mb *builder, ts timestamp, v int64, e errorType, lifetime eccLifetime, location eccLocation, id, name string) {
		mb.RecordHwErrorsDataPoint(ts, v, e, lifetime, location, id, name, metadata.AttributeHwTypeGpu)
	})

// eccRows has one row for each combination, since GPUs support some and not others.
func eccRows() (rows []Row) {
	for _, location := range [...]eccLocation{metadata.AttributeHwGpuMemoryLocationSram, dram} {
		for _, lifetime := range [...]eccLifetime{metadata.AttributeHwGpuEccLifetimeVolatile, aggregate} {
			for _, e := range [...]errorType{corrected, uncorrected} {
				rows = append(rows, eccRow(location, lifetime, e))
			}
		}
	}
	return append(rows, Row{
		Name: "ecc.sram.threshold", Every: linkInterval, Status: true, metrics: []*Metric{sramThresholdExceeded.Metric},
		read: func(d nvml.Device, out *Output) error {
			exceeded, err := d.SRAMThresholdExceeded()
			if nvml.KindOf(err) == nvml.Denied { // only root may ask
				return nvml.ErrNotSupported("nvmlDeviceGetSramEccErrorStatus")
			}
			out.putIf(err == nil, sramThresholdExceeded.Of(Flag(exceeded)))
			out.Health.BeyondRepair = err == nil && exceeded
			return err
		},
	})
}

func eccRow(location eccLocation, lifetime eccLifetime, e errorType) Row {
	which := nvml.EccCounter{Uncorrected: e == uncorrected, Aggregate: lifetime == aggregate, DRAM: location == dram}
	every := time.Duration(0)
	if which.Aggregate {
		every = linkInterval
	}
	return Row{
		Every:   every,
		Name:    "ecc." + location.String() + "." + e.String() + "." + lifetime.String(),
		Status:  !which.Aggregate,
		metrics: []*Metric{eccErrors.Metric},
		read: func(d nvml.Device, out *Output) error {
			n, err := d.EccErrors(which)
			if err != nil || n >= math.MaxInt64 {
				return err
			}
			out.put(eccErrors.of(int64(n), e, lifetime, location))
			switch {
			case which.Aggregate:
			case which.Uncorrected:
				out.Health.Uncorrected += n
			default:
				out.Health.Corrected += n
			}
			return nil
		},
	}
}
