// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/loading"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// loadingTimes works out for how long prompts loaded models. Its methods may be called from
// any goroutine.
type loadingTimes struct {
	device  *deviceFinder
	classes *apiClasses

	mu        sync.Mutex
	estimator *loading.Estimator // guarded by mu
	// fresh is true from a start of the server on, until an execution has succeeded; guarded
	// by mu.
	fresh bool
	// emptied is when the server was last known to have unloaded its models; guarded by mu.
	emptied time.Time
}

// maxLoadingClasses bounds the classes of executions that are compared.
const maxLoadingClasses = 500

func newLoadingTimes(device *deviceFinder, classes *apiClasses) *loadingTimes {
	return &loadingTimes{device: device, classes: classes, estimator: loading.NewEstimator(maxLoadingClasses)}
}

// unloaded records that the server has no model loaded from a time on.
func (l *loadingTimes) unloaded(at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.estimator.Unloaded(at)
	l.emptied = at
}

// unloadedAt is since when the server was last known to have no model loaded; zero if it never
// was.
func (l *loadingTimes) unloadedAt() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.emptied
}

// restarted records that the server is another process from a time on: the kernels of the GPU
// are compiled, and chosen, in its first execution.
func (l *loadingTimes) restarted(at time.Time) {
	l.unloaded(at)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fresh = true
}

// isFresh reports whether a prompt that has ended was the first to succeed since the server's
// start.
func (l *loadingTimes) isFresh(p *prompt.Prompt) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	fresh := l.fresh
	l.fresh = fresh && p.Outcome != prompt.Success
	return fresh
}

// ended sets what loaders of a prompt that has ended took, and what is estimated. It is called
// in the order of the ends.
func (l *loadingTimes) ended(p *prompt.Prompt) {
	if p.Started.IsZero() {
		return
	}
	declared := p.Submission.NodesByID()
	var main *prompt.Node // the longest one that loads nothing by its name
	hasSteps := false
	for _, n := range p.Nodes {
		class := declared[n.ID].Class
		switch lasted := n.End.Sub(n.Start); {
		case l.classes.IsAPINode(class):
		case loading.IsLoader(class):
			n.Loading.Time = lasted
		case n.Parent == "" && (main == nil || lasted > main.End.Sub(main.Start)):
			main = n
		}
		hasSteps = hasSteps || n.Steps > 1
	}
	loaded := l.estimate(p, main, hasSteps)
	if main != nil {
		main.Loading.Add(loaded)
	} else {
		p.Loading.Add(loaded)
	}
	for _, n := range p.Nodes {
		p.Loading.Add(n.Loading)
	}
	p.Loading.Time = min(p.Loading.Time, p.Ended.Sub(p.Started))
}

// estimate compares an execution without steps with earlier ones, by its longest node; by the
// whole of one whose nodes are unknown.
func (l *loadingTimes) estimate(p *prompt.Prompt, main *prompt.Node, hasSteps bool) (loaded loading.Loaded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p.Outcome != prompt.Success {
		l.estimator.Unloaded(p.Ended) // ComfyUI unloads after some failures
		return loaded
	}
	class := loading.Class{
		Workflow: p.Submission.Workflow, Model: p.Sizing.Model, SizeClass: spans.SizeClass(p.Sizing.Side()), GPU: l.device.Device().ID,
	}
	begin, lasted := p.Started, p.Ended.Sub(p.Started)
	switch {
	case hasSteps || len(p.Cached) >= len(p.Submission.Nodes) || main == nil && len(p.Nodes) > 0:
		return loaded
	case main != nil:
		class.Node, begin, lasted = p.Submission.NodesByID()[main.ID].Class, main.Start, main.End.Sub(main.Start)
	}
	if lasted, ok := l.estimator.Executed(class, begin, lasted); ok && lasted > 0 {
		return loading.Loaded{Time: lasted, Estimated: true}
	}
	return loaded
}

// grew adds what nodes with steps loaded: their time before the first step, if the server's
// memory grew meanwhile. If it did not, and the server had just been started, they prepared
// that step.
func (l *loadingTimes) grew(p *prompt.Prompt, h *memory.History) {
	fresh := l.isFresh(p)
	declared := p.Submission.NodesByID()
	for _, n := range p.Nodes {
		class := declared[n.ID].Class
		if loading.IsLoader(class) || l.classes.IsAPINode(class) {
			continue
		}
		lasted, first, ok := n.BeforeFirstStep()
		grew, known := h.Grew(n.Start, first, p.Ended)
		switch {
		case !ok || !known:
		case grew:
			n.Loading.Time = lasted
			p.Loading.Time = min(p.Loading.Time+lasted, p.Ended.Sub(p.Started))
		case fresh:
			n.FirstSteps = lasted
			p.FirstSteps = min(p.FirstSteps+lasted, p.Ended.Sub(p.Started)-p.Loading.Time)
		}
	}
}

// Bounds implements [bounds.Registered].
func (l *loadingTimes) Bounds() []bounds.Bound {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.estimator.Bounds()
}

// loaded counts for how long a prompt loaded models that has ended.
func (m *instruments) loaded(p *prompt.Prompt) {
	if !p.Started.IsZero() {
		m.addLoading(p)
	}
}

func (m *instruments) addLoading(p *prompt.Prompt) {
	m.times["comfyui.loading.time"].Add(context.Background(), p.Loading.Time.Seconds(),
		metric.WithAttributes(attribute.String("comfyui.model", m.label(m.models, p.Sizing.Model, p.ID != ""))))
}
