// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package gpuadvisorconnector

import "github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"

// followMemory receives what the samplers of the process read of GPUs' memory between two
// scrapes: not one call more, and the page is up to date.
func (a *advisor) followMemory() (cancel func()) {
	return gpuevents.OfProcess().Memory.Subscribe(func(r gpuevents.MemoryReading) {
		a.advice.MemoryRead(r.ID, int64(min(r.Used, 1<<62)), r.Time)
		a.state.MemoryRead(r.ID, int64(min(r.Used, 1<<62)), r.Time)
	})
}
