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
	// Wait is until all that runs and waits on the GPU has ended.
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
	e.fill(g)
	waits := false
	for _, q := range e.replay.Run(e.queues, e.busy) {
		if len(q) > 0 {
			wait = max(wait, q[len(q)-1].At)
		}
		waits = waits || len(q) > 1
	}
	objective := e.objective()
	from := func(share float64, of Level) bool {
		if was.rank() >= of.rank() {
			share *= leaves
		}
		return objective > 0 && wait >= share*objective.Seconds()
	}
	switch {
	case from(criticalFrom, Critical):
		return Critical, wait
	case from(saturatedFrom, Saturated), shortage > 0:
		return Saturated, wait
	case waits && g.memory.Utilization > busyUse:
		return Busy, wait
	}
	return Normal, wait
}

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
