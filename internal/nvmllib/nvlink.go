//go:build linux && cgo

package nvmllib

import "github.com/NVIDIA/go-nvml/pkg/nvml"

// MostNVLinks bounds the links that are asked about (NVML_NVLINK_MAX_LINKS).
const MostNVLinks = nvml.NVLINK_MAX_LINKS

// NVLinkError names an error counter of a link (nvmlNvLinkErrorCounter_t).
type NVLinkError = nvml.NvLinkErrorCounter

// The errors that a link counts before NVLink 5.
const (
	NVLinkReplay   = nvml.NVLINK_ERROR_DL_REPLAY
	NVLinkRecovery = nvml.NVLINK_ERROR_DL_RECOVERY
	NVLinkCRCFlit  = nvml.NVLINK_ERROR_DL_CRC_FLIT
	NVLinkCRCData  = nvml.NVLINK_ERROR_DL_CRC_DATA
	NVLinkECCData  = nvml.NVLINK_ERROR_DL_ECC_DATA
)

// NVLinkActive reports whether a link is up (nvmlDeviceGetNvLinkState).
func (d Device) NVLinkActive(link int) (bool, error) {
	return getBy(d, "nvmlDeviceGetNvLinkState", link, func(h nvml.Device, link int) (bool, nvml.Return) {
		state, code := h.GetNvLinkState(link)
		return state == nvml.FEATURE_ENABLED, code
	})
}

// NVLinkErrors counts errors of a link since the driver was loaded
// (nvmlDeviceGetNvLinkErrorCounter; up to NVLink 4).
func (d Device) NVLinkErrors(link int, which NVLinkError) (uint64, error) {
	return getBy(d, "nvmlDeviceGetNvLinkErrorCounter", link, func(h nvml.Device, link int) (uint64, nvml.Return) {
		return h.GetNvLinkErrorCounter(link, which)
	})
}
