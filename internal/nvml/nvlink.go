// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"math"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// MaxNVLinks bounds the links that are read (NVML_NVLINK_MAX_LINKS).
const MaxNVLinks = gonvml.NVLINK_MAX_LINKS

// NVLinkError names an error counter of a link (nvmlNvLinkErrorCounter_t).
type NVLinkError = gonvml.NvLinkErrorCounter

// The errors that a link counts before NVLink 5.
const (
	NVLinkReplay   = gonvml.NVLINK_ERROR_DL_REPLAY
	NVLinkRecovery = gonvml.NVLINK_ERROR_DL_RECOVERY
	NVLinkCRCFlit  = gonvml.NVLINK_ERROR_DL_CRC_FLIT
	NVLinkCRCData  = gonvml.NVLINK_ERROR_DL_CRC_DATA
	NVLinkECCData  = gonvml.NVLINK_ERROR_DL_ECC_DATA
)

// The counters of NVLink 5, as field values whose scope is the link.
const (
	FieldNVLink5TxPackets         = gonvml.FI_DEV_NVLINK_COUNT_XMIT_PACKETS
	FieldNVLink5TxBytes           = gonvml.FI_DEV_NVLINK_COUNT_XMIT_BYTES
	FieldNVLink5RxPackets         = gonvml.FI_DEV_NVLINK_COUNT_RCV_PACKETS
	FieldNVLink5RxBytes           = gonvml.FI_DEV_NVLINK_COUNT_RCV_BYTES
	FieldNVLink5Malformed         = gonvml.FI_DEV_NVLINK_COUNT_MALFORMED_PACKET_ERRORS
	FieldNVLink5Overrun           = gonvml.FI_DEV_NVLINK_COUNT_BUFFER_OVERRUN_ERRORS
	FieldNVLink5RxErrors          = gonvml.FI_DEV_NVLINK_COUNT_RCV_ERRORS
	FieldNVLink5RxRemote          = gonvml.FI_DEV_NVLINK_COUNT_RCV_REMOTE_ERRORS
	FieldNVLink5RxGeneral         = gonvml.FI_DEV_NVLINK_COUNT_RCV_GENERAL_ERRORS
	FieldNVLink5Integrity         = gonvml.FI_DEV_NVLINK_COUNT_LOCAL_LINK_INTEGRITY_ERRORS
	FieldNVLink5TxDiscards        = gonvml.FI_DEV_NVLINK_COUNT_XMIT_DISCARDS
	FieldNVLink5RecoverySucceeded = gonvml.FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS
	FieldNVLink5RecoveryFailed    = gonvml.FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS
	FieldNVLink5Recoveries        = gonvml.FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS
	FieldNVLink5Effective         = gonvml.FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS
	FieldNVLink5EffectiveBER      = gonvml.FI_DEV_NVLINK_COUNT_EFFECTIVE_BER
	FieldNVLink5Symbol            = gonvml.FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS
	FieldNVLink5SymbolBER         = gonvml.FI_DEV_NVLINK_COUNT_SYMBOL_BER
	// FieldNVLink5FEC is the first of NVLink5FECBins.
	FieldNVLink5FEC = gonvml.FI_DEV_NVLINK_COUNT_FEC_HISTORY_0
	NVLink5FECBins  = 16
)

// BitErrorRate decodes a rate of NVLink 5: a mantissa in bits 8 to 11 and a negative exponent
// of ten in bits 0 to 7.
func BitErrorRate(encoded uint64) float64 {
	return float64(encoded>>8&0xf) * math.Pow10(-int(encoded&0xff))
}

// NVLinkActive reports whether a link is up (nvmlDeviceGetNvLinkState).
func (d Device) NVLinkActive(link int) (bool, error) {
	state, err := getBy(d, "nvmlDeviceGetNvLinkState", link, gonvml.Device.GetNvLinkState)
	return state == gonvml.FEATURE_ENABLED, err
}

// NVLinkErrors counts errors of a link since the driver was loaded
// (nvmlDeviceGetNvLinkErrorCounter; up to NVLink 4).
func (d Device) NVLinkErrors(link int, which NVLinkError) (uint64, error) {
	return getBy(d, "nvmlDeviceGetNvLinkErrorCounter", link, func(h gonvml.Device, link int) (uint64, gonvml.Return) {
		return h.GetNvLinkErrorCounter(link, which)
	})
}
