// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// maxSide is the largest longer side that would be admitted now, in steps of 8 pixels; 0 if
// none is known, or only such as are below the least that is recommended. Of a prompt that can never fit
// it is the largest that does, and ends in time, while nothing else runs.
// Of batch that waits for other work no size would be.
func (e *Engine) maxSide(j *job, t *timing, m *memoryFit, reason admission.Reason) int {
	k := e.known(j)
	if k == nil || j.side <= 0 || reason == admission.BatchWaits || !m.never && (!t.known || t.others) {
		return 0
	}
	const unit = 8
	low, high := 0, j.side/unit
	for low < high {
		middle := (low + high + 1) / 2
		size := j.size
		size.Pixels = float64(middle*unit) * float64(middle*unit)
		if e.allowed(k, j, t, m, size) {
			low = middle
		} else {
			high = middle - 1
		}
	}
	if low*unit < e.settings.MinSide {
		return 0
	}
	return low * unit
}

// allowed reports whether a smaller size of a prompt would be admitted.
func (e *Engine) allowed(k *kind, j *job, t *timing, m *memoryFit, size fit.Size) bool {
	if !m.never {
		if !k.time.knows(size) || m.known && e.bound(k, size)+float64(m.context) > float64(m.room) {
			return false
		}
		mean, _ := k.time.model.Mean(size)
		return t.upper+(mean-t.mean)*t.slow <= t.left
	}
	all := j.server.available()
	if !k.memory.knows(size) || e.bound(k, size) > float64(all) || j.server.gpu.ranOut(j.kind, size, all) {
		return false
	}
	if !k.time.knows(size) { // of no size the time is known, or of this one it is not
		return !k.time.learned()
	}
	mean, _ := k.time.model.Mean(size)
	return mean <= t.left
}
