// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered].
func (a *advisor) Bounds() []bounds.Bound {
	var all []bounds.Bound
	a.running.Lock()
	if a.page != nil {
		all = a.page.Bounds()
	}
	a.running.Unlock()
	all = append(all, a.alerts.Bounds()...)
	all = append(all, a.sampled.Bounds()...)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.machine != nil {
		all = append(all, a.machine.Bounds()...)
	}
	return append(append(all, append(a.prompts.Bounds(), a.engine.Bounds()...)...),
		bounds.Bound{Name: "gpuadvisorconnector.emitter.emitted", Max: maxSeries, Size: len(a.emitter.emitted)},
		bounds.Bound{Name: "gpuadvisorconnector.emitter.counted", Max: maxCounted, Size: len(a.emitter.counted)},
	)
}

// maxCounted is how many kinds of things can be dropped.
const maxCounted = 32
