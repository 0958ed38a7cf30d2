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
	if a.state != nil {
		all = append(all, a.state.Bounds()...)
	}
	if a.recommended != nil {
		all = append(all, a.recommended.Bounds()...)
	}
	a.running.Unlock()
	all = append(all, a.alerts.Bounds()...)
	all = append(all, a.repeats.Bounds()...)
	all = append(all, a.observed.Bounds()...)
	a.emitter.mu.Lock()
	defer a.emitter.mu.Unlock()
	return append(all,
		bounds.Bound{Name: "gpuadvisorconnector.emitter.emitted", Max: maxSeries, Size: len(a.emitter.emitted)},
		bounds.Bound{Name: "gpuadvisorconnector.emitter.counted", Max: maxCounted, Size: len(a.emitter.counted)},
	)
}

// maxCounted is how many kinds of things can be dropped.
const maxCounted = 32
