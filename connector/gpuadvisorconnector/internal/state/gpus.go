// SPDX-License-Identifier: Apache-2.0

package state

import (
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// GPUs are the GPUs as an advisor needs to know them.
func (st *Store) GPUs() []advice.GPU {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.catchUp()
	now := st.settings.Now()
	all := st.machine.GPUs()
	gpus := make([]advice.GPU, 0, len(all))
	for _, g := range all {
		gpus = append(gpus, st.machine.Advice(g, st.settings.BusyFor, now))
	}
	return gpus
}

// SetLoads records what the advisor says of the GPUs, by their ids.
func (st *Store) SetLoads(loads map[string]advice.Load) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.machine.SetLoads(loads)
}

// severities are those of the levels.
var severities = map[advice.Level]view.Severity{
	advice.Busy: view.Warning, advice.Saturated: view.Warning, advice.Critical: view.Broken, advice.Unhealthy: view.Broken,
}

// loadView is a GPU's level; nil of one that nothing is known of, or that has nothing to do.
func loadView(load advice.Load, l texts.Language) *view.Load {
	severity, ok := severities[load.Level]
	if !ok {
		return nil
	}
	key := string(load.Level)
	if load.Level == advice.Saturated && load.Shortage > 0 {
		key = "short"
	}
	m := texts.Message{Key: "load." + key, Args: texts.Args{"d": texts.Seconds(load.Wait)}}
	return &view.Load{Level: string(load.Level), Severity: severity, Wait: load.Wait.Seconds(), Text: m.In(l)}
}
