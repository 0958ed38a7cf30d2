// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	power = newWith1(level, "hw.power",
		func(mb *builder, ts timestamp, v float64, scope metadata.AttributeHwGpuPowerScope, id, name string) {
			mb.RecordHwPowerDataPoint(ts, v, scope, id, name, metadata.AttributeHwTypeGpu)
		})
	powerLimit = newWith1(level, "hw.gpu.power.limit",
		func(mb *builder, ts timestamp, v float64, limit metadata.AttributeHwPowerLimitType, id, name string) {
			mb.RecordHwGpuPowerLimitDataPoint(ts, v, id, name, limit)
		})
	energy = newWith1(counter, "hw.energy",
		func(mb *builder, ts timestamp, v float64, source metadata.AttributeHwGpuEnergySource, id, name string) {
			mb.RecordHwEnergyDataPoint(ts, v, source, id, name, metadata.AttributeHwTypeGpu)
		})
)

// powerInterval is how often a receiver that follows work asks for the power of a GPU that
// has it by no field value: the call holds the driver's lock for long.
const powerInterval = 200 * time.Millisecond

// maxPowerMilliwatts is beyond what any GPU draws: more is not a valid reading.
const maxPowerMilliwatts = 10_000_000

func powerRows() []Row {
	return []Row{
		{
			Name: "power", metrics: []*Metric{power.Metric}, pace: eachPass, read: readPower,
			fields: []uint32{nvml.FieldPowerInstant, nvml.FieldPowerAverage},
		},
		powerLimitRow(metadata.AttributeHwPowerLimitTypeEnforced, nvml.Device.EnforcedPowerLimit),
		powerLimitRow(metadata.AttributeHwPowerLimitTypeRequested, nvml.Device.PowerLimit),
		powerLimitRow(metadata.AttributeHwPowerLimitTypeDefault, nvml.Device.DefaultPowerLimit),
		{
			Name: "power.limit.range", Every: limitInterval, metrics: []*Metric{powerLimit.Metric},
			read: func(d nvml.Device, out *Output) error {
				r, err := d.PowerLimitRange()
				valid := err == nil && r.Max <= maxPowerMilliwatts
				out.putIf(valid, powerLimit.Of(float64(r.Min)/1000, metadata.AttributeHwPowerLimitTypeMin))
				out.putIf(valid, powerLimit.Of(float64(r.Max)/1000, metadata.AttributeHwPowerLimitTypeMax))
				return err
			},
		},
		{
			Name: "energy", metrics: []*Metric{energy.Metric}, pace: eachPass, read: readEnergy,
			fields: []uint32{nvml.FieldEnergy},
		},
	}
}

func readPower(d nvml.Device, out *Output) error {
	before := len(out.Samples)
	if values, err := out.fieldValues(d, nvml.FieldPowerInstant, nvml.FieldPowerAverage); err == nil {
		for i, scope := range [...]metadata.AttributeHwGpuPowerScope{
			metadata.AttributeHwGpuPowerScopeInstant, metadata.AttributeHwGpuPowerScopeAverage,
		} {
			mw, err := nvml.FieldNumber(&values[i])
			valid := err == nil && mw >= 0 && mw <= maxPowerMilliwatts
			out.putIf(valid, power.Of(mw/1000, scope))
			if valid && scope == metadata.AttributeHwGpuPowerScopeInstant {
				out.Watts = mw / 1000
			}
		}
	}
	if len(out.Samples) > before {
		return nil
	}
	if out.Paced && !Crossed(out.powerAt, out.Now, powerInterval, 0) {
		return ErrNotDue
	}
	out.powerAt = out.Now
	// Drivers before 525 report one figure, whose scope depends on the GPU.
	mw, err := d.PowerUsage()
	valid, scope := err == nil && mw <= maxPowerMilliwatts, metadata.AttributeHwGpuPowerScopeAverage
	if out.InstantPower {
		scope = metadata.AttributeHwGpuPowerScopeInstant
	}
	out.putIf(valid, power.Of(float64(mw)/1000, scope))
	if valid && out.InstantPower {
		out.Watts = float64(mw) / 1000
	}
	return err
}

func powerLimitRow(limit metadata.AttributeHwPowerLimitType, ask func(nvml.Device) (uint32, error)) Row {
	return single("power.limit."+limit.String(), ask, 0, maxPowerMilliwatts,
		func(mw uint32) Sample { return powerLimit.Of(float64(mw)/1000, limit) }).asLimit()
}

// readEnergy reads the GPU's counter. If the GPU has none, its power is integrated, from
// then on by the sampler too.
func readEnergy(d nvml.Device, out *Output) error {
	e := &out.Peaks.energy
	if !e.integrates {
		mj, err := out.energyCounter(d)
		if !nvml.IsUnsupported(err) {
			out.putIf(err == nil && mj >= 0 && mj < 1<<62, energy.Of(mj/1000, metadata.AttributeHwGpuEnergySourceCounter))
			return err
		}
		e.integrates = true
	}
	switch {
	case out.Watts > 0:
		e.addWatts(out.Watts, out.Now)
	case out.Paced && !Crossed(e.at, out.Now, powerInterval, 0):
		return ErrNotDue
	default:
		if err := e.add(d, out.Now); err != nil {
			return err
		}
	}
	out.put(energy.Of(e.joules, metadata.AttributeHwGpuEnergySourceIntegrated))
	return nil
}

// energyCounter is the GPU's counter in mJ: a field value, which older drivers answer by a
// function of its own only.
func (o *Output) energyCounter(d nvml.Device) (mj float64, err error) {
	if !o.noEnergyField {
		mj, err = o.fieldValue(d, nvml.FieldEnergy)
		if err == nil || !nvml.IsUnsupported(err) && !nvml.IsInvalid(err) {
			return mj, err
		}
	}
	n, err := d.TotalEnergy()
	o.noEnergyField = err == nil
	return float64(n), err
}

// maxPowerGap is the longest time between two readings of the power over which it is
// assumed to have changed evenly; a longer one is not counted.
const maxPowerGap = time.Minute

// energyMeter integrates a GPU's power by the trapezoidal rule.
type energyMeter struct {
	integrates bool    // the GPU has no counter
	joules     float64 // since the receiver's first reading of the GPU
	watts      float64
	at         time.Time
}

func (e *energyMeter) add(d nvml.Device, now time.Time) error {
	mw, err := d.PowerUsage()
	if err != nil || mw > maxPowerMilliwatts {
		return err
	}
	e.addWatts(float64(mw)/1000, now)
	return nil
}

func (e *energyMeter) addWatts(watts float64, now time.Time) {
	if step := now.Sub(e.at); !e.at.IsZero() && step > 0 && step <= maxPowerGap {
		e.joules += (e.watts + watts) / 2 * step.Seconds()
	}
	e.watts, e.at = watts, now
}
