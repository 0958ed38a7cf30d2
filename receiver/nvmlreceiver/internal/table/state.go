// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import "github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"

// Vendor is the vendor of all GPUs.
const Vendor = "NVIDIA"

// The metrics that the receiver itself knows the values of, beside the rows. They
// remain while a GPU is unresponsive or lost.
var (
	// Info is always 1; its attributes describe the device.
	Info = plain[int64]{&Metric{"hw.gpu.info", false, func(mb *builder, ts timestamp, on *Identity, s *Sample) {
		mb.RecordHwGpuInfoDataPoint(ts, s.integer, on.Driver, on.VBIOS, on.Architecture, on.BoardPart, on.CUDA, on.ComputeInstance, on.GPUInstance,
			on.MIG, on.Profile, on.NUMANode, on.PCIBusID, on.ID, on.Model, on.Name, on.Parent, on.Serial, Vendor)
	}}}
	// Responds is 1 if the GPU responded in time.
	Responds = newPlain(level, "hw.gpu.up", (*builder).RecordHwGpuUpDataPoint)
	// State is 1 for the condition that the GPU is in, as the scrape sees it.
	State = newWith1(level, "hw.gpu.state",
		func(mb *builder, ts timestamp, v int64, condition metadata.AttributeHwGpuCondition, id, name string) {
			mb.RecordHwGpuStateDataPoint(ts, v, condition, id, name)
		})
	// Status is 1 for the state that the GPU is in.
	Status = newWith1(level, "hw.status",
		func(mb *builder, ts timestamp, v int64, state metadata.AttributeHwState, id, name string) {
			mb.RecordHwStatusDataPoint(ts, v, id, name, state, metadata.AttributeHwTypeGpu)
		})
	// XIDErrors counts XIDs by their number.
	XIDErrors = newWithText(counter, "hw.gpu.xid.errors",
		func(mb *builder, ts timestamp, v int64, number string, _ noAttribute, id, name string) {
			mb.RecordHwGpuXidErrorsDataPoint(ts, v, number, id, name)
		})
	// LastXID is the number of the last XID; 0 if there was none.
	LastXID = newPlain(level, "hw.gpu.xid.last", (*builder).RecordHwGpuXidLastDataPoint)
	// Allocated is 1 for each container that the kubelet allocated the device to.
	Allocated = newWithProcess(level, "hw.gpu.allocated",
		func(mb *builder, ts timestamp, v int64, p *Process, _ noAttribute, id, name string) {
			mb.RecordHwGpuAllocatedDataPoint(ts, v, id, name, p.Container, p.Namespace, p.Pod)
		})
)

// noAttribute is the attribute of a metric that has none.
type noAttribute int
