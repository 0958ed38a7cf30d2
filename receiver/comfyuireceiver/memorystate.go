// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"maps"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
)

// memoryState is what the last answer says, for a scrape.
type memoryState struct {
	*memoryAnswer
	// Pointers are nil where it is unknown. They are of the only device.
	outside, context, elastic *float64
	needs                     map[memory.Class]float64
}

// state is what is known of the server's memory; ok is false before the first answer.
func (m *memoryWatcher) state() (s memoryState, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s = memoryState{memoryAnswer: m.last, needs: maps.Collect(m.needs.Learned())}
	if m.last == nil {
		return s, false
	}
	if len(m.last.Devices) == 1 {
		s.outside = pointer(m.outside.Seen())
		s.context = pointer(m.outside.Context())
		if m.last.Dynamic() {
			s.elastic = pointer(m.outside.Elastic())
		}
	}
	return s, true
}

func pointer(v float64, ok bool) *float64 {
	if !ok {
		return nil
	}
	return &v
}

// Bounds implements [bounds.Registered].
func (m *memoryWatcher) Bounds() []bounds.Bound {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append(bounds.Of(&m.history, m.needs), []bounds.Bound{
		{Name: "comfyuireceiver.memoryWatcher.ending", Max: maxEndingPrompts, Size: len(m.ending)},
	}...)
}
