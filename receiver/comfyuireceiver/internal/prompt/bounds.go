// SPDX-License-Identifier: Apache-2.0

package prompt

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered].
func (t *Tracker) Bounds() []bounds.Bound {
	t.mu.Lock()
	defer t.mu.Unlock()
	limit := t.limits.Open
	return append(t.finished.Bounds(), []bounds.Bound{
		// Prompts about which messages came before their answers are counted beside those
		// whose requests are in flight.
		{Name: "prompt.Tracker.open", Max: 2 * limit, Size: len(t.open)},
		{Name: "prompt.Tracker.ofClient", Max: 2 * limit, Size: len(t.ofClient)},
		{Name: "prompt.Tracker.inFlightOf", Max: limit, Size: len(t.inFlightOf)},
		{Name: "prompt.Tracker.unanswered", Max: limit, Size: len(t.unanswered)},
	}...)
}

// Bounds lists what the ids are held in. Like the other methods, it needs the lock of who
// owns them.
func (r *Recent) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "prompt.Recent.known", Max: r.max, Size: len(r.known)},
		{Name: "prompt.Recent.ring", Max: r.max, Size: len(r.ring)},
	}
}
