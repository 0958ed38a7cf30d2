// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// coverageOf is that of a cost, and of how many predictions.
func (w *world) coverageOf(cost string) (part float64, predictions int) {
	for _, c := range w.coverage() {
		if c.Cost == cost && c.Class == "people" {
			return c.Share, c.Predictions
		}
	}
	return 0, 0
}

func TestCoverageOfMemoryIsOfBoundsMadeBefore(t *testing.T) {
	w := newWorld(t, "a")
	w.run("a", 512, 2*time.Second, 4*gib)
	w.run("a", 512, 2*time.Second, 4*gib)
	w.run("a", 512, 2*time.Second, 4*gib)
	_, predictions := w.coverageOf(CostMemory)
	assert.Zero(t, predictions, "nothing was predicted before three executions")
	for range 9 {
		w.run("a", 512, 2*time.Second, 4*gib)
	}
	part, predictions := w.coverageOf(CostMemory)
	assert.Equal(t, 9, predictions)
	assert.InDelta(t, 1, part, 1e-9)
	w.run("a", 512, 2*time.Second, 7*gib)
	part, predictions = w.coverageOf(CostMemory)
	assert.Equal(t, 10, predictions)
	assert.InDelta(t, 0.9, part, 1e-9, "the bound of before did not cover it")
	_, predictions = w.coverageOf(CostTime)
	assert.Zero(t, predictions, "no completion was predicted")
}

func TestWhatSaysNothingOfTheNeedDoesNotCount(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	_, before := w.coverageOf(CostMemory)
	w.run("a", 512, 2*time.Second, 0)
	w.run("a", 2048, 2*time.Second, 60*gib) // a size of which nothing is known
	w.oom("a", 3*gib)
	_, predictions := w.coverageOf(CostMemory)
	assert.Equal(t, before, predictions)
	w.oom("a", 6*gib)
	part, predictions := w.coverageOf(CostMemory)
	assert.Equal(t, before+1, predictions, "it needed more than the bound")
	assert.Less(t, part, 1.0)
}

func TestFewPredictionsOfMemoryAreKept(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 2*maxOff)
	_, predictions := w.coverageOf(CostMemory)
	assert.Equal(t, maxOff, predictions)
}
