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
	FieldMemoryTemperature  uint32 = gonvml.FI_DEV_MEMORY_TEMP                                 // °C
	FieldRetiredSingleBit   uint32 = gonvml.FI_DEV_RETIRED_SBE                                 // pages
	FieldRetiredDoubleBit   uint32 = gonvml.FI_DEV_RETIRED_DBE                                 // pages
	FieldRetiredPending     uint32 = gonvml.FI_DEV_RETIRED_PENDING                             // 0 or 1
	FieldRemapCorrectable   uint32 = gonvml.FI_DEV_REMAPPED_COR                                // rows
	FieldRemapUncorrectable uint32 = gonvml.FI_DEV_REMAPPED_UNC                                // rows
	FieldRemapPending       uint32 = gonvml.FI_DEV_REMAPPED_PENDING                            // 0 or 1
	FieldRemapFailure       uint32 = gonvml.FI_DEV_REMAPPED_FAILURE                            // 0 or 1
	FieldRecoveryAction     uint32 = gonvml.FI_DEV_GET_GPU_RECOVERY_ACTION                     // nvmlDeviceGpuRecoveryAction_t
	FieldPowerAverage       uint32 = gonvml.FI_DEV_POWER_AVERAGE                               // mW
	FieldPowerInstant       uint32 = gonvml.FI_DEV_POWER_INSTANT                               // mW
	FieldThrottlePowerCap   uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP            // ns
	FieldThrottleSyncBoost  uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST              // ns
	FieldThrottleSwThermal  uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN       // ns
	FieldThrottleHwThermal  uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN       // ns
	FieldPCIeTx             uint32 = gonvml.FI_DEV_PCIE_COUNT_TX_BYTES                         // bytes; may wrap
	FieldPCIeRx             uint32 = gonvml.FI_DEV_PCIE_COUNT_RX_BYTES                         // bytes; may wrap
	FieldNVLinkTx           uint32 = gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX                   // KiB; the scope is the link
	FieldNVLinkRx           uint32 = gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX                   // KiB; the scope is the link
	FieldThrottlePowerBrake uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN // ns
)

// FieldNumber is a field's value, whatever C type it came in (nvmlValueType_t).
// An unknown type becomes NaN, which is not a valid reading.
func FieldNumber(v *FieldValue) float64 {
	b := v.Value[:]
	switch gonvml.ValueType(v.ValueType) {
	case gonvml.VALUE_TYPE_DOUBLE:
		return math.Float64frombits(binary.NativeEndian.Uint64(b))
	case gonvml.VALUE_TYPE_UNSIGNED_INT:
		return float64(binary.NativeEndian.Uint32(b))
	case gonvml.VALUE_TYPE_UNSIGNED_LONG, gonvml.VALUE_TYPE_UNSIGNED_LONG_LONG:
		return float64(binary.NativeEndian.Uint64(b))
	case gonvml.VALUE_TYPE_SIGNED_LONG_LONG:
		return float64(int64(binary.NativeEndian.Uint64(b)))
	case gonvml.VALUE_TYPE_SIGNED_INT:
		return float64(int32(binary.NativeEndian.Uint32(b)))
	case gonvml.VALUE_TYPE_UNSIGNED_SHORT:
		return float64(binary.NativeEndian.Uint16(b))
	}
	return math.NaN()
}

// FieldIsShort reports whether a field came as a number of 32 bits, so that a
// counter in it wraps at 2^32.
func FieldIsShort(v *FieldValue) bool {
	t := gonvml.ValueType(v.ValueType)
	return t == gonvml.VALUE_TYPE_UNSIGNED_INT || t == gonvml.VALUE_TYPE_SIGNED_INT
}

// ErrNotSupported is the error of a reading that a GPU does not support.
func ErrNotSupported(function string) error { return result(function, gonvml.ERROR_NOT_SUPPORTED) }

// ErrMissing is the error of a function that the library lacks.
func ErrMissing(function string) error { return missing(function) }
