// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"slices"
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// instance is one MIG device of a GPU. Only the GPU's worker touches it.
type instance struct {
	*nvml.MIGInstance
	target
	// names stand on its points. They are replaced, never changed: series hold them.
	names  *names
	states []rowState
	// shared says that other MIG devices are in the same GPU instance.
	shared bool
	seen   bool
}

// findInstances brings the GPU's MIG devices up to date. It is asked at every
// scrape: devices come and go while the GPU stays, and their handles with them.
func (c *gpu) findInstances(device nvml.Device) error {
	for _, inst := range c.instances {
		inst.seen = false
	}
	err := c.enumerateInstances(device)
	c.instances = slices.DeleteFunc(c.instances, func(inst *instance) bool {
		if !inst.seen {
			inst.free()
		}
		return !inst.seen
	})
	for _, inst := range c.instances {
		inst.shared = slices.ContainsFunc(c.instances, func(other *instance) bool {
			return other != inst && other.GPUInstance == inst.GPUInstance
		})
	}
	return err
}

func (c *gpu) enumerateInstances(device nvml.Device) error {
	if c.names.MIG != nvml.MIGOn {
		return nil
	}
	places, err := device.MIGCount()
	if err != nil {
		return err
	}
	for i := range places {
		d, err := device.MIGDevice(i)
		switch {
		case nvml.IsNotFound(err):
			continue
		case nvml.IsInvalid(err), err != nil && nvml.KindOf(err) == nvml.NotSupported:
			return nil // no more places, or MIG was switched off just now
		case err != nil:
			return err
		}
		uuid, err := d.UUID()
		if nvml.IsNotFound(err) {
			continue // gone between two calls
		}
		if err != nil {
			return err
		}
		if err := c.take(d, uuid, i); err != nil && !nvml.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// take takes up one MIG device that is there.
func (c *gpu) take(d nvml.Device, uuid string, index int) error {
	at := slices.IndexFunc(c.instances, func(inst *instance) bool { return inst.UUID == uuid })
	if at < 0 {
		m, err := nvml.DescribeMIG(d, uuid, index)
		if err != nil {
			return err
		}
		c.instances = append(c.instances, &instance{MIGInstance: m, states: make([]rowState, len(c.rows))})
		at = len(c.instances) - 1
	}
	inst := c.instances[at]
	inst.Device, inst.Index, inst.seen = d, index, true
	name := c.names.name + "/mig" + strconv.Itoa(index)
	if inst.names == nil || inst.names.name != name || inst.names.driver != c.names.driver || inst.names.cuda != c.names.cuda || inst.names.parent != c.names.id {
		inst.names = &names{
			id: uuid, name: name, driver: c.names.driver, cuda: c.names.cuda,
			Identity: nvml.Identity{
				UUID: uuid, PCIBusID: c.names.PCIBusID, Model: c.names.Model, Architecture: c.names.Architecture,
				VBIOS: c.names.VBIOS, BoardPart: c.names.BoardPart, Serial: c.names.Serial, NUMANode: c.names.NUMANode,
			},
			mig: mig{
				parent: c.names.id, profile: inst.Profile,
				gpuInstance:     strconv.FormatUint(uint64(inst.GPUInstance), 10),
				computeInstance: strconv.FormatUint(uint64(inst.ComputeInstance), 10),
			},
		}
	}
	return nil
}

// instanceOf is the MIG device with these numbers, or nil.
func (s *sheet) instanceOf(gpuInstance, computeInstance uint32) *instance {
	for _, inst := range s.instances {
		if inst.GPUInstance == gpuInstance && inst.ComputeInstance == computeInstance {
			return inst
		}
	}
	return nil
}

// free gives back what NVML allocated.
func (t *target) free() {
	if t.gpm != nil {
		t.gpm.Free()
		t.gpm = nil
	}
}

// free gives back what NVML allocated for the GPU; it runs on the worker.
func (c *gpu) free() {
	c.own.free()
	for _, inst := range c.instances {
		inst.free()
	}
}
