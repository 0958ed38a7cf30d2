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
	FieldMemoryTemperature uint32 = gonvml.FI_DEV_MEMORY_TEMP

	// Pages, and rows; what is pending or failed is 0 or 1.
	FieldRetiredSingleBit   uint32 = gonvml.FI_DEV_RETIRED_SBE
	FieldRetiredDoubleBit   uint32 = gonvml.FI_DEV_RETIRED_DBE
	FieldRetiredPending     uint32 = gonvml.FI_DEV_RETIRED_PENDING
	FieldRemapCorrectable   uint32 = gonvml.FI_DEV_REMAPPED_COR
	FieldRemapUncorrectable uint32 = gonvml.FI_DEV_REMAPPED_UNC
	FieldRemapPending       uint32 = gonvml.FI_DEV_REMAPPED_PENDING
	FieldRemapFailure       uint32 = gonvml.FI_DEV_REMAPPED_FAILURE

	// One of nvmlDeviceGpuRecoveryAction_t.
	FieldRecoveryAction uint32 = gonvml.FI_DEV_GET_GPU_RECOVERY_ACTION

	// In mW.
	FieldPowerAverage uint32 = gonvml.FI_DEV_POWER_AVERAGE
	FieldPowerInstant uint32 = gonvml.FI_DEV_POWER_INSTANT

	// In ns.
	FieldThrottlePowerCap   uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP
	FieldThrottleSyncBoost  uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SYNC_BOOST
	FieldThrottleSwThermal  uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN
	FieldThrottleHwThermal  uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN
	FieldThrottlePowerBrake uint32 = gonvml.FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN

	// In bytes; they may wrap.
	FieldPCIeTx uint32 = gonvml.FI_DEV_PCIE_COUNT_TX_BYTES
	FieldPCIeRx uint32 = gonvml.FI_DEV_PCIE_COUNT_RX_BYTES

	// In KiB; the scope is the link.
	FieldNVLinkTx uint32 = gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_TX
	FieldNVLinkRx uint32 = gonvml.FI_DEV_NVLINK_THROUGHPUT_DATA_RX
)

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

// ErrNotSupported is the error of a reading that a GPU does not support.
func ErrNotSupported(function string) error { return result(function, gonvml.ERROR_NOT_SUPPORTED) }
