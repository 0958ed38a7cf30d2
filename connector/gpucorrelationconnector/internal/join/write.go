// SPDX-License-Identifier: Apache-2.0

package join

import (
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// write sets a bill's figures on a span. Attributes that do not apply are omitted.
func (b *bill) write(a pcommon.Map) {
	whole := func(key string, v *float64) {
		if v != nil {
			a.PutInt(key, int64(*v))
		}
	}
	real := func(key string, v *float64) {
		if v != nil {
			a.PutDouble(key, *v)
		}
	}
	b.writeMemory(a)
	real("gpu.utilization.mean", b.meanUtilization)
	real("gpu.utilization.peak", b.peakUtilization)
	real("gpu.energy", b.energy)
	real("gpu.energy.marginal", b.marginal)
	b.energyBill.write(a)
	if b.marginal != nil {
		a.PutDouble("gpu.power.rest", b.rest)
		if b.restMemory > 0 {
			a.PutInt("gpu.power.rest.memory", int64(b.restMemory))
		}
	}
	a.PutDouble("gpu.time", b.gpuTime)
	whole("gpu.temperature.max", b.temperature)
	maxSeconds := 0.0
	for reason, seconds := range b.throttle {
		a.PutDouble("gpu.throttle.time."+reason, seconds)
		maxSeconds = max(maxSeconds, seconds)
	}
	if len(b.throttle) > 0 {
		a.PutDouble("gpu.throttle.time", maxSeconds) // reasons overlap: their sum would count time twice
	}
	a.PutInt("gpu.samples", int64(b.samples))
	a.PutDouble("gpu.samples.gap", b.gap.Seconds())
	if b.simulated {
		a.PutBool(semconv.Simulated, true)
	}
	if b.foreign > 0 {
		a.PutDouble("gpu.shared.process.time", b.foreign.Seconds())
	}
	if b.shared > 0 {
		a.PutBool("gpu.shared", true)
		a.PutDouble("gpu.shared.time", b.shared.Seconds())
		a.PutInt("gpu.shared.traces", int64(b.concurrent))
	}
}

// write says how far to trust a bill's energy.
func (b *energyBill) write(a pcommon.Map) {
	if b.reason != "" {
		a.PutStr("gpu.energy.reason", b.reason)
	}
	if b.noRest {
		a.PutStr("gpu.energy.marginal.reason", reasonNoRest)
	}
	if b.energy == nil {
		return
	}
	a.PutDouble("gpu.energy.uncertainty", b.uncertainty)
	a.PutStr("gpu.energy.method", b.method)
	a.PutStr("gpu.energy.division", b.division)
	if !b.measured {
		a.PutDouble("gpu.energy.gain.uncertainty", gainUncertainty)
	}
}
