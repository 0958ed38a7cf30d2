// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

const (
	// usualOf is of how many executions the medians are, minUsual how many there must be.
	usualOf  = 20
	minUsual = 3
	// maxKinds bounds the kinds of executions that are compared; the one that was not used for
	// the longest time makes room.
	maxKinds = 500
)

// kind is what executions have in common that take about equally long.
type kind struct{ workflow, model, sizeClass, gpu name }

// usual is what a prompt is compared with: the last executions of its kind that succeeded
// before it.
type usual struct {
	// executions is how many there were; below minUsual the rest is not known.
	executions int32
	// exceeded says which parts were longer than usual.
	exceeded [partCount]bool
	// ran is the median of the executions' times.
	ran time.Duration
}

func (u *usual) isKnown() bool { return u.executions >= minUsual }

// noUsual is why it is not known how long such a prompt usually takes; nil if that is known, or if the
// prompt never ran and there is nothing to compare.
func (r *record) noUsual() texts.Text {
	switch {
	case r.begins == 0, r.usual.isKnown():
		return nil
	case len(r.gpus) == 0:
		return texts.Message{Key: "prompt.nousual.gpu"}
	}
	return texts.Message{Key: "prompt.nousual.few"}
}

// usuals are the last executions of each kind.
type usuals struct{ kinds *lru.Cache[kind, executions] }

type executions struct {
	// last are the last ones that succeeded; the next one replaces that at next.
	last []execution
	next int
}

type execution struct {
	ran   time.Duration
	parts parts
}

func newUsuals() *usuals { return &usuals{lru.New[kind, executions](maxKinds)} }

// judge sets what was usual before a prompt, and adds its execution if it succeeded.
func (u *usuals) judge(r *record) {
	if r.begins == 0 || len(r.gpus) == 0 {
		return
	}
	of := u.kinds.FindOrAdd(kind{r.workflow, r.model, r.sizeClass, r.gpus[0]})
	r.usual = of.compare(&r.parts)
	if r.outcome.Value() == "success" && !r.cached { // what was cached did no work
		of.add(execution{r.ran, r.parts})
	}
}

func (e *executions) add(x execution) {
	if len(e.last) < usualOf {
		e.last = append(e.last, x)
	} else {
		e.last[e.next%usualOf] = x
	}
	e.next++
}

// excess is from which share of a part on it is longer than usual, if so much is above the
// median.
const excess = 0.2

func (e *executions) compare(p *parts) usual {
	u := usual{executions: int32(len(e.last))}
	if !u.isKnown() {
		return u
	}
	u.ran = median(e.last, func(x *execution) time.Duration { return x.ran })
	for i, lasted := range p {
		common := median(e.last, func(x *execution) time.Duration { return x.parts[i] })
		u.exceeded[i] = float64(lasted-common) >= excess*float64(lasted)
	}
	return u
}

func median(all []execution, of func(*execution) time.Duration) time.Duration {
	values := make([]time.Duration, len(all))
	for i := range all {
		values[i] = of(&all[i])
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}

// Bounds implements [bounds.Registered].
func (u *usuals) Bounds() []bounds.Bound { return u.kinds.Bounds() }
