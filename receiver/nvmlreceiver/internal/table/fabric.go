// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

var (
	fabricState     = newWith1(level, "hw.gpu.fabric.state", (*builder).RecordHwGpuFabricStateDataPoint)
	fabricCondition = newWith1(level, "hw.gpu.fabric.condition", (*builder).RecordHwGpuFabricConditionDataPoint)
)

var fabricStates = [...]struct {
	state uint8
	label metadata.AttributeHwGpuFabricState
}{
	{nvml.FabricNotStarted, metadata.AttributeHwGpuFabricStateNotStarted},
	{nvml.FabricInProgress, metadata.AttributeHwGpuFabricStateInProgress},
	{nvml.FabricCompleted, metadata.AttributeHwGpuFabricStateCompleted},
}

var fabricConditions = [...]struct {
	condition nvml.FabricCondition
	label     metadata.AttributeHwGpuFabricCondition
}{
	{nvml.FabricDegradedBandwidth, metadata.AttributeHwGpuFabricConditionDegradedBandwidth},
	{nvml.FabricRouteRecovery, metadata.AttributeHwGpuFabricConditionRouteRecovery},
	{nvml.FabricRouteUnhealthy, metadata.AttributeHwGpuFabricConditionRouteUnhealthy},
	{nvml.FabricAccessTimeout, metadata.AttributeHwGpuFabricConditionAccessTimeout},
	{nvml.FabricMisconfigured, metadata.AttributeHwGpuFabricConditionMisconfigured},
}

// fabricRows report the NVLink fabric behind an NVSwitch.
func fabricRows() []Row {
	return []Row{{
		Name: "fabric", Every: linkInterval, metrics: []*Metric{fabricState.Metric, fabricCondition.Metric},
		read: func(d nvml.Device, out *Output) error {
			f, err := d.Fabric()
			if err != nil {
				return err
			}
			for _, s := range fabricStates {
				out.put(fabricState.Of(Flag(f.State == s.state), s.label))
			}
			for _, c := range fabricConditions {
				holds, known := f.Has(c.condition)
				out.putIf(known, fabricCondition.Of(Flag(holds), c.label))
			}
			return nil
		},
	}}
}
