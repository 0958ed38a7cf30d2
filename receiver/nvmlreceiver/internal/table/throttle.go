// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	throttleTime   = newWith1(counter, "hw.gpu.throttle.time", (*builder).RecordHwGpuThrottleTimeDataPoint)
	throttleActive = newWith1(level, "hw.gpu.throttle.active", (*builder).RecordHwGpuThrottleActiveDataPoint)
)

// throttleReasons are the bits of nvmlClocksEventReasons in nvml.h, from the lowest.
var throttleReasons = [...]metadata.AttributeHwGpuThrottleActiveReason{
	metadata.AttributeHwGpuThrottleActiveReasonGpuIdle,
	metadata.AttributeHwGpuThrottleActiveReasonApplicationsClocks,
	metadata.AttributeHwGpuThrottleActiveReasonSwPowerCap,
	metadata.AttributeHwGpuThrottleActiveReasonHwSlowdown,
	metadata.AttributeHwGpuThrottleActiveReasonSyncBoost,
	metadata.AttributeHwGpuThrottleActiveReasonSwThermal,
	metadata.AttributeHwGpuThrottleActiveReasonHwThermal,
	metadata.AttributeHwGpuThrottleActiveReasonHwPowerBrake,
	metadata.AttributeHwGpuThrottleActiveReasonDisplayClock,
	metadata.AttributeHwGpuThrottleActiveReasonBoardLimit,
	metadata.AttributeHwGpuThrottleActiveReasonReliability,
}

// The bits of the reasons that hold back a GPU that has work to do.
const (
	swPowerCap   = 1 << 2
	hwSlowdown   = 1 << 3
	swThermal    = 1 << 5
	hwThermal    = 1 << 6
	hwPowerBrake = 1 << 7
)

// ThrottleReasons are those whose begin and end become log records.
var ThrottleReasons = [...]struct {
	Bit  uint64 // in [Health.Throttling]
	Name string
}{
	{swPowerCap, "sw_power_cap"},
	{hwSlowdown, "hw_slowdown"},
	{swThermal, "sw_thermal"},
	{hwThermal, "hw_thermal"},
	{hwPowerBrake, "hw_power_brake"},
}

// throttleCounter is one accumulated time.
type throttleCounter struct {
	reason metadata.AttributeHwGpuThrottleReason
	// field is the number of the field value; 0 if the driver has none.
	field uint32
	// policy is the older function's name of the counter, if older is true.
	policy nvml.Policy
	older  bool
}

// throttleCounters are the accumulated times, by the driver's own numbers. The older
// function has three of them, under another name.
func throttleCounters(d nvml.Device) [maxThrottleCounters]throttleCounter {
	fields := d.ThrottleFields()
	return [...]throttleCounter{
		{metadata.AttributeHwGpuThrottleReasonSwPowerCap, nvml.FieldThrottlePowerCap, nvml.PolicyPower, true},
		{metadata.AttributeHwGpuThrottleReasonSyncBoost, nvml.FieldThrottleSyncBoost, nvml.PolicySyncBoost, true},
		{metadata.AttributeHwGpuThrottleReasonSwThermal, fields.SwThermal, nvml.PolicyThermal, true},
		{metadata.AttributeHwGpuThrottleReasonHwThermal, fields.HwThermal, 0, false},
		{metadata.AttributeHwGpuThrottleReasonHwPowerBrake, fields.PowerBrake, 0, false},
	}
}

const maxThrottleCounters = 5

// counterCheck refuses what cannot be a counter of times: a number of another type, or one
// that goes back. It never chooses a field: the driver's version does.
type counterCheck struct {
	last  float64
	falls int
}

// maxFalls is how often a counter may go back, since a GPU can be reset; what does so more
// often is refused until the GPU is found again.
const maxFalls = 2

func (c *counterCheck) accepts(v *nvml.FieldValue, n float64) bool {
	if !nvml.FieldIsCounter(v) || n < 0 || n >= 1<<62 {
		return false
	}
	fell := n < c.last
	c.last = n
	if fell {
		c.falls++
	}
	return !fell && c.falls <= maxFalls
}

func throttleRows() []Row {
	return []Row{
		{
			Name: "throttle.time", metrics: []*Metric{throttleTime.Metric}, pace: eachPass, read: readThrottleTime,
			throttle: true,
		},
		{
			Name: "throttle.active", Status: true, metrics: []*Metric{throttleActive.Metric},
			read: func(d nvml.Device, out *Output) error {
				bits, err := d.ThrottleReasons()
				if err != nil {
					return err
				}
				out.Health.Throttling = bits
				out.Health.SlowedDown = bits&(hwSlowdown|hwThermal|hwPowerBrake) != 0
				for bit, reason := range throttleReasons {
					out.put(throttleActive.Of(Flag(bits&(1<<bit) != 0), reason))
				}
				return nil
			},
		},
	}
}

// readThrottleTime prefers the field values and asks the older function for what they
// lack.
func readThrottleTime(d nvml.Device, out *Output) error {
	before := len(out.Samples)
	counters := throttleCounters(d)
	ids := make([]uint32, 0, maxThrottleCounters)
	for i := range counters {
		if counters[i].field != 0 {
			ids = append(ids, counters[i].field)
		}
	}
	values, err := out.fieldValues(d, ids...)
	next := 0
	for i := range counters {
		t := &counters[i]
		if t.field == 0 {
			continue
		}
		v := &values[next]
		next++
		var ns float64
		fieldErr := err
		if fieldErr == nil {
			ns, fieldErr = nvml.FieldNumber(v)
		}
		accepted := fieldErr == nil && out.throttle[i].accepts(v, ns)
		if fieldErr != nil && t.older {
			var older uint64
			older, fieldErr = d.ViolationTime(t.policy)
			ns = float64(older)
			accepted = fieldErr == nil && older < 1<<62
		}
		if kind := nvml.KindOf(fieldErr); kind == nvml.Lost || kind == nvml.DriverGone {
			return fieldErr
		}
		out.putIf(accepted, throttleTime.Of(ns/1e9, t.reason))
	}
	switch {
	case len(out.Samples) > before:
		return nil
	case err == nil:
		return nvml.ErrNotSupported("nvmlDeviceGetFieldValues")
	}
	return err
}
