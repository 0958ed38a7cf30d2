// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"slices"
	"time"
)

// ran is the last execution of a kind and size on a server.
type ran struct {
	probeKey
	at time.Time
	// enough is the memory in which it succeeded, context included, in bytes; 0 if it ran out of
	// memory.
	enough int64
}

const (
	// maxRan bounds the kinds and sizes that a server remembers having executed.
	maxRan = 20
	// ranFor is for how long they count.
	ranFor = time.Hour
)

// remember records that a server on a GPU executed a prompt. One that failed otherwise, or that had
// results cached, says nothing about memory.
func (e *Engine) remember(s *server, key probeKey, x *Execution) {
	r := ran{probeKey: key, at: x.Ended}
	switch {
	case x.OutOfMemory:
	case x.Succeeded && !x.Cached:
		has := e.spaceFor(s, x.Ended)
		r.enough = max(has.room, has.held, x.Reserved+s.memory.Context)
	default:
		return
	}
	s.ran = slices.DeleteFunc(s.ran, func(o ran) bool { return o.probeKey == key })
	s.ran = append(s.ran, r)
	s.ran = slices.Delete(s.ran, 0, max(len(s.ran)-maxRan, 0))
}

// shortage is by how many bytes a GPU has too little memory for what its servers executed within
// the last hour: what that needs at most, less the room that there is for it, or would be if the
// idle neighbours gave their memory back and working ones evicted their weights. It is the largest of all servers; 0 if nothing is known, or
// if the GPU's samples are stale.
func (e *Engine) shortage(g *gpu, now time.Time) (largest int64) {
	if g.memory.Capacity <= 0 || g.memory.Unhealthy || now.Sub(g.memory.At) > e.settings.MaxSampleAge {
		return 0
	}
	for _, s := range g.servers {
		if len(s.ran) == 0 || s.memory.At.IsZero() { // what it holds would count as another program's
			continue
		}
		has := e.spaceFor(s, now)
		room := max(has.room+has.evictable+has.idle, has.held)
		for i := range s.ran {
			if r := &s.ran[i]; now.Sub(r.at) <= ranFor {
				largest = max(largest, e.needOf(s, r)-room)
			}
		}
	}
	return largest
}

// needOf is what an execution needs at most with its context, in bytes; 0 if that is not known, or
// if no memory that others hold is the reason that it does not fit.
func (e *Engine) needOf(s *server, r *ran) int64 {
	g, k := s.gpu, e.find(r.Kind)
	if k == nil || r.Kind != e.kindOf(s, r.Workflow, r.Model) { // its server has been restarted with other arguments
		return 0
	}
	bound := e.bound(k, r.Size)
	if bound <= 0 || s.memory.Dynamic && !g.ranOut(r.Kind, r.Size, 0) { // weights make room
		return 0
	}
	need := int64(bound) + s.memory.Context
	if r.enough > 0 {
		// Less the margin, since what others hold fluctuates.
		need = min(need, int64(float64(r.enough)/(1+e.settings.SafetyMargin)))
	}
	if need > g.memory.Capacity { // it would not fit into the empty GPU
		return 0
	}
	return need
}
