// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// minShare is the share of the last minute from which throttling is shown.
const minShare = 0.001

// maxAmount bounds bytes and counts: what is more is not one.
const maxAmount = 1 << 60

// whole is an amount as an integer.
func whole(v float64) int64 { return int64(min(max(v, 0), maxAmount)) }

// View is what metrics say of a GPU now. Its severity, its status and the prompts that run
// on it are for others to fill.
func (m *Machine) View(g *GPU, l texts.Language, now time.Time) view.GPU {
	v := view.GPU{
		ID: g.ID, Name: g.Label(), Model: g.Model, State: g.Condition(now), Simulated: g.Simulated, Newest: g.Newest(),
		Memory: m.memory(g, now), Temperature: g.temperature(now), Power: g.power(now), Throttling: g.throttling(l, now), Processes: m.processes(g),
	}
	for _, of := range [...]Quantity{UtilizationMean, Utilization} {
		if s := g.Series(of, "", now); s != nil {
			u := s.value
			v.Utilization = &u
		}
	}
	if g.series[Utilization] != nil || g.series[UtilizationMean] != nil {
		v.Recent = g.history.recent(now)
	}
	return v
}

// memory divides a GPU's memory into its parts; nil where it is not known.
func (m *Machine) memory(g *GPU, now time.Time) *view.Memory {
	limit, known := g.Value(MemoryLimit, "", now)
	used, sampled := g.Value(MemoryUsed, "", now)
	if !known || !sampled || limit <= 0 {
		return nil
	}
	reserved, _ := g.Value(MemoryReserved, "", now)
	limit = min(limit, maxAmount)
	used = min(max(used, 0), limit)
	held := min(m.heldByServers(g, now), used)
	elastic := min(max(m.Elastic(g.ID, now), 0), used)
	held = max(held, elastic)
	v := &view.Memory{Limit: int64(limit), Used: int64(used), Needed: int64(held - elastic), Elastic: int64(elastic), Free: int64(max(limit-used-reserved, 0))}
	v.Other = v.Limit - v.Needed - v.Elastic - v.Free
	peak, when := g.history.peak(now)
	v.Peak, v.PeakTime = int64(min(peak, limit)), when
	if float64(v.Peak-v.Used) < used*1e-7 { // the history has fewer digits
		v.Peak, v.PeakTime = v.Used, g.series[MemoryUsed][""].Time().UTC()
	}
	return v
}

// heldByServers is what the processes of ComfyUI servers hold of a GPU.
func (m *Machine) heldByServers(g *GPU, now time.Time) (sum float64) {
	for _, s := range m.servers {
		sum += m.HeldBy(s, g, now)
	}
	return sum
}

// HeldBy is what the process of a ComfyUI server holds of a GPU: by NVML's list of processes,
// or where the server's process is not known by what the server says of itself.
func (*Machine) HeldBy(s *Server, g *GPU, now time.Time) float64 {
	if p := g.processes[s.pid]; p != nil && s.pid != 0 {
		return float64(p.memory)
	}
	torch, _ := s.Value(TorchMemory, g.ID, now)
	outside, _ := s.Value(OutsideMemory, g.ID, now)
	return max(torch, 0) + max(outside, 0)
}

// temperature is a GPU's temperature with the one at which its clocks are held down, which
// newer GPUs report as a margin.
func (g *GPU) temperature(now time.Time) *view.Temperature {
	value, ok := g.Value(Temperature, "", now)
	if !ok {
		return nil
	}
	v := &view.Temperature{Value: value}
	if limit, ok := g.Value(TemperatureLimit, "", now); ok {
		v.Limit = &limit
	} else if margin, ok := g.Value(TemperatureMargin, "", now); ok {
		limit := value + margin
		v.Limit = &limit
	}
	return v
}

func (g *GPU) power(now time.Time) *view.Power {
	for _, scope := range [...]string{"instant", "average", ""} {
		if value, ok := g.Value(Power, scope, now); ok {
			v := &view.Power{Value: value}
			if limit, ok := g.Value(PowerLimit, "", now); ok {
				v.Limit = &limit
			}
			return v
		}
	}
	return nil
}

// throttling are the reasons for which clocks were held down in the last minute, the largest
// share first; nil where no metric says so.
func (g *GPU) throttling(l texts.Language, now time.Time) []view.Throttling {
	if g.series[ThrottleTime] == nil {
		return nil
	}
	all := []view.Throttling{}
	for reason, s := range g.Each(ThrottleTime, now) {
		share, ok := s.Rate(time.Minute, now)
		if share = math.Min(share, 1); !ok || share < minShare {
			continue
		}
		all = append(all, view.Throttling{Reason: reason, Text: ThrottleReason(reason).In(l), Share: rounded(share, 1e3)})
	}
	slices.SortFunc(all, func(a, b view.Throttling) int {
		return cmp.Or(cmp.Compare(b.Share, a.Share), cmp.Compare(a.Reason, b.Reason))
	})
	return all
}

// throttleReasons are the reasons that the catalogue of texts knows.
var throttleReasons = []string{"sw_power_cap", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake"}

// ThrottleReason is a reason in words: those that the sentences about prompts have.
func ThrottleReason(reason string) texts.Message {
	if slices.Contains(throttleReasons, reason) {
		return texts.Message{Key: "prompt.throttle." + reason}
	}
	return texts.Message{Key: "prompt.throttle.other", Args: texts.Args{"reason": reason}}
}

// Largest is the process that holds the most memory of a GPU and is not a ComfyUI server; ok
// is false if none is known.
func (m *Machine) Largest(g *GPU) (p view.Process, ok bool) {
	for _, p := range m.processes(g) {
		if p.Server == "" {
			return p, true
		}
	}
	return p, false
}

// processes are those that use a GPU, the largest first.
func (m *Machine) processes(g *GPU) []view.Process {
	all := make([]view.Process, 0, len(g.processes))
	for _, pid := range slices.Sorted(maps.Keys(g.processes)) {
		p := g.processes[pid]
		all = append(all, view.Process{PID: pid, Name: p.name, Pod: p.pod, Memory: p.memory, Server: m.serverOf(pid)})
	}
	slices.SortStableFunc(all, func(a, b view.Process) int { return cmp.Compare(b.Memory, a.Memory) })
	return all
}

// History is a GPU's last half hour; false for a GPU that is not known.
func (m *Machine) History(gpu string, now time.Time) (view.History, bool) {
	g := m.gpus[gpu]
	if g == nil {
		return view.History{}, false
	}
	return g.history.view(gpu, now), true
}

// ServerView is what metrics say of a ComfyUI server now.
func (m *Machine) ServerView(s *Server, now time.Time) view.Server {
	v := view.Server{Name: s.Name, GPUs: m.gpusOf(s, now)}
	v.IsUp, _ = s.IsUp(now)
	running, _ := s.Value(QueueLength, "running", now)
	waiting, _ := s.Value(QueueLength, "pending", now)
	open, _ := s.Sum(Sockets, now)
	v.Running, v.Waiting, v.SocketsOpen = int(whole(running)), int(whole(waiting)), int(whole(open))
	v.OldestWait, _ = s.Value(OldestWait, "", now)
	return v
}
