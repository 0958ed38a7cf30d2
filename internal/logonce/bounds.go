// SPDX-License-Identifier: Apache-2.0

package logonce

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered].
func (t *Tracker) Bounds() []bounds.Bound {
	t.mu.Lock()
	defer t.mu.Unlock()
	return []bounds.Bound{{Name: "logonce.Tracker.states", Max: maxKeys, Size: len(t.states)}}
}
