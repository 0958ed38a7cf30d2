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

// throttleCounters are the accumulated times. The older function has three of them,
// under another name.
var throttleCounters = [...]struct {
	field  uint32
	reason metadata.AttributeHwGpuThrottleReason
	policy nvml.Policy
	older  bool
}{
	{nvml.FieldThrottlePowerCap, metadata.AttributeHwGpuThrottleReasonSwPowerCap, nvml.PolicyPower, true},
	{nvml.FieldThrottleSyncBoost, metadata.AttributeHwGpuThrottleReasonSyncBoost, nvml.PolicySyncBoost, true},
	{nvml.FieldThrottleSwThermal, metadata.AttributeHwGpuThrottleReasonSwThermal, nvml.PolicyThermal, true},
	{nvml.FieldThrottleHwThermal, metadata.AttributeHwGpuThrottleReasonHwThermal, 0, false},
	{nvml.FieldThrottlePowerBrake, metadata.AttributeHwGpuThrottleReasonHwPowerBrake, 0, false},
}

func throttleRows() []Row {
	return []Row{
		{Name: "throttle.time", metrics: []*Metric{throttleTime.Metric}, read: readThrottleTime},
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

// readThrottleTime prefers the field values (ns, R560 and newer for all five) and asks
// the older function for what they lack.
func readThrottleTime(d nvml.Device, out *Output) error {
	before := len(out.Samples)
	out.fields = out.fields[:0]
	for i := range throttleCounters {
		out.fields = append(out.fields, nvml.FieldValue{FieldId: throttleCounters[i].field})
	}
	err := d.FieldValues(out.fields)
	for i := range throttleCounters {
		t := &throttleCounters[i]
		var ns float64
		fieldErr := err
		if fieldErr == nil {
			ns, fieldErr = nvml.FieldNumber(&out.fields[i])
		}
		if fieldErr != nil && t.older {
			var older uint64
			older, fieldErr = d.ViolationTime(t.policy)
			ns = float64(older)
		}
		if kind := nvml.KindOf(fieldErr); kind == nvml.Lost || kind == nvml.DriverGone {
			return fieldErr
		}
		out.putIf(fieldErr == nil && ns >= 0 && ns < 1<<62, throttleTime.Of(ns/1e9, t.reason))
	}
	switch {
	case len(out.Samples) > before:
		return nil
	case err == nil:
		return nvml.ErrNotSupported("nvmlDeviceGetFieldValues")
	}
	return err
}
