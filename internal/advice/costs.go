// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
)

var _ recommend.Costs = (*Advisor)(nil)

// Time implements [recommend.Costs].
func (a *Advisor) Time(r *admission.Request) (seconds float64, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, k := a.engine.kindFor(r)
	size := sizeOf(r.Side, r.Batch, r.Steps)
	if k == nil || !k.time.knows(size) {
		return 0, false
	}
	seconds, _ = k.time.model.Mean(size)
	return seconds, true
}

// Safe implements [recommend.Costs]. What the other servers of the GPU hold beside their
// contexts counts as there for the request: admission asks them to free it.
func (a *Advisor) Safe(r *admission.Request) (side int, bound recommend.Bound) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, k := a.engine.kindFor(r)
	if k == nil || s.gpu == nil || s.gpu.memory.Capacity <= 0 || r.Side <= 0 {
		return 0, recommend.NotKnown
	}
	of := &safety{engine: a.engine, server: s, kind: k, request: r, room: s.available(), ofKind: a.engine.kindOf(s, r.Workflow, r.Model)}
	if !of.known() {
		return 0, recommend.NotKnown
	}
	const unit, beyond = 8, 1.2
	low, high := 0, int(float64(r.Side)*math.Sqrt(beyond))/unit
	for low < high {
		if middle := (low + high + 1) / 2; of.bound(middle*unit) == "" {
			low = middle
		} else {
			high = middle - 1
		}
	}
	if bound = of.bound((low + 1) * unit); bound == "" {
		bound = recommend.BySeen
	}
	return low * unit, bound
}

// kindFor is the server and the kind of a request; nil if they are not known.
func (e *Engine) kindFor(r *admission.Request) (*server, *kind) {
	s := e.servers[r.Server]
	if s == nil {
		return nil, nil
	}
	return s, e.kinds.Find(e.kindOf(s, r.Workflow, r.Model))
}

// safety finds what bounds the sizes of a request.
type safety struct {
	engine  *Engine
	server  *server
	kind    *kind
	ofKind  Kind
	request *admission.Request
	// room is what tensors may need, in bytes.
	room int64
}

// known reports whether time and memory are, at the size of the request. Where weights make room,
// memory bounds nothing until a prompt ran out of it.
func (f *safety) known() bool {
	size := sizeOf(f.request.Side, f.request.Batch, f.request.Steps)
	return f.kind.time.knows(size) && (f.elastic() || f.kind.memory.model != nil && f.kind.memory.model.Samples >= minExecutions)
}

// elastic reports whether the server's weights make room, and no prompt of the kind ran out of
// memory.
func (f *safety) elastic() bool {
	if !f.server.memory.Dynamic {
		return false
	}
	for key, p := range f.server.gpu.probes {
		if key.Kind == f.ofKind && !p.none() {
			return false
		}
	}
	return true
}

// bound is what a size exceeds; empty if it is safe.
func (f *safety) bound(side int) recommend.Bound {
	size := sizeOf(side, f.request.Batch, f.request.Steps)
	if !f.elastic() {
		for key, p := range f.server.gpu.probes {
			if key.covers(f.ofKind, size) && p.failed(2, f.room) {
				return recommend.ByMemory
			}
		}
		switch m := f.kind.memory.model; {
		case !m.Knows(size):
			return recommend.BySeen
		case f.engine.bound(f.kind, size) > float64(f.room):
			return recommend.ByMemory
		}
	}
	if !f.kind.time.model.Knows(size) {
		return recommend.BySeen
	}
	mean, deviation := f.kind.time.model.Mean(size)
	if d := f.request.Deadline.Seconds(); d > 0 && mean+normal99*deviation > d {
		return recommend.ByTime
	}
	return ""
}

// Used is for how many seconds a prompt that has ended used a whole GPU, with the loading of its
// model; false if its execution was not followed.
func (a *Advisor) Used(prompt string) (seconds float64, known bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if o := a.engine.ended.Find(prompt); o != nil && o.exclusive > 0 {
		return o.exclusive, true
	}
	return 0, false
}

// GPUOf is the GPU of a server and its model; empty if it is not known, or if there are several.
func (a *Advisor) GPUOf(server string) (id, product string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s := a.engine.servers[server]; s != nil && s.gpu != nil {
		return s.gpu.id, s.gpu.product
	}
	return "", ""
}
