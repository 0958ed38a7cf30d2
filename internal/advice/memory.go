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
	k := e.find(j.kind)
	if g.memory.Capacity <= 0 {
		return m
	}
	if k == nil { // a client chooses its workflow's id: work at neighbours is protected from all
		m.need = e.needAlike(j) + m.context
		m.waits = has.working && m.need > m.room && m.need > has.held && m.need <= g.memory.Capacity-has.foreign
		return m
	}
	bound, least := e.bound(k, j.size), k.memory.leastOf(j.size)
	tried := g.probes[probeKey{j.kind, j.size}]
	if bound <= 0 && tried.none() {
		return m
	}
	m.known = true
	m.need, m.least = int64(bound)+m.context, int64(least)+m.context
	if s.memory.Dynamic && tried.none() { // weights make room; only an OOM says that they do not
		m.known = false
		return m
	}
	if m.least > g.memory.Capacity || tried.failed(2, g.memory.Capacity-m.context) && now.Sub(tried.last) < probeAgain {
		m.never = true
		return m
	}
	room := m.room
	if !tried.none() && room-m.context <= tried.room { // it ran out of memory with no less
		m.need = max(m.need, tried.room+m.context+1)
	}
	switch {
	case m.need <= room || m.need <= has.held:
		return m
	case m.need <= room+has.idle:
		m.free = has.free
		return m
	case has.working && m.need <= g.memory.Capacity-has.foreign:
		m.waits = true
		return m
	case m.least <= room:
		m.probe = e.mayTry(tried, now)
		m.waits = !m.probe
		return m
	case m.least <= room+has.idle && e.mayTry(tried, now):
		m.free = has.free
		return m
	}
	m.waits = true
	return m
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

// holds is what a server's process holds: by the driver's list if that is newer than what the
// server said of itself.
func (s *server) holds() int64 {
	if g := s.gpu; g != nil && s.pid != 0 && g.memory.Listed.After(s.memory.At) {
		if held, ok := g.memory.Processes[s.pid]; ok {
			return max(held-s.memory.Elastic, 0)
		}
	}
	return s.memory.Context + s.memory.Reserved
}

// needs is the most that a server's prompts are going to need.
func (e *Engine) needs(s *server) (most int64) {
	of := func(j *job) {
		if k := e.find(j.kind); k != nil {
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

// probeKey is what prompts have in common that ran out of memory.
type probeKey struct {
	Kind
	fit.Size
}

// probe is what became of those that ran out of memory, and of the tries since.
type probe struct {
	// room is what they had at most, in bytes; failures is how many tries in a row failed.
	room     int64
	failures int
	last     time.Time
	// running is the try that has not ended, or whose trace has not come; left is when it left its
	// server's queue.
	running *job
	left    time.Time
}

const (
	// probeAgain is when another try is made after one that failed.
	probeAgain = time.Hour
	// traceDelay is how long after a prompt's end its trace comes at the latest.
	traceDelay = 10 * time.Second
	// maxProbes bounds those of a GPU.
	maxProbes = 256
)

func (p *probe) none() bool { return p == nil || p.failures == 0 }

// failed reports whether so many tries in a row failed with at least so much room.
func (p *probe) failed(times int, room int64) bool {
	return p != nil && p.failures >= times && p.room >= room
}

// mayTry reports whether another one may be tried.
func (e *Engine) mayTry(p *probe, now time.Time) bool {
	return p == nil || !e.trying(p, now) && (p.failures < 2 || now.Sub(p.last) >= probeAgain)
}

// trying reports whether a try runs.
func (e *Engine) trying(p *probe, now time.Time) bool {
	j := p.running
	switch {
	case j == nil:
		return false
	case j.claim != 0, j.id != "" && j.server.byID[j.id] == j && e.servers[j.server.name] == j.server:
		p.left = time.Time{}
		return true
	case j.id == "": // it was not run
		p.running = nil
		return false
	case p.left.IsZero():
		p.left = now
	}
	if now.Sub(p.left) > traceDelay {
		p.running = nil
	}
	return p.running != nil
}

// probing records that a prompt is tried.
func (g *gpu) probing(j *job) {
	if p := g.probeOf(probeKey{j.kind, j.size}); p != nil {
		p.running, p.left = j, time.Time{}
	}
}

// probeOf is that of a key, made if there is none yet; nil if there are too many.
func (g *gpu) probeOf(key probeKey) *probe {
	p := g.probes[key]
	if p == nil && len(g.probes) < maxProbes {
		p = &probe{}
		g.probes[key] = p
	}
	return p
}

// settled has a try be the prompt that its server shows.
func (g *gpu) settled(claimed, shown *job) {
	if g == nil {
		return
	}
	if p := g.probes[probeKey{claimed.kind, claimed.size}]; p != nil && p.running == claimed {
		p.running = shown
	}
}

// probed learns whether a prompt of a kind had enough memory, of as much as there was for it.
func (g *gpu) probed(k Kind, s fit.Size, x *Execution, room int64) {
	key := probeKey{k, s}
	switch {
	case x.OutOfMemory:
		if p := g.probeOf(key); p != nil {
			p.failures, p.last, p.running = p.failures+1, x.Ended, nil
			p.room = max(p.room, x.Reserved, room)
		}
	case x.Succeeded:
		delete(g.probes, key)
	case g.probes[key] != nil:
		g.probes[key].running = nil
	}
}
