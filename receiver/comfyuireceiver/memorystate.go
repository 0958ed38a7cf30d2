// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"maps"

	"go.opentelemetry.io/otel/attribute"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// memoryState is what the last answer says, for a scrape.
type memoryState struct {
	*memoryAnswer
	// Pointers are nil where it is unknown. They are of the only device.
	outside, context, elastic *float64
	needs                     map[memory.Class]float64
	// wasElastic are the attributes of the elastic memory in the scrape before; empty if it
	// had none.
	wasElastic attribute.Set
}

// state is what is known of the server's memory; ok is false before the first answer.
func (m *memoryWatcher) state() (s memoryState, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s = memoryState{memoryAnswer: m.last, needs: maps.Collect(m.needs.Learned()), wasElastic: m.elasticOf}
	if m.last == nil {
		return s, false
	}
	if len(m.last.Devices) == 1 {
		s.outside = pointer(m.outside.Seen())
		s.context = pointer(m.outside.Context())
		if m.last.Dynamic() {
			s.elastic = m.elastic()
		}
	}
	return s, true
}

// elastic is what can be evicted, by the last answer that was compared with a list of
// processes, but not more than the process holds by the newest list: after /free, or once the
// process has ended, the answer is too old, and others may have filled the GPU. The caller
// holds the lock.
func (m *memoryWatcher) elastic() *float64 {
	bytes, ok := m.outside.Elastic()
	if !ok {
		return nil
	}
	held, _, _ := m.device.memory() // 0 if the list does not have it
	bytes = min(bytes, m.outside.MaxElastic(float64(held)))
	return &bytes
}

// describe sets what the last answer says of the server. A nil watcher sets nothing.
func (m *memoryWatcher) describe(s *comfyevents.Server) {
	if m == nil {
		return
	}
	state, ok := m.state()
	if !ok {
		return
	}
	a := state.memoryAnswer
	s.Version, s.Arguments = a.Version, a.Arguments
	s.Memory = comfyevents.Memory{At: a.at, Dynamic: a.Dynamic()}
	for i := range a.Devices {
		if d := &a.Devices[i]; d.IsGPU() {
			s.Memory.Active += int64(d.Active())
			s.Memory.Reserved += int64(d.TorchTotal)
		}
	}
	if state.context != nil {
		s.Memory.Context = int64(*state.context)
	}
	if state.elastic != nil {
		s.Memory.Elastic = int64(*state.elastic)
	}
}

// emittedElastic records the attributes of the elastic memory in this scrape.
func (m *memoryWatcher) emittedElastic(of attribute.Set) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.elasticOf = of
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
		{Name: "comfyuireceiver.memoryWatcher.retries", Max: protocol.MaxRetries, Size: len(m.retries)},
	}...)
}
