// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package reader

import (
	"slices"
	"strconv"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// instance is one MIG device of the worker's GPU.
type instance struct {
	table.Instance
	rows rowStates
	seen bool
}

// findInstances brings the list of MIG devices up to date. It runs in every pass: MIG
// devices come and go while the GPU stays, and their handles with them.
func (w *worker) findInstances(gpu nvml.Device) error {
	for _, inst := range w.instances {
		inst.seen = false
	}
	err := w.enumerateInstances(gpu)
	w.instances = slices.DeleteFunc(w.instances, func(inst *instance) bool {
		if !inst.seen {
			inst.Free()
		}
		return !inst.seen
	})
	w.out.Instances = w.out.Instances[:0]
	for _, inst := range w.instances {
		inst.SharesInstance = slices.ContainsFunc(w.instances, func(other *instance) bool {
			return other != inst && other.GPUInstance == inst.GPUInstance
		})
		w.out.Instances = append(w.out.Instances, &inst.Instance)
	}
	return err
}

func (w *worker) enumerateInstances(gpu nvml.Device) error {
	if w.identity.MIG != nvml.MIGOn {
		return nil
	}
	places, err := gpu.MIGCount()
	if err != nil {
		return err
	}
	for i := range places {
		d, err := gpu.MIGDevice(i)
		switch {
		case nvml.IsNotFound(err):
			continue
		case nvml.IsInvalid(err), nvml.KindOf(err) == nvml.NotSupported:
			return nil // no more places, or MIG was switched off a moment ago
		case err != nil:
			return err
		}
		uuid, err := d.UUID()
		if err == nil {
			err = w.adopt(d, uuid, i)
		}
		if err != nil && !nvml.IsNotFound(err) { // not found: destroyed between two calls
			return err
		}
	}
	return nil
}

// adopt adds a MIG device, or updates the one that is known.
func (w *worker) adopt(d nvml.Device, uuid string, index int) error {
	at := slices.IndexFunc(w.instances, func(inst *instance) bool { return inst.UUID == uuid })
	if at < 0 {
		m, err := nvml.DescribeMIG(d, uuid, index)
		if err != nil {
			return err
		}
		at = len(w.instances)
		w.instances = append(w.instances, &instance{Instance: table.Instance{MIGInstance: m}, rows: newRowStates(len(w.Rows))})
	}
	inst := w.instances[at]
	inst.MIGInstance.Device, inst.Index, inst.seen = d, index, true
	identity := w.identity // the GPU's, but for what a MIG device has of its own
	identity.ID, identity.UUID, identity.Parent = uuid, uuid, w.identity.ID
	identity.Name += "/mig" + strconv.Itoa(index)
	identity.Index, identity.Minor, identity.MIG = 0, 0, ""
	identity.Profile = inst.Profile
	identity.GPUInstance = strconv.FormatUint(uint64(inst.GPUInstance), 10)
	identity.ComputeInstance = strconv.FormatUint(uint64(inst.ComputeInstance), 10)
	if inst.Identity == nil || *inst.Identity != identity {
		replacement := identity
		inst.Identity = &replacement
	}
	return nil
}
