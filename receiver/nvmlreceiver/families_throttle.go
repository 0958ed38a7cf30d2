// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// throttleBits are the bits of nvmlClocksEventReasons in nvml.h.
var throttleBits = [...]struct {
	bit       uint64
	attribute metadata.AttributeHwGpuThrottleActiveReason
}{
	{0x001, metadata.AttributeHwGpuThrottleActiveReasonGpuIdle},
	{0x002, metadata.AttributeHwGpuThrottleActiveReasonApplicationsClocks},
	{0x004, metadata.AttributeHwGpuThrottleActiveReasonSwPowerCap},
	{hwSlowdown, metadata.AttributeHwGpuThrottleActiveReasonHwSlowdown},
	{0x010, metadata.AttributeHwGpuThrottleActiveReasonSyncBoost},
	{0x020, metadata.AttributeHwGpuThrottleActiveReasonSwThermal},
	{hwThermalSlowdown, metadata.AttributeHwGpuThrottleActiveReasonHwThermal},
	{hwPowerBrake, metadata.AttributeHwGpuThrottleActiveReasonHwPowerBrake},
	{0x100, metadata.AttributeHwGpuThrottleActiveReasonDisplayClock},
	{0x200, metadata.AttributeHwGpuThrottleActiveReasonBoardLimit},
	{0x400, metadata.AttributeHwGpuThrottleActiveReasonReliability},
}

const (
	hwSlowdown        = 0x008
	hwThermalSlowdown = 0x040
	hwPowerBrake      = 0x080
)

// reported are the reasons whose beginning and end become log records: those
// that hold a GPU back which has work to do.
var reported = [...]struct {
	bit  uint64
	name string
}{
	{0x004, "sw_power_cap"}, {hwSlowdown, "hw_slowdown"}, {0x020, "sw_thermal"}, {hwThermalSlowdown, "hw_thermal"}, {hwPowerBrake, "hw_power_brake"},
}

// throttleCounters are the accumulated times. The older function knows three of
// them by another name.
var throttleCounters = [...]struct {
	field     uint32
	attribute metadata.AttributeHwGpuThrottleReason
	policy    nvml.Policy
	older     bool
}{
	{nvml.FieldThrottlePowerCap, metadata.AttributeHwGpuThrottleReasonSwPowerCap, nvml.PolicyPower, true},
	{nvml.FieldThrottleSyncBoost, metadata.AttributeHwGpuThrottleReasonSyncBoost, nvml.PolicySyncBoost, true},
	{nvml.FieldThrottleSwThermal, metadata.AttributeHwGpuThrottleReasonSwThermal, nvml.PolicyThermal, true},
	{nvml.FieldThrottleHwThermal, metadata.AttributeHwGpuThrottleReasonHwThermal, 0, false},
	{nvml.FieldThrottlePowerBrake, metadata.AttributeHwGpuThrottleReasonHwPowerBrake, 0, false},
}

func throttleFamilies() []family {
	return []family{
		{
			name: "throttle.time", needs: "nvmlDeviceGetFieldValues|nvmlDeviceGetViolationStatus",
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuThrottleTime.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuThrottleTimeDataPoint(ts, s.float, metadata.AttributeHwGpuThrottleReason(s.attribute), c.id, c.name)
				},
			}},
			read: readThrottleTime,
		},
		{
			name: "throttle.active", needs: "nvmlDeviceGetCurrentClocksEventReasons|nvmlDeviceGetCurrentClocksThrottleReasons",
			status: true,
			metrics: []metric{{
				func(c *metadata.MetricsConfig) bool { return c.HwGpuThrottleActive.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					mb.RecordHwGpuThrottleActiveDataPoint(ts, s.integer, metadata.AttributeHwGpuThrottleActiveReason(s.attribute), c.id, c.name)
				},
			}},
			read: func(d nvml.Device, out *sheet) error {
				bits, err := d.ThrottleReasons()
				if err != nil {
					return err
				}
				out.health.throttling = bits
				out.health.slowedDown = bits&(hwSlowdown|hwThermalSlowdown|hwPowerBrake) != 0
				for _, b := range &throttleBits {
					active := int64(0)
					if bits&b.bit != 0 {
						active = 1
					}
					out.int(0, int(b.attribute), active)
				}
				return nil
			},
		},
	}
}

// readThrottleTime prefers the field values (ns, R560 and newer for all five) and
// asks the older function for what they do not have.
func readThrottleTime(d nvml.Device, out *sheet) error {
	before := len(out.samples)
	values, err := out.fieldValues(d, nvml.FieldThrottlePowerCap, nvml.FieldThrottleSyncBoost, nvml.FieldThrottleSwThermal,
		nvml.FieldThrottleHwThermal, nvml.FieldThrottlePowerBrake)
	for i := range throttleCounters {
		t := &throttleCounters[i]
		var ns float64
		fieldErr := err
		if fieldErr == nil {
			fieldErr = nvml.FieldError(&values[i])
			ns = nvml.FieldNumber(&values[i])
		}
		if fieldErr != nil && t.older {
			var older uint64
			older, fieldErr = d.ViolationTime(t.policy)
			ns = float64(older)
		}
		if kind := nvml.KindOf(fieldErr); kind == nvml.Lost || kind == nvml.DriverGone {
			return fieldErr
		}
		if fieldErr == nil && ns >= 0 && ns < 1<<62 {
			out.float(0, int(t.attribute), ns/1e9)
		}
	}
	if len(out.samples) == before && err == nil {
		return nvml.ErrNotSupported("nvmlDeviceGetFieldValues")
	}
	if len(out.samples) > before {
		return nil
	}
	return err
}
