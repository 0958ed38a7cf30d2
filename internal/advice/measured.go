// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// Measured is what an execution cost that was measured elsewhere, as on a machine of the same kind:
// it counts until executions of about its size were seen.
type Measured struct {
	// Workflow, Model and GPU, a product, are those that it counts for; each if empty.
	Workflow, Model, GPU string
	// Side is the longer side in pixels; Batch and Steps are as in an [Execution].
	Side, Batch, Steps int
	// Time is what it takes of a whole GPU, without loading; 0 if it was not measured.
	Time time.Duration
	// Memory is what its tensors need at most in bytes, as PyTorch's allocator reserves it, without
	// CUDA's context; 0 if it was not measured.
	Memory int64
}

// expected is what was measured for some kinds.
type expected struct {
	workflow, model, gpu string
	kind                 kind
}

func (x *expected) is(of *Measured) bool {
	return x.workflow == of.Workflow && x.model == of.Model && x.gpu == of.GPU
}

func (x *expected) counts(k Kind) bool {
	return (x.workflow == "" || x.workflow == k.Workflow) && (x.model == "" || x.model == k.Model) && (x.gpu == "" || x.gpu == k.GPU)
}

// expect makes what is expected before anything was seen.
func expect(all []Measured) (groups []expected) {
	for i := range all {
		m := &all[i]
		at := slices.IndexFunc(groups, func(x expected) bool { return x.is(m) })
		if at < 0 {
			at = len(groups)
			groups = append(groups, expected{workflow: m.Workflow, model: m.Model, gpu: m.GPU})
		}
		k, size := &groups[at].kind, sizeOf(m.Side, m.Batch, m.Steps)
		if m.Time > 0 {
			k.time.measured = append(k.time.measured, fit.Sample{Size: size, Cost: m.Time.Seconds()})
		}
		if m.Memory > 0 {
			k.memory.measured = append(k.memory.measured, fit.Sample{Size: size, Cost: float64(m.Memory)})
		}
	}
	for i := range groups {
		groups[i].kind.time.refit(time.Time{})
		groups[i].kind.memory.refit(time.Time{})
	}
	return groups
}

// expectedOf is what was measured for a kind of which nothing was seen; nil if nothing was. The first
// that counts for it does.
func (e *Engine) expectedOf(of Kind) *kind {
	for i := range e.expected {
		if x := &e.expected[i]; x.counts(of) {
			return &x.kind
		}
	}
	return nil
}

// find is what is known of a kind; nil if nothing is.
func (e *Engine) find(of Kind) *kind {
	if k := e.kinds.Find(of); k != nil {
		return k
	}
	return e.expectedOf(of)
}

// known is what is known of a prompt's kind; nil if nothing is. It is looked for again once kinds came, of
// which others may have been forgotten.
func (e *Engine) known(j *job) *kind {
	if now := e.added + 1; j.foundAt != now {
		j.found, j.foundAt = e.find(j.kind), now
	}
	return j.found
}

// findOrAdd is what was seen of a kind, with what was measured.
func (e *Engine) findOrAdd(of Kind) *kind {
	if k := e.kinds.Find(of); k != nil {
		return k
	}
	k := e.kinds.FindOrAdd(of)
	e.added++
	if x := e.expectedOf(of); x != nil {
		k.time.measured, k.memory.measured = x.time.measured, x.memory.measured
	}
	return k
}

// counted are the measured samples of sizes of which too few executions were seen. Each counts as
// many executions.
func (c *costs) counted(seen []fit.Sample) (all []fit.Sample) {
	of := fit.Model{}
	for i := range seen {
		of.LargestSize = of.LargestSize.Or(seen[i].Size)
	}
	for i := range c.measured {
		if m := &c.measured[i]; len(seen) < minExecutions || of.Nearest(m.Size) != m.Size {
			for range minExecutions {
				all = append(all, *m)
			}
		}
	}
	return all
}
