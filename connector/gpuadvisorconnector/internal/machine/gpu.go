// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"cmp"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// GPU is a GPU or a MIG device.
type GPU struct {
	// ID is hw.id, Name hw.name: gpu0, or gpu0/mig1.
	ID, Name string
	// Model is its product name, Parent the hw.id of the GPU that a MIG device is on; empty
	// where they are not known.
	Model, Parent string
	Simulated     bool

	seriesSet
	processes map[int64]*process
	history   history
	// load is what an advisor says of it.
	load advice.Load
	// newest is the time of the newest sample, interval the time between the last two scrapes of
	// the receiver that emits everything.
	newest, interval int64
}

// process is a process that uses a GPU.
type process struct {
	name, pod string
	memory    int64
	at        int64
}

func newGPU(id string, length time.Duration) *GPU {
	return &GPU{ID: id, processes: map[int64]*process{}, history: newHistory(length)}
}

// add adds a point. It returns the reason for which it was dropped, if it was.
func (g *GPU) add(r *row, key string, at int64, value float64, stale bool, a pcommon.Map, maxProcesses int) (dropped string) {
	if r.of == processMemory {
		return g.addProcess(at, value, stale, a, maxProcesses)
	}
	if stale {
		g.end(r.of, key, at)
		return ""
	}
	g.describe(r, a)
	return g.put(r, key, at, value)
}

// describe reads what the attributes say of the GPU.
func (g *GPU) describe(r *row, a pcommon.Map) {
	if name := pdataread.Text(a, semconv.GPUName); name != "" {
		g.Name = boundtext.Line(name, maxText)
	}
	g.Simulated = g.Simulated || pdataread.True(a, semconv.Simulated)
	if r.of == description {
		g.Model = boundtext.Line(pdataread.Text(a, "hw.model"), maxText)
		g.Parent = boundtext.Line(pdataread.Text(a, "hw.parent"), maxText)
	}
}

// put adds a value to its series and to the history.
func (g *GPU) put(r *row, key string, at int64, value float64) (dropped string) {
	before := int64(0)
	if s := g.series[r.of][key]; s != nil {
		before = s.at
	}
	if dropped = g.seriesSet.put(r, key, at, value); dropped == droppedSeries {
		return dropped
	}
	g.newest = max(g.newest, at)
	late := dropped == isLate
	switch {
	case r.of == Power && key == "average" && g.series[Power]["instant"] != nil:
	case r.of == UtilizationMean && !late:
		// The mean covers the time since the scrape before.
		if from := max(before, at-Lookback.Nanoseconds()); before > 1 {
			g.history.fill(utilizationColumn, from, at, value)
		}
	case r.of == NVLinkState && value == 1:
		g.seriesSet.put(&nvlinkUp, key, at, value)
	case r.of == MemoryLimit && !late && before > 1:
		g.interval = at - before
	default:
		g.history.put(r.column, at, value, late)
	}
	return dropped
}

// addProcess adds a process's memory. At the bound a process that was not listed for a
// while makes room.
func (g *GPU) addProcess(at int64, value float64, stale bool, a pcommon.Map, limit int) (dropped string) {
	v, ok := a.Get(semconv.ProcessPID)
	if !ok || v.Type() != pcommon.ValueTypeInt {
		return ""
	}
	pid := v.Int()
	p := g.processes[pid]
	switch {
	case p != nil && at < p.at:
		return isLate
	case stale:
		delete(g.processes, pid)
		return ""
	case p == nil && len(g.processes) >= limit && !g.evictProcess(at-Lookback.Nanoseconds()):
		return droppedProcess
	case p == nil:
		p = &process{}
		g.processes[pid] = p
	}
	p.name = boundtext.Line(pdataread.Text(a, "process.executable.name"), maxText)
	p.pod = boundtext.Line(pdataread.Text(a, "k8s.pod.name"), maxText)
	p.memory, p.at = whole(value), at
	g.newest = max(g.newest, at)
	return ""
}

// forgetProcesses removes those that were not listed since a time: the marker of their end may
// have been lost.
func (g *GPU) forgetProcesses(before int64) {
	for pid, p := range g.processes {
		if p.at < before {
			delete(g.processes, pid)
		}
	}
}

// evictProcess removes a process that was not listed since a time.
func (g *GPU) evictProcess(before int64) bool {
	for pid, p := range g.processes {
		if p.at < before {
			delete(g.processes, pid)
			return true
		}
	}
	return false
}

// restart forgets the times of a clock that was set back.
func (g *GPU) restart() {
	g.seriesSet.restart()
	g.history.clear()
	g.newest = 0
	for _, p := range g.processes {
		p.at = 0
	}
}

// Newest is the time of the newest sample.
func (g *GPU) Newest() time.Time { return time.Unix(0, g.newest).UTC() }

// HasStopped reports whether the GPU's samples have stopped: none for two and a half scrapes,
// half a minute at least. Until two scrapes have shown how often there is one, none for as
// long as a value counts.
func (g *GPU) HasStopped(now time.Time) bool {
	limit := Lookback
	if g.interval > 0 {
		limit = max(30*time.Second, time.Duration(g.interval)*5/2)
	}
	return now.Sub(g.Newest()) > limit
}

// Condition is healthy, unresponsive or lost as the receiver observes it, or unknown if
// samples have stopped. A MIG device has no state of its own.
func (g *GPU) Condition(now time.Time) string {
	if g.HasStopped(now) {
		return Unknown
	}
	for state, s := range g.Each(State, now) {
		if s.value == 1 {
			return state
		}
	}
	return Healthy
}

// The conditions of GPUs.
const (
	Healthy      = "healthy"
	Unresponsive = "unresponsive"
	Lost         = "lost"
	Unknown      = "unknown"
)

// Label is the GPU's name for people.
func (g *GPU) Label() string { return cmp.Or(g.Name, g.ID) }
