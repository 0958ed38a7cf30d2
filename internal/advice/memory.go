// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// memoryFit is what is predicted of a prompt's memory, in bytes.
type memoryFit struct {
	known             bool
	need, least, room int64
	context           int64
	// never is true if it does not fit into the empty GPU, probe if only the least that it was
	// seen to need fits and it is to be tried.
	never, probe bool
	// free is the next idle neighbour to give back what it holds, where all of them together hold
	// what is missing; waits is true if working ones, or other programs, do.
	free  string
	waits bool
}

// boundShare is the share of prompts that the bound of memory covers: of fewer samples than that
// needs it is the most that was seen.
const boundShare = 0.995

// bound is the upper bound of what tensors need.
func (e *Engine) bound(k *kind, s fit.Size) float64 {
	if !k.memory.knows(s) {
		return k.memory.leastOf(s) * (1 + e.settings.SafetyMargin)
	}
	return max(k.memory.model.Upper(s, boundShare)*(1+e.settings.SafetyMargin), k.memory.leastOf(s))
}

// fits compares what a prompt needs with what its GPU has.
func (e *Engine) fits(j *job, now time.Time) (m memoryFit) {
	s, g := j.server, j.server.gpu
	m.context = s.memory.Context
	has := e.spaceFor(s, now)
	m.room = has.room
	k := e.known(j)
	if g.memory.Capacity <= 0 {
		return m
	}
	if k == nil { // a client chooses its workflow's id: work at neighbours is protected from all
		m.need = e.needAlike(j) + m.context
		m.waits = !s.memory.Dynamic && has.working && m.need > m.room && m.need > has.held && m.need <= g.memory.Capacity-has.foreign
		return m
	}
	bound, least := e.bound(k, j.size), k.memory.leastOf(j.size)
	all := s.available()
	tried := e.triesOf(j, all, m.room-m.context, now)
	if bound <= 0 && !tried.failed {
		return m
	}
	m.known = true
	m.need, m.least = int64(bound)+m.context, int64(least)+m.context
	if s.memory.Dynamic && !tried.failed { // weights make room; only an OOM says that they do not
		m.known = false
		return m
	}
	if int64(least) > all || tried.never {
		m.never = true
		return m
	}
	room := m.room
	if tried.failed && room-m.context <= tried.room { // it ran out of memory with no less
		m.need = max(m.need, tried.room+m.context+1)
	}
	switch {
	case m.need <= room || m.need <= has.held:
		return m
	case m.need <= room+has.idle:
		m.free = has.free
		return m
	case has.working && m.need <= g.memory.Capacity-has.foreign:
		// Where its own weights make room, neighbours' may: one out of memory does not justify waiting for
		// neighbours that never rest.
		m.probe = s.memory.Dynamic && tried.may && m.least <= room+has.evictable
		m.waits = !m.probe
		return m
	case m.least <= room:
		m.probe = tried.may
		m.waits = !m.probe
		return m
	case m.least <= room+has.idle && tried.may:
		m.free = has.free
		return m
	}
	m.waits = true
	return m
}

// available is the most that the tensors of a server can have: what its GPU has while nobody else uses it, but
// for the other servers' contexts, which last.
func (s *server) available() int64 {
	bytes := s.gpu.memory.Capacity
	for _, o := range s.gpu.servers {
		bytes -= o.memory.Context
	}
	return max(bytes, 0)
}

// needAlike is the largest bound of what tensors need of the kinds that differ from a prompt's in
// nothing but the workflow; 0 if there is none.
func (e *Engine) needAlike(j *job) (most int64) {
	for of, k := range e.kinds.All() {
		if of.Workflow = j.kind.Workflow; of == j.kind && k.memory.knows(j.size) {
			most = max(most, int64(e.bound(k, j.size)))
		}
	}
	return most
}

// rests reports whether a server has nothing to do.
func (s *server) rests() bool { return s.running == nil && len(s.queue) == 0 && s.past == 0 }

// rests reports whether no server of a GPU has anything to do.
func (g *gpu) rests() bool {
	return !slices.ContainsFunc(g.servers, func(s *server) bool { return !s.rests() })
}

// holds is what a server's process holds, and how much of that are weights that it evicts when its own
// work needs the memory, and only then: by the driver's list if that is newer than what the server said
// of itself.
func (s *server) holds() (all, elastic int64) {
	m := &s.memory
	if g := s.gpu; g != nil && s.pid != 0 && g.memory.Listed.After(m.At) {
		if held, ok := g.memory.Processes[s.pid]; ok {
			return held, min(m.Elastic, max(held-m.Context, 0))
		}
	}
	return m.Context + m.Reserved + m.Elastic, m.Elastic
}

// needs is the most that a server's prompts are going to need.
func (e *Engine) needs(s *server) (most int64) {
	of := func(j *job) {
		if k := e.known(j); k != nil {
			most = max(most, int64(e.bound(k, j.size))+s.memory.Context)
		}
	}
	if s.running != nil {
		of(s.running)
	}
	for _, j := range s.queue {
		of(j)
	}
	return most
}
