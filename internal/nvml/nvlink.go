// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"

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
