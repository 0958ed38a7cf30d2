// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// Advice is what an advisor needs to know of a GPU: without memory where its limit or its use is
// unknown, so that the samples count as too old. Its utilisation is the mean over busyFor.
func (m *Machine) Advice(g *GPU, busyFor time.Duration, now time.Time) advice.GPU {
	a := advice.GPU{ID: g.ID, Product: g.Model, Utilization: -1}
	switch g.Condition(now) {
	case Lost, Unresponsive:
		a.Unhealthy = true
	}
	limit, known := g.Value(MemoryLimit, "", now)
	used, sampled := g.Value(MemoryUsed, "", now)
	if !known || !sampled {
		return a
	}
	reserved, _ := g.Value(MemoryReserved, "", now)
	a.Capacity, a.Used, a.At = whole(limit-reserved), whole(used), g.series[MemoryUsed][""].Time()
	if len(g.processes) > 0 {
		a.Processes = make(map[int]int64, len(g.processes))
		for pid, p := range g.processes {
			a.Processes[int(pid)] = p.memory
			if at := time.Unix(0, p.at); at.After(a.Listed) {
				a.Listed = at
			}
		}
	}
	sum, seconds := 0.0, 0.0
	for second := now.Unix() - int64(busyFor.Seconds()); second < now.Unix(); second++ {
		if v, ok := g.history.at(utilizationColumn, second); ok {
			sum, seconds = sum+v, seconds+1
		}
	}
	if seconds >= busyFor.Seconds()/2 {
		a.Utilization = sum / seconds
	}
	return a
}

// SetLoads records what an advisor says of the GPUs, by their ids.
func (m *Machine) SetLoads(loads map[string]advice.Load) {
	for id, g := range m.gpus {
		g.load = loads[id]
	}
}

// Load is what an advisor says of the GPU; the zero value if there is none.
func (g *GPU) Load() advice.Load { return g.load }
