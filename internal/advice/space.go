// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"cmp"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// space is what a GPU has for a server's prompts, in bytes.
type space struct {
	// room is what the others leave, held what the server's process has of it already, weights that it
	// evicts included; foreign is what other programs hold.
	room, held, foreign int64
	// evictable are weights that neighbours which work evict for their own prompts, and nobody else's.
	evictable int64
	// idle is what all idle neighbours together give back if they are asked to; free is the next one
	// to ask, empty if none has anything to give. working is true if a neighbour works.
	idle    int64
	free    string
	working bool
}

// spaceFor is what a server's GPU has for its prompts at a time.
func (e *Engine) spaceFor(s *server, now time.Time) (a space) {
	g := s.gpu
	// Others hold what the driver says, and what they are about to need.
	a.foreign = g.memory.Used
	for _, o := range g.servers {
		all, _ := o.holds()
		a.foreign -= all
	}
	given := g.gaveBack(max(-a.foreign, 0))
	a.foreign = max(a.foreign, 0)
	others, most := int64(0), int64(0)
	var next *server
	for i, o := range g.servers {
		held, elastic := o.holds()
		held, elastic = held-given[i], max(elastic-given[i], 0)
		if o == s {
			a.held = held
			continue
		}
		needs := e.needs(o)
		others += max(held, needs)
		if !o.rests() {
			a.working = true
			a.evictable += min(elastic, max(held-needs, 0))
			continue
		}
		returns := held - o.memory.Context
		if returns <= 0 || o.hasFreed(now) {
			continue
		}
		a.idle += returns
		if next == nil || o.isFreedBefore(next, returns > most, now) {
			next, most = o, returns
		}
	}
	if next != nil {
		a.free = next.name
	}
	a.room = max(g.memory.Capacity-a.foreign-others, 0)
	return a
}

// gaveBack divides among a GPU's servers what they said that they held and the driver says that they do
// not. What servers said of themselves may be old: one that rests gives memory back, and is not asked
// again. Those that unloaded their models since they said so come first, then weights that servers evict,
// of which only an upper bound is known.
func (g *gpu) gaveBack(bytes int64) []int64 {
	g.given = append(g.given[:0], make([]int64, len(g.servers))...)
	const unloaded, evicted, rested = 0, 1, 2
	for _, turn := range [...]int{unloaded, evicted, rested} {
		for i, o := range g.servers {
			if bytes <= 0 {
				return g.given
			}
			all, elastic := o.holds()
			most := all - o.memory.Context - g.given[i]
			switch {
			case turn == evicted:
				most = elastic - g.given[i]
			case !o.rests(), turn == unloaded && (!o.hasUnloaded() || !o.unloaded.After(o.memory.At)):
				continue
			}
			gave := min(bytes, max(most, 0))
			g.given[i] += gave
			bytes -= gave
		}
	}
	return g.given
}

const (
	// freeAgain is how often a server is asked at most to free its memory.
	freeAgain = comfyevents.FreeInterval
	// freeTakes is how long after it was asked its memory is seen to be free at the latest. Until
	// then no other one is asked, which would load its models again in vain.
	freeTakes = 3 * time.Second
)

// isFreedBefore reports whether a server is to free its memory before another one: the one that was asked
// just now; else one that may be asked, and of those the one that gives back more; else the one that may
// be asked soonest.
func (s *server) isFreedBefore(o *server, returnsMore bool, now time.Time) bool {
	rank := func(s *server) int {
		switch since := now.Sub(s.freed); {
		case since < freeTakes:
			return 0
		case since >= freeAgain:
			return 1
		}
		return 2
	}
	first := rank(s)
	if c := cmp.Compare(first, rank(o)); c != 0 {
		return c < 0
	}
	if first == 1 {
		return returnsMore
	}
	return s.freed.Before(o.freed)
}

// hasFreed reports whether a server that was asked to lately has freed its memory, and has done nothing
// since: what it still holds it cannot give back. It may have been asked by somebody else.
func (s *server) hasFreed(now time.Time) bool {
	took := now.Sub(s.unloaded)
	return now.Sub(s.freed) < freeAgain && s.hasUnloaded() && took >= freeTakes && took < freeAgain
}

// hasUnloaded reports whether a server has unloaded its models, not at the end of a prompt that failed.
func (s *server) hasUnloaded() bool { return s.unloaded.After(s.worked) }

// askToFree records that a server is asked to free its memory. Within freeAgain it does nothing more.
func (e *Engine) askToFree(name string, now time.Time) {
	if s := e.servers[name]; s != nil && now.Sub(s.freed) >= freeAgain {
		s.freed = now
	}
}
