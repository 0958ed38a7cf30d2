// SPDX-License-Identifier: Apache-2.0

package memorymix

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// byLoading compares what the allocator held, where it grew, with the median need: the sums of warm and of
// cold executions.
type byLoading struct {
	*tokens
	contexts  map[int]int64
	executed  [2]float64
	ofTheNeed [2]float64
}

// Saw implements [Policy].
func (b *byLoading) Saw(e Execution) {
	b.tokens.Saw(e)
	cold := 0
	if e.Loaded {
		cold = 1
	}
	if _, known := b.contexts[e.Server]; !known {
		b.contexts[e.Server] = e.HeldBefore // its first execution: it holds nothing else
	}
	if e.Made && e.HeldAfter > e.HeldBefore {
		b.executed[cold]++
		b.ofTheNeed[cold] += float64(e.HeldAfter-b.contexts[e.Server]) / float64(b.law.NeedQuantile(e.Load, 0.5))
	}
}

// TestColdAndWarmExecutionsShowTheSameNeed: they are samples of one model (decision 67). Needs deviate by
// 3 %, so that the means of 200 do by 0.3 % with what the steps add.
func TestColdAndWarmExecutionsShowTheSameNeed(t *testing.T) {
	b := &byLoading{tokens: &tokens{quantile: 0.999, frees: true}, contexts: map[int]int64{}}
	for seed := range uint64(2) {
		clear(b.contexts)
		Run(t, Alternating(), seed+1, 500, 3, func(l *law.Law) Policy { b.law = l; return b })
	}
	for _, n := range b.executed {
		assert.Greater(t, n, 200.0)
	}
	assert.InDelta(t, b.ofTheNeed[0]/b.executed[0], b.ofTheNeed[1]/b.executed[1], 0.02)
}

// sampling compares what is sampled with the truth.
type sampling struct {
	*tokens
	all, unseen, below int
}

// Saw implements [Policy].
func (s *sampling) Saw(e Execution) {
	s.tokens.Saw(e)
	s.all++
	switch {
	case e.Active > e.Peak:
		panic("more was seen than there was")
	case e.Active == 0:
		s.unseen++
	case e.Active < e.Peak:
		s.below++
	}
}

// TestAPolicySeesWhatIsSampled, which is less than the truth where the last part of the memory is used for
// less than the interval.
func TestAPolicySeesWhatIsSampled(t *testing.T) {
	s := &sampling{tokens: &tokens{quantile: 0.999, frees: true}}
	Run(t, Broad()[5], 1, 500, 3, func(l *law.Law) Policy { s.law = l; return s })
	assert.Greater(t, s.all, 400)
	assert.Positive(t, s.below)
	assert.Less(t, s.below+s.unseen, s.all/2)
}
