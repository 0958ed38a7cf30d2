// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"encoding/binary"
	"math"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Field values that are read (NVML_FI_* in nvml.h).
const (
	// In °C.
	FieldMemoryTemperature = gonvml.FI_DEV_MEMORY_TEMP

	// Pages, and rows; what is pending or failed is 0 or 1.
	FieldRetiredSingleBit   = gonvml.FI_DEV_RETIRED_SBE
	FieldRetiredDoubleBit   = gonvml.FI_DEV_RETIRED_DBE
	FieldRetiredPending     = gonvml.FI_DEV_RETIRED_PENDING
	FieldRemapCorrectable   = gonvml.FI_DEV_REMAPPED_COR
	FieldRemapUncorrectable = gonvml.FI_DEV_REMAPPED_UNC
	FieldRemapPending       = gonvml.FI_DEV_REMAPPED_PENDING
	FieldRemapFailure       = gonvml.FI_DEV_REMAPPED_FAILURE

	// One of nvmlDeviceGpuRecoveryAction_t.
	FieldRecoveryAction = gonvml.FI_DEV_GET_GPU_RECOVERY_ACTION

	// In mJ since the driver was loaded.
	FieldEnergy = gonvml.FI_DEV_TOTAL_ENERGY_CONSUMPTION

	// In mW.
	FieldPowerAverage = gonvml.FI_DEV_POWER_AVERAGE
	FieldPowerInstant = gonvml.FI_DEV_POWER_INSTANT

	// In ns. The others of their kind have numbers that depend on the driver, see
	// [Device.ThrottleFields].
	FieldThrottlePowerCap  = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP
	FieldThrottleSyncBoost = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST

	// Offsets in °C to the temperature at which clocks are lowered, for GPUs that report a
	// margin.
	FieldMarginShutdown  = gonvml.FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT
	FieldMarginSlowdown  = gonvml.FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT
	FieldMarginMemoryMax = gonvml.FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT
	FieldMarginGPUMax    = gonvml.FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT

	// In bytes; they may wrap.
	FieldPCIeTx = gonvml.FI_DEV_PCIE_COUNT_TX_BYTES
	FieldPCIeRx = gonvml.FI_DEV_PCIE_COUNT_RX_BYTES

	// In KiB; the scope is the link.
	FieldNVLinkTx = gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX
	FieldNVLinkRx = gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX
)

// ThrottleFields are the numbers of the throttle counters that differ among drivers, all in
// ns; 0 where the driver has none.
type ThrottleFields struct{ SwThermal, HwThermal, PowerBrake uint32 }

// The drivers, by the first part of their version, from which on the throttle counters
// have their numbers. What one generation has at the other's numbers is power smoothing.
const (
	throttleFieldsFrom = 575
	throttleFieldsMove = 590
)

// throttleFields returns the numbers that a driver has, by the first part of its version; an
// unknown one, 0, is treated as old.
func throttleFields(driver int) ThrottleFields {
	switch {
	case driver >= throttleFieldsMove:
		return ThrottleFields{
			SwThermal:  gonvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN,
			HwThermal:  gonvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN,
			PowerBrake: gonvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN,
		}
	case driver >= throttleFieldsFrom:
		return ThrottleFields{SwThermal: 251, HwThermal: 252, PowerBrake: 253}
	}
	return ThrottleFields{SwThermal: gonvml.FI_DEV_PERF_POLICY_THERMAL}
}

// ThrottleFields are the numbers that the loaded driver has, by its version: asking for
// another generation's is not an error but another quantity.
func (d Device) ThrottleFields() ThrottleFields {
	return throttleFields(int(d.lib.driverMajor.Load()))
}

// FieldNumber is a field's value, whatever C type it came in (nvmlValueType_t), or the
// error with which NVML answered for this field. An unknown type becomes NaN, which is
// not a valid reading.
func FieldNumber(v *FieldValue) (float64, error) {
	if err := result("nvmlDeviceGetFieldValues", gonvml.Return(v.NvmlReturn)); err != nil {
		return 0, err
	}
	b := v.Value[:]
	n := math.NaN()
	switch gonvml.ValueType(v.ValueType) {
	case gonvml.VALUE_TYPE_DOUBLE:
		n = math.Float64frombits(binary.NativeEndian.Uint64(b))
	case gonvml.VALUE_TYPE_UNSIGNED_INT:
		n = float64(binary.NativeEndian.Uint32(b))
	case gonvml.VALUE_TYPE_UNSIGNED_LONG, gonvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		n = float64(binary.NativeEndian.Uint64(b))
	case gonvml.VALUE_TYPE_SIGNED_LONG_LONG:
		n = float64(int64(binary.NativeEndian.Uint64(b)))
	case gonvml.VALUE_TYPE_SIGNED_INT:
		n = float64(int32(binary.NativeEndian.Uint32(b)))
	case gonvml.VALUE_TYPE_UNSIGNED_SHORT:
		n = float64(binary.NativeEndian.Uint16(b))
	}
	return n, nil
}

// FieldIsShort reports whether a field came as a number of 32 bits, so that a
// counter in it wraps at 2^32.
func FieldIsShort(v *FieldValue) bool {
	t := gonvml.ValueType(v.ValueType)
	return t == gonvml.VALUE_TYPE_UNSIGNED_INT || t == gonvml.VALUE_TYPE_SIGNED_INT
}

// FieldIsCounter reports whether a field came as an unsigned number of 64 bits, as the
// counters of times do.
func FieldIsCounter(v *FieldValue) bool {
	t := gonvml.ValueType(v.ValueType)
	return t == gonvml.VALUE_TYPE_UNSIGNED_LONG_LONG || t == gonvml.VALUE_TYPE_UNSIGNED_LONG
}

// ErrNotSupported is the error of a reading that a GPU does not support.
func ErrNotSupported(function string) error { return result(function, gonvml.ERROR_NOT_SUPPORTED) }
