// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"

// Device is a handle of one GPU. Its methods are NVML's functions, each looked
// up before it is called, their errors of type [*Error]. Units are NVML's own.
type Device struct {
	lib    *Library
	handle gonvml.Device
	// listed is where the GPU's last list of processes is kept; nil where it is not.
	listed *processList
	// calls is the worker's that the handle is used on; nil where nothing watches it.
	calls *calls
	// recent are the GPU's last answers, by is who asks; nil where none are shared.
	recent *recent
	by     *Asker
}

// The types of NVML that readings use.
type (
	// Memory is in bytes; Reserved is known from driver 510 on.
	Memory struct {
		Total, Reserved, Used, Free uint64
		old                         bool // from a driver that counts the reserve as used
	}
	// Utilization is in percent of the last sampling period.
	Utilization = gonvml.Utilization
	// FieldValue is one value of nvmlDeviceGetFieldValues.
	FieldValue = gonvml.FieldValue
	// PowerRange is in mW.
	PowerRange struct{ Min, Max uint32 }
)

// ClockDomain names a clock (nvmlClockType_t).
type ClockDomain = gonvml.ClockType

// The clocks of a GPU.
const (
	ClockGraphics = gonvml.CLOCK_GRAPHICS
	ClockSM       = gonvml.CLOCK_SM
	ClockMemory   = gonvml.CLOCK_MEM
	ClockVideo    = gonvml.CLOCK_VIDEO
)

// TemperatureLimitType names a limit (nvmlTemperatureThresholds_t).
type TemperatureLimitType = gonvml.TemperatureThresholds

// The temperature limits that are recorded.
const (
	TemperatureShutdown  = gonvml.TEMPERATURE_THRESHOLD_SHUTDOWN
	TemperatureSlowdown  = gonvml.TEMPERATURE_THRESHOLD_SLOWDOWN
	TemperatureMemoryMax = gonvml.TEMPERATURE_THRESHOLD_MEM_MAX
	TemperatureGPUMax    = gonvml.TEMPERATURE_THRESHOLD_GPU_MAX
)

// Policy names a counter of nvmlDeviceGetViolationStatus.
type Policy = gonvml.PerfPolicyType

// The policies that hold clocks down.
const (
	PolicyPower     = gonvml.PERF_POLICY_POWER
	PolicyThermal   = gonvml.PERF_POLICY_THERMAL
	PolicySyncBoost = gonvml.PERF_POLICY_SYNC_BOOST
)

// EccCounter names one counter of nvmlDeviceGetMemoryErrorCounter.
type EccCounter struct {
	Uncorrected, Aggregate, DRAM bool
}

// get makes a call on the GPU.
func get[T any](d Device, function string, call func(gonvml.Device) (T, gonvml.Return)) (T, error) {
	d.calls.begin(function)
	defer d.calls.end()
	return ask(d.lib, function, d.handle, call)
}

// getFirst makes a call that has two answers, and returns the first.
func getFirst[T, U any](d Device, function string, call func(gonvml.Device) (T, U, gonvml.Return)) (T, error) {
	return get(d, function, func(h gonvml.Device) (T, gonvml.Return) {
		v, _, code := call(h)
		return v, code
	})
}

// getBy makes a call with an argument.
func getBy[T, A any](d Device, function string, argument A, call func(gonvml.Device, A) (T, gonvml.Return)) (T, error) {
	if !d.lib.Has(function) {
		var none T
		return none, result(function, codeMissing)
	}
	d.calls.begin(function)
	defer d.calls.end()
	v, code := call(d.handle, argument)
	return v, result(function, code)
}

// UUID is the GPU's own name (nvmlDeviceGetUUID).
func (d Device) UUID() (string, error) { return get(d, "nvmlDeviceGetUUID", gonvml.Device.GetUUID) }

// Name is the product's name (nvmlDeviceGetName).
func (d Device) Name() (string, error) { return get(d, "nvmlDeviceGetName", gonvml.Device.GetName) }

// Serial is the serial number (nvmlDeviceGetSerial), on data-centre GPUs.
func (d Device) Serial() (string, error) {
	return get(d, "nvmlDeviceGetSerial", gonvml.Device.GetSerial)
}

// VbiosVersion is the VBIOS's version (nvmlDeviceGetVbiosVersion).
func (d Device) VbiosVersion() (string, error) {
	return get(d, "nvmlDeviceGetVbiosVersion", gonvml.Device.GetVbiosVersion)
}

// BoardPartNumber is the board's part number (nvmlDeviceGetBoardPartNumber).
func (d Device) BoardPartNumber() (string, error) {
	return get(d, "nvmlDeviceGetBoardPartNumber", gonvml.Device.GetBoardPartNumber)
}

// MinorNumber is the number of the GPU's device file (nvmlDeviceGetMinorNumber).
func (d Device) MinorNumber() (int, error) {
	return get(d, "nvmlDeviceGetMinorNumber", gonvml.Device.GetMinorNumber)
}

// PCIBusID is the PCI address, such as 00000000:01:00.0 (nvmlDeviceGetPciInfo_v3).
func (d Device) PCIBusID() (string, error) {
	info, err := get(d, "nvmlDeviceGetPciInfo_v3|nvmlDeviceGetPciInfo_v2|nvmlDeviceGetPciInfo", gonvml.Device.GetPciInfo)
	if err != nil {
		return "", err
	}
	return cString(info.BusId[:]), nil
}

// Architecture is the chip's generation (nvmlDeviceGetArchitecture).
func (d Device) Architecture() (string, error) {
	a, err := get(d, "nvmlDeviceGetArchitecture", gonvml.Device.GetArchitecture)
	if err != nil || int(a) >= len(architectures) {
		return "", err
	}
	return architectures[a], nil
}

// architectures are in the order of their numbers (nvmlDeviceArchitecture_t).
var architectures = [...]string{
	gonvml.DEVICE_ARCH_KEPLER: "Kepler", "Maxwell", "Pascal", "Volta", "Turing", "Ampere", "Ada Lovelace", "Hopper", "Blackwell",
}

// MIGEnabled reports whether the GPU is divided (nvmlDeviceGetMigMode).
func (d Device) MIGEnabled() (bool, error) {
	mode, err := getFirst(d, "nvmlDeviceGetMigMode", gonvml.Device.GetMigMode)
	return mode == gonvml.DEVICE_MIG_ENABLE, err
}

func cString(b []int8) string {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c == 0 {
			break
		}
		out = append(out, byte(c))
	}
	return string(out)
}
