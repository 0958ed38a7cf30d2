// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"strings"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// MIGInstance is one MIG device: a compute instance within a GPU instance.
type MIGInstance struct {
	// UUID is MIG-<own UUID>, with older drivers MIG-GPU-<parent's>/<gi>/<ci>.
	UUID string
	// Index is its place among the GPU's MIG devices.
	Index int
	// GPUInstance and ComputeInstance are its numbers on the GPU.
	GPUInstance, ComputeInstance uint32
	// Profile is such as 3g.40gb, or 1c.3g.40gb where it shares its GPU instance.
	Profile string
	Device  Device
}

// MaxMIG bounds the places that are read.
const MaxMIG = 32

// MIGCount is how many MIG devices the GPU can have at most
// (nvmlDeviceGetMaxMigDeviceCount).
func (d Device) MIGCount() (int, error) {
	n, err := get(d, "nvmlDeviceGetMaxMigDeviceCount", gonvml.Device.GetMaxMigDeviceCount)
	return min(n, MaxMIG), err
}

// MIGDevice is the MIG device at a place; not found where there is none
// (nvmlDeviceGetMigDeviceHandleByIndex).
func (d Device) MIGDevice(index int) (Device, error) {
	h, err := getBy(d, "nvmlDeviceGetMigDeviceHandleByIndex", index, gonvml.Device.GetMigDeviceHandleByIndex)
	return Device{lib: d.lib, handle: h, calls: d.calls}, err
}

// On is the MIG device for calls on the worker that gpu is read on.
func (m *MIGInstance) On(gpu Device) Device {
	d := m.Device
	d.calls = gpu.calls
	return d
}

// DescribeMIG reads what a MIG device is.
func DescribeMIG(d Device, uuid string, index int) (*MIGInstance, error) {
	m := &MIGInstance{UUID: uuid, Index: index, Device: d}
	gi, err := get(d, "nvmlDeviceGetGpuInstanceId", gonvml.Device.GetGpuInstanceId)
	if err != nil {
		return nil, err
	}
	ci, err := get(d, "nvmlDeviceGetComputeInstanceId", gonvml.Device.GetComputeInstanceId)
	if err != nil {
		return nil, err
	}
	m.GPUInstance, m.ComputeInstance = uint32(gi), uint32(ci)
	name, _ := d.Name()
	m.Profile = migProfile(name)
	return m, nil
}

// MIGUUID is the UUID of the MIG device with these numbers on a GPU; empty where
// there is none.
func MIGUUID(gpu Device, gpuInstance, computeInstance uint32) string {
	places, err := gpu.MIGCount()
	if err != nil {
		return ""
	}
	for i := range places {
		d, err := gpu.MIGDevice(i)
		if err != nil {
			continue
		}
		uuid, err := d.UUID()
		if err != nil {
			continue
		}
		if m, err := DescribeMIG(d, uuid, i); err == nil && m.GPUInstance == gpuInstance && m.ComputeInstance == computeInstance {
			return uuid
		}
	}
	return ""
}

// migProfile is the last word of a MIG device's name, such as
// "NVIDIA H100 80GB HBM3 MIG 1g.10gb".
func migProfile(name string) string {
	_, profile, _ := strings.Cut(name, " MIG ")
	return profile
}
