// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"maps"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
)

// Kind is what prompts have in common whose costs depend on their size alone.
type Kind struct {
	Workflow, Model string
	// GPU is its product: equal GPUs learn together.
	GPU string
	// Version and Arguments are the server's.
	Version   string
	Arguments uint64
}

// kind is what was learned of a Kind.
type kind struct {
	time, memory costs
	// loading are what cold executions took longer than warm ones, in seconds; usual is their median.
	loading []float64
	usual   float64
	// heaviest is the node that has most of the time.
	heaviest heaviest
	// changed is true if something was learned that is not saved.
	changed bool
}

const (
	// maxSamples bounds the samples of a kind, maxSampleAge is when they are too old.
	maxSamples   = 200
	maxSampleAge = 7 * 24 * time.Hour
	maxLoadings  = 20
	// minExecutions is from how many executions on predictions are made.
	minExecutions = 3
)

// costs are samples of one cost, and the model of them.
type costs struct {
	samples []sample
	model   *fit.Model
	// pending is how many samples the model has not seen.
	pending int
	// least is the largest cost that was certainly needed, by size; asked is the size that was asked for
	// last, with its answer, and isAsked true if nothing has changed since.
	least   []sample
	asked   fit.Sample
	isAsked bool
	// measured is what counts until enough was seen.
	measured []fit.Sample
}

type sample struct {
	fit.Sample
	at time.Time
}

// add adds a sample. The model is made again once a tenth of the samples are new to it.
func (c *costs) add(s fit.Size, cost float64, at time.Time) {
	c.samples = append(c.samples, sample{fit.Sample{Size: s, Cost: cost}, at})
	c.pending++
	if c.pending*10 < len(c.samples) {
		return
	}
	c.refit(at)
}

// refit makes the model again, of what is not too old.
func (c *costs) refit(now time.Time) {
	c.samples = slices.DeleteFunc(c.samples, func(s sample) bool { return now.Sub(s.at) > maxSampleAge })
	c.samples = slices.Delete(c.samples, 0, max(len(c.samples)-maxSamples, 0))
	all := make([]fit.Sample, len(c.samples))
	for i := range c.samples {
		all[i] = c.samples[i].Sample
	}
	c.model, c.pending = fit.Of(append(c.counted(all), all...)), 0
}

// expire forgets what is too old.
func (c *costs) expire(now time.Time) {
	if len(c.samples) > 0 && now.Sub(c.samples[0].at) > maxSampleAge {
		c.refit(now)
	}
	c.least = slices.DeleteFunc(c.least, func(s sample) bool { return now.Sub(s.at) > maxSampleAge })
	c.isAsked = false
}

// knows reports whether there is a prediction for a size.
func (c *costs) knows(s fit.Size) bool {
	return c.learned() && c.model.Knows(s)
}

// learned reports whether there are predictions.
func (c *costs) learned() bool {
	return c.model != nil && c.model.Samples >= minExecutions
}

// observed is an execution that was seen to end.
type observed struct {
	exclusive float64
	cold      bool
	at        time.Time
	// room is what there was for its tensors when it was admitted, in bytes; 0 if that is not known.
	room int64
	// bound is the bound of what they need, in bytes, predicted before it ran; 0 if none was.
	bound float64
	class string
}

// over records that an execution has ended.
func (e *Engine) over(j *job, now time.Time) {
	*e.ended.FindOrAdd(j.id) = observed{j.done, j.cold, now, j.room, j.bound, j.class}
	if j.predicted.at.IsZero() {
		return
	}
	e.calibrationOf(j.class).add(j.predicted, now)
}

// Execution is what a trace says of a prompt that ended.
type Execution struct {
	ID, Server, Workflow, Model string
	Side, Batch, Steps          int
	Ended                       time.Time
	// Ran is how long it ran by the clock.
	Ran time.Duration
	// Succeeded is true if it made its image, OutOfMemory if it ran out of memory.
	Succeeded, OutOfMemory bool
	// Cached is true if no node ran since all their results were cached, or, once it was learned from,
	// none with most of the work. CachedNodes are how many were cached, Nodes are those that ran; none if
	// traces do not have them.
	Cached      bool
	CachedNodes int
	Nodes       []Node
	// Active is the most that tensors were seen to use in bytes, a lower bound of what was needed.
	// Reserved is the most that the allocator held; Grew is true if that became more in this
	// execution: it is what was needed then.
	Active, Reserved int64
	Grew             bool
}

