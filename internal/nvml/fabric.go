// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"

// SRAMThresholdExceeded reports whether the GPU has had more uncorrected SRAM errors than
// NVIDIA tolerates: its criterion for replacing a GPU (nvmlDeviceGetSramEccErrorStatus;
// Ampere and newer with ECC).
func (d Device) SRAMThresholdExceeded() (bool, error) {
	status, err := get(d, "nvmlDeviceGetSramEccErrorStatus", gonvml.Device.GetSramEccErrorStatus)
	return status.BThresholdExceeded != 0, err
}

// Fabric is how a GPU is registered with the NVLink fabric of its machine.
type Fabric struct {
	// State is one of nvmlGpuFabricState_t.
	State uint8
	// health holds the conditions, in 2 bits each.
	health uint32
}

// The states of a GPU's registration.
const (
	FabricNotSupported = gonvml.GPU_FABRIC_STATE_NOT_SUPPORTED
	FabricNotStarted   = gonvml.GPU_FABRIC_STATE_NOT_STARTED
	FabricInProgress   = gonvml.GPU_FABRIC_STATE_IN_PROGRESS
	FabricCompleted    = gonvml.GPU_FABRIC_STATE_COMPLETED
)

// FabricCondition names a condition, by its place in the mask of the health.
type FabricCondition uint

// The conditions of a fabric.
const (
	FabricDegradedBandwidth FabricCondition = gonvml.GPU_FABRIC_HEALTH_MASK_SHIFT_DEGRADED_BW
	FabricRouteRecovery     FabricCondition = gonvml.GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_RECOVERY
	FabricRouteUnhealthy    FabricCondition = gonvml.GPU_FABRIC_HEALTH_MASK_SHIFT_ROUTE_UNHEALTHY
	FabricAccessTimeout     FabricCondition = gonvml.GPU_FABRIC_HEALTH_MASK_SHIFT_ACCESS_TIMEOUT_RECOVERY
	FabricMisconfigured     FabricCondition = gonvml.GPU_FABRIC_HEALTH_MASK_SHIFT_INCORRECT_CONFIGURATION
)

// Has reports whether a condition holds; known is false if the GPU does not say.
func (f *Fabric) Has(c FabricCondition) (holds, known bool) {
	if c == FabricMisconfigured { // the cause, or 1 if there is none
		cause := f.health >> c & 0xf
		return cause > 1, cause != 0
	}
	answer := f.health >> c & 3
	return answer == 1, answer == 1 || answer == 2
}

// Fabric is the GPU's registration (nvmlDeviceGetGpuFabricInfoV; Hopper and newer behind an
// NVSwitch).
func (d Device) Fabric() (Fabric, error) {
	info, err := get(d, "nvmlDeviceGetGpuFabricInfoV", func(h gonvml.Device) (gonvml.GpuFabricInfo_v2, gonvml.Return) {
		return h.GetGpuFabricInfoV().V2()
	})
	if err == nil && info.State == FabricNotSupported {
		err = ErrNotSupported("nvmlDeviceGetGpuFabricInfoV")
	}
	return Fabric{State: info.State, health: info.HealthMask}, err
}
