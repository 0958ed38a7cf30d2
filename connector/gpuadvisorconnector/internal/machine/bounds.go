// SPDX-License-Identifier: Apache-2.0

package machine

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered]; what each GPU or server has, for the one that has
// the most of it. The caller holds the lock of the machine.
func (m *Machine) Bounds() []bounds.Bound {
	var keys, points, processes, seconds int
	count := func(set *seriesSet) {
		for _, all := range set.series {
			keys = max(keys, len(all))
			for _, s := range all {
				points = max(points, len(s.points))
			}
		}
	}
	for _, g := range m.gpus {
		count(&g.seriesSet)
		processes, seconds = max(processes, len(g.processes)), max(seconds, len(g.history.slots[memoryColumn]))
	}
	for _, s := range m.servers {
		count(&s.seriesSet)
	}
	return []bounds.Bound{
		{Name: "machine.Machine.gpus", Max: m.limits.GPUs, Size: len(m.gpus)},
		{Name: "machine.Machine.servers", Max: m.limits.Servers, Size: len(m.servers)},
		{Name: "machine.Machine.events", Max: m.limits.Events, Size: len(m.events)},
		{Name: "machine.GPU.processes", Max: m.limits.Processes, Size: processes},
		{Name: "machine.seriesSet.series", Max: maxKeys, Size: keys},
		{Name: "machine.Series.points", Max: maxPoints, Size: points},
		{Name: "machine.history.slots", Max: int(m.limits.History.Seconds()), Size: seconds},
	}
}
