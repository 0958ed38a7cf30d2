// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"slices"
	"time"
)

// Level is how much a GPU has to do.
type Level string

// The levels. A level never refuses by itself.
const (
	Normal    Level = "normal"
	Busy      Level = "busy"
	Saturated Level = "saturated"
	Critical  Level = "critical"
	Unhealthy Level = "unhealthy"
)

// Levels lists them, the best first.
func Levels() []Level { return []Level{Normal, Busy, Saturated, Critical, Unhealthy} }

func (l Level) rank() int { return slices.Index(Levels(), l) }

// levelState is a GPU's level and when it changed.
type levelState struct {
	level Level
	since time.Time
}

const (
	// dwell is how long a level lasts at least.
	dwell = time.Minute
	// busyUse is the mean utilisation above which a GPU with something that waits is busy.
	busyUse = 0.8
	// The waits of the next prompt, in objectives, from which a GPU is saturated and critical; it
	// leaves the level at a part of them.
	saturatedFrom = 0.5
	criticalFrom  = 1.0
	leaves        = 0.7
)

// Load is a GPU's level, and what it is based on.
type Load struct {
	Level Level
	// Wait is how long a new image would wait: one of core work, behind all that it does not precede,
	// or one of batch work where that is more of its objective.
	Wait time.Duration
	// Shortage is by how many bytes its memory is too little for what it executed within the last
	// hour; 0 if that is not known.
	Shortage int64
}

// Load is a GPU's at a time. The time that a prompt would wait counts first, then memory and
// health.
func (e *Engine) Load(id string, now time.Time) Load {
	g := e.gpus[id]
	if g == nil {
		return Load{Level: Normal}
	}
	l := &g.level
	shortage := e.shortage(g, now)
	next, wait := e.levelNow(g, shortage, now, l.level)
	switch {
	case l.level == "":
		l.level, l.since = next, now
	case next == l.level:
	case next == Unhealthy, now.Sub(l.since) >= dwell:
		l.level, l.since = next, now
	}
	return Load{l.level, seconds(wait), shortage}
}

// levelNow is the level without its dwell, of a GPU with a shortage of memory, and the wait in seconds.
func (e *Engine) levelNow(g *gpu, shortage int64, now time.Time, was Level) (level Level, wait float64) {
	if g.memory.Unhealthy {
		return Unhealthy, 0
	}
	g.advance(now)
	waits := e.waitsOf(g)
	from := func(share float64, of Level) bool {
		if was.rank() >= of.rank() {
			share *= leaves
		}
		return waits.share > 0 && waits.share >= share
	}
	switch {
	case from(criticalFrom, Critical):
		return Critical, waits.wait
	case from(saturatedFrom, Saturated), shortage > 0:
		return Saturated, waits.wait
	case waits.queued && g.memory.Utilization > busyUse:
		return Busy, waits.wait
	}
	return Normal, waits.wait
}

// waits is how long new images would wait for a GPU.
type waits struct {
	// wait is the one, in seconds, that is most of its objective, share how much of it.
	wait, share float64
	// queued is true if something waits.
	queued bool
}

// waitsOf replays a GPU's queues. Batch work that core work overtakes counts against its own objective:
// a new image of core work does not wait for it.
func (e *Engine) waitsOf(g *gpu) (w waits) {
	e.fill(g)
	count := func(wait float64, objective time.Duration) {
		share := 0.0
		if objective > 0 {
			share = wait / objective.Seconds()
		}
		if share > w.share || share == w.share && wait > w.wait {
			w.wait, w.share = wait, share
		}
	}
	core := e.objective()
	for i, ends := range e.replay.Run(e.queues, e.busy) {
		s := g.servers[i]
		w.queued = w.queued || len(ends) > 1
		ahead := len(ends) - len(s.queue)
		for n := len(ends) - 1; n >= 0; n-- {
			if n < ahead || !s.queue[n-ahead].isOvertaken() {
				count(ends[n].At, core)
				break // those before it end before it
			}
			count(ends[n].At, e.class(s.queue[n-ahead].class).Objective)
		}
	}
	return w
}

// isOvertaken reports whether core work that comes later runs before a prompt that waits: not where the
// server orders its queue by itself.
func (j *job) isOvertaken() bool { return j.number >= batchNumber }

// objective is the shortest of core work; without one it is the default class's.
func (e *Engine) objective() time.Duration {
	shortest := time.Duration(0)
	for name, c := range e.settings.Classes {
		if e.isCore(name) && c.Objective > 0 && (shortest == 0 || c.Objective < shortest) {
			shortest = c.Objective
		}
	}
	if of := e.settings.Default; of.Core || !e.hasCore || shortest == 0 {
		if of.Objective > 0 && (shortest == 0 || of.Objective < shortest) {
			shortest = of.Objective
		}
	}
	return shortest
}