// Executed learns from a prompt that ended.
func (e *Engine) Executed(x *Execution) {
	s := e.servers[x.Server]
	if s == nil {
		return
	}
	s.forget(x.ID)
	if x.Ended.After(s.worked) {
		s.worked = x.Ended
	}
	seen := e.ended.Find(x.ID)
	o := observed{exclusive: x.Ran.Seconds(), at: x.Ended}
	switch {
	case seen != nil:
		o = *seen
	case s.gpu == nil || len(s.gpu.servers) > 1:
		return // others may have used the GPU
	}
	size := sizeOf(x.Side, x.Batch, x.Steps)
	of := e.kindOf(s, x.Workflow, x.Model)
	if k := e.kinds.Find(of); k != nil && x.Succeeded {
		x.Cached = x.Cached || k.heaviest.isPart(x)
	}
	e.compareNeed(&o, x)
	if s.gpu != nil {
		s.gpu.probed(of, size, x, o.room)
		e.remember(s, probeKey{of, size}, x)
	}
	e.learn(s, of, size, x, &o)
}

// learn learns from what a prompt of a kind cost. One that cost nothing adds no kind.
func (e *Engine) learn(s *server, of Kind, size fit.Size, x *Execution, o *observed) {
	needed := x.Active > 0 && !x.Cached
	whole := x.Succeeded && !x.Cached && o.exclusive > 0
	if !needed && !whole && e.kinds.Find(of) == nil {
		return
	}
	k := e.findOrAdd(of)
	k.changed = true
	if x.Succeeded && !o.cold { // else what loaded a model has most of the time
		k.heaviest.add(x.Nodes)
	}
	if needed {
		k.memory.lower(size, float64(x.Active), x.Ended)
	}
	if whole {
		k.learn(size, x, o)
		if s.gpu != nil {
			s.gpu.usual.add(o.exclusive)
		}
	}
	e.kinds.Raise(of, k.rank())
}

// learn learns from a prompt that did all the work.
func (k *kind) learn(size fit.Size, x *Execution, o *observed) {
	if x.Grew && x.Reserved > 0 {
		k.memory.add(size, float64(x.Reserved), x.Ended)
	}
	switch {
	case !o.cold:
		k.time.add(size, o.exclusive, x.Ended)
	case k.time.knows(size):
		k.loaded(o.exclusive - k.time.model.Predict(size))
	}
}

// lower records that so much was certainly needed of a size. It is kept by the size alone: the
// largest of the last twenty executions.
func (c *costs) lower(s fit.Size, cost float64, at time.Time) {
	c.isAsked = false
	c.least = append(c.least, sample{fit.Sample{Size: s, Cost: cost}, at})
	if len(c.least) > maxSamples {
		c.least = slices.Delete(c.least, 0, len(c.least)-maxSamples)
	}
}

// leastOf is the largest cost that the last twenty executions of a size certainly had; 0 if
// there are none.
func (c *costs) leastOf(s fit.Size) (most float64) {
	if c.isAsked && c.asked.Size == s {
		return c.asked.Cost
	}
	const last = 20
	seen := 0
	for i := len(c.least) - 1; i >= 0 && seen < last; i-- {
		if c.least[i].Size == s {
			most = max(most, c.least[i].Cost)
			seen++
		}
	}
	c.asked, c.isAsked = fit.Sample{Size: s, Cost: most}, true
	return most
}

// loaded records how long a model was loaded, in seconds.
func (k *kind) loaded(took float64) {
	k.loading = append(k.loading, max(took, 0))
	k.loading = k.loading[max(len(k.loading)-maxLoadings, 0):]
	k.settleLoading()
}

// settleLoading makes the usual loading time.
func (k *kind) settleLoading() {
	if sorted := slices.Sorted(slices.Values(k.loading)); len(sorted) > 0 {
		k.usual = sorted[len(sorted)/2]
	}
}

// load is how long a model is loaded, in seconds.
func (k *kind) load() float64 { return k.usual }

// expireSamples forgets what is too old, of kinds of which nothing new is learned, too.
func (e *Engine) expireSamples(now time.Time) {
	for _, k := range e.kinds.All() {
		k.time.expire(now)
		k.memory.expire(now)
	}
	e.expireRan(now)
	for _, g := range e.gpus {
		maps.DeleteFunc(g.probes, func(_ probeKey, p *probe) bool { return p.running == nil && now.Sub(p.last) > maxSampleAge })
	}
	maps.DeleteFunc(e.classes, func(_ string, c *calibration) bool { return now.Sub(c.last) > maxSampleAge })
}
