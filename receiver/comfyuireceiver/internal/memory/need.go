// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"iter"
	"slices"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/lru"
)

// Class is what prompts have in common that need about the same memory.
type Class struct{ Workflow, Model, SizeClass, GPU string }

// MinLearned is from how many executions on the need of a class is more than a guess.
const MinLearned = 3

// learnedFrom is how many executions of a class its need is learned from.
const learnedFrom = 20

// Needs knows what classes of prompts need. The classes that were not used for the longest
// time make room for new ones.
type Needs struct {
	classes *lru.Cache[Class, need]
}

type need struct {
	// peaks are the lower bounds of the last executions; the next one replaces that at next.
	peaks []float64
	next  int
}

// NewNeeds makes room for so many classes.
func NewNeeds(limit int) *Needs {
	return &Needs{classes: lru.New[Class, need](limit)}
}

// Add adds the lower bound of an execution. It returns the need of its class, which is the
// largest of its last 20 executions, and of how many executions that is.
func (n *Needs) Add(c Class, peak float64) (largest float64, executions int) {
	of := n.classes.FindOrAdd(c)
	if len(of.peaks) < learnedFrom {
		of.peaks = append(of.peaks, peak)
	} else {
		of.peaks[of.next%learnedFrom] = peak
	}
	of.next++
	for _, v := range of.peaks {
		largest = max(largest, v)
	}
	return largest, len(of.peaks)
}

// Bounds implements [bounds.Registered].
func (n *Needs) Bounds() []bounds.Bound { return n.classes.Bounds() }

// Learned are the classes of which enough executions were seen, with their needs.
func (n *Needs) Learned() iter.Seq2[Class, float64] {
	return func(yield func(Class, float64) bool) {
		for c, of := range n.classes.All() {
			if len(of.peaks) >= MinLearned && !yield(c, slices.Max(of.peaks)) {
				return
			}
		}
	}
}
