// SPDX-License-Identifier: Apache-2.0

// Package loading works out for how long executions loaded models, which ComfyUI does not
// report. It has no clock and makes no requests.
//
// Nodes that load models are known by the name of their class. Another node loads before
// its first step. One that has no steps, as DDColor's, loads in a cold execution: the first
// one after the server's start, after /free, after one that failed, or with another model. What that
// took longer than warm ones is an estimate.
package loading

import (
	"slices"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

// notModels are parts of the names of loaders' classes that load something else.
var notModels = []string{"image", "video", "audio", "mask", "latent", "text", "prompt", "json"}

// IsLoader reports whether nodes of a class load models, by its name: CheckpointLoaderSimple,
// UNETLoader, LoraLoader, and those of custom nodes that are named alike.
func IsLoader(class string) bool {
	lower := strings.ToLower(class)
	return strings.Contains(lower, "loader") && !slices.ContainsFunc(notModels, func(part string) bool { return strings.Contains(lower, part) })
}

// Steps are a node's: when it began, when its first and its last step were done, and how
// many were by then.
type Steps struct {
	Begin, First, Last  time.Time
	FirstDone, LastDone float64
}

// Each is how long a step takes on average; ok is false for a node with fewer than two.
func (s *Steps) Each() (each time.Duration, ok bool) {
	if s.First.IsZero() || s.LastDone <= s.FirstDone {
		return 0, false
	}
	return time.Duration(float64(s.Last.Sub(s.First)) / (s.LastDone - s.FirstDone)), true
}

// BeforeFirst is how long the node took before its first step began. ok is false for a node
// with fewer than two steps: how long one takes is not known.
func (s *Steps) BeforeFirst() (lasted time.Duration, ok bool) {
	each, ok := s.Each()
	if !ok {
		return 0, false
	}
	return max(s.First.Sub(s.Begin)-time.Duration(float64(each)*s.FirstDone), 0), true
}

// Class is what executions of a node have in common that take about equally long once its
// model is loaded.
type Class struct{ Workflow, Model, SizeClass, GPU, Node string }

const (
	// warmOf is how many warm executions of a class the median is of, minWarm from how many on
	// it counts.
	warmOf  = 20
	minWarm = 3
)

// Estimator compares cold executions with warm ones of their class. The classes that were
// not used for the longest time make room for new ones.
type Estimator struct {
	classes *lru.Cache[Class, warm]

	// cold is true if the next execution that begins from since on is cold.
	cold  bool
	since time.Time
	model string // of the last execution
}

type warm struct {
	// lasted are the durations of the last executions; the next one replaces that at next.
	lasted []time.Duration
	next   int
}

// NewEstimator makes room for so many classes. Whether the server has a model loaded is
// not known: its first execution counts as cold.
func NewEstimator(limit int) *Estimator {
	return &Estimator{classes: lru.New[Class, warm](limit), cold: true}
}

// Unloaded records that the server has no model loaded from a time on.
func (e *Estimator) Unloaded(at time.Time) {
	if !e.cold {
		e.cold, e.since = true, at
	}
}

// Executed records a node's execution that succeeded. Of a cold one it returns for how long a
// model was loaded; ok is false of a warm one, and before enough warm ones were seen.
func (e *Estimator) Executed(c Class, begin time.Time, lasted time.Duration) (loading time.Duration, ok bool) {
	emptied := e.cold && !begin.Before(e.since)
	another := c.Model != e.model
	e.model = c.Model
	if emptied {
		e.cold = false
	}
	if emptied || another {
		w := e.classes.Find(c)
		if w == nil || len(w.lasted) < minWarm {
			return 0, false
		}
		return max(lasted-w.median(), 0), true
	}
	e.classes.FindOrAdd(c).add(lasted)
	return 0, false
}

func (w *warm) add(lasted time.Duration) {
	if len(w.lasted) < warmOf {
		w.lasted = append(w.lasted, lasted)
	} else {
		w.lasted[w.next%warmOf] = lasted
	}
	w.next++
}

func (w *warm) median() time.Duration {
	sorted := slices.Sorted(slices.Values(w.lasted))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// Bounds implements [bounds.Registered].
func (e *Estimator) Bounds() []bounds.Bound { return e.classes.Bounds() }

// Loaded is for how long a node, or an execution, loaded models; the zero value if it is not
// known to have done so.
type Loaded struct {
	Time time.Duration `json:"time,omitempty"`
	// Estimated is true if a cold execution was compared with warm ones.
	Estimated bool `json:"estimated,omitempty"`
}

// Add adds what another part of the same execution loaded.
func (l *Loaded) Add(o Loaded) {
	l.Time += o.Time
	l.Estimated = l.Estimated || o.Estimated
}
