// SPDX-License-Identifier: Apache-2.0

package memorymix

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tokens is a policy that knows the law: a prompt's bound is a quantile of its need.
type tokens struct {
	law      *law.Law
	quantile float64
	// needsOnly counts what runs or will run, and not what is held.
	needsOnly bool
	frees     bool // it posts /free to idle neighbours
	seen      map[law.Load]int
	cold      int
}

// Saw implements [Policy].
func (p *tokens) Saw(e Execution) {
	if p.seen == nil {
		p.seen = map[law.Load]int{}
	}
	p.seen[e.Load]++
	if e.Loaded {
		p.cold++
	}
}

// maxContext bounds a CUDA context.
const maxContext = 840 * law.MiB

// Ask implements [Policy].
func (p *tokens) Ask(q *Question) Answer {
	if p.fits(q) {
		return Admit
	}
	if p.frees {
		for i, s := range q.Servers {
			if i != q.Server && len(s.Queue) == 0 {
				q.Free(i)
			}
		}
		q.Readings = q.mix.screen.Readings()
		if p.fits(q) {
			return Admit
		}
	}
	return Refuse
}

func (p *tokens) fits(q *Question) bool {
	held := map[int]int64{}
	foreign := q.Readings.Used // what no process lists, too
	for _, r := range q.Readings.Processes {
		held[r.PID] = r.Used
	}
	room := q.Readings.Total
	for i, s := range q.Servers {
		foreign -= held[s.PID]
		if i == q.Server {
			room -= held[s.PID] - s.Memory.TorchTotal // its context
			continue
		}
		claim := held[s.PID]
		if p.needsOnly {
			claim -= s.Memory.TorchTotal
		}
		for _, load := range s.Queue {
			claim = max(claim, maxContext+p.law.NeedQuantile(load, p.quantile))
		}
		room -= claim
	}
	return p.law.NeedQuantile(q.Load, p.quantile) <= room-foreign
}

func run(t *testing.T, mix Mix, seed uint64, prompts int, p *tokens) Outcome {
	t.Helper()
	var policy func(l *law.Law) Policy
	if p != nil {
		policy = func(l *law.Law) Policy { p.law = l; return p }
	}
	return Run(t, mix, seed, prompts, 3, policy)
}

// TestTwoServersThatAlternateOn8GiB keep what their largest photo used, so that about half of all run
// out of memory; none does if what is held counts, and is given back.
func TestTwoServersThatAlternateOn8GiB(t *testing.T) {
	for seed := uint64(1); seed <= 2; seed++ {
		without := run(t, Alternating(), seed, 500, nil)
		assert.InDelta(t, 0.5, without.OutOfMemoryPart(), 0.12)
		assert.Equal(t, 500, without.Admitted)
		needs := run(t, Alternating(), seed, 500, &tokens{quantile: 0.999, needsOnly: true})
		assert.Greater(t, needs.OutOfMemoryPart(), 0.35, "to count needs alone does not help")
		held := run(t, Alternating(), seed, 500, &tokens{quantile: 0.999})
		assert.Zero(t, held.OutOfMemory)
		assert.Greater(t, held.Refused, 100, "an idle neighbour holds what they need")
		freed := run(t, Alternating(), seed, 500, &tokens{quantile: 0.999, frees: true})
		assert.Zero(t, freed.OutOfMemory)
		assert.Zero(t, freed.Refused)
		assert.Equal(t, 500, freed.Fitting)
	}
}

// TestBroadMixesDoNotLimitAGoodPolicy has a policy that knows the law decide.
func TestBroadMixesDoNotLimitAGoodPolicy(t *testing.T) {
	var without, with Outcome
	for _, mix := range Broad() {
		without.Add(run(t, mix, 1, 200, nil))
		p := &tokens{quantile: 0.9995}
		with.Add(run(t, mix, 1, 200, p))
		for _, load := range mix.Loads {
			require.GreaterOrEqual(t, p.seen[load], 3, "it has seen what it was to learn from")
		}
		require.Positive(t, p.cold)
	}
	assert.Equal(t, len(Broad())*200, with.Asked)
	assert.Equal(t, with.Asked, with.Admitted+with.Refused)
	assert.Greater(t, without.OutOfMemoryPart(), 0.1)
	assert.LessOrEqual(t, with.OutOfMemoryPart(), 0.002)
	assert.LessOrEqual(t, with.RefusedPart(), 0.08)
	assert.Positive(t, with.RefusedFitting)
}

// TestBoundaryMixesAreAtTheEdge has half of the prompts fit.
func TestBoundaryMixesAreAtTheEdge(t *testing.T) {
	without := run(t, Boundary(), 1, 1000, nil)
	assert.InDelta(t, 0.5, without.OutOfMemoryPart(), 0.1)
	assert.InDelta(t, without.Asked-without.OutOfMemory, without.Fitting, 0, "the truth is what the simulation does")
	careful := run(t, Boundary(), 1, 1000, &tokens{quantile: 0.99})
	assert.Less(t, careful.OutOfMemoryPart(), 0.03)
	assert.Less(t, careful.Admitted, 500)
	assert.Positive(t, careful.Admitted)
}

// prober admits every prompt as a probe.
type prober struct{ probes int }

// Ask implements [Policy].
func (*prober) Ask(*Question) Answer { return Probe }

// Saw implements [Policy].
func (p *prober) Saw(e Execution) {
	if e.Probe {
		p.probes++
	}
}

func TestProbesCountApart(t *testing.T) {
	p := &prober{}
	o := Run(t, Alternating(), 1, 100, 3, func(*law.Law) Policy { return p })
	assert.Equal(t, 100, o.Probes)
	assert.Equal(t, 100, p.probes)
	assert.Zero(t, o.OutOfMemory)
	assert.InDelta(t, 50, o.FailedProbes, 15)
	assert.Zero(t, o.OutOfMemoryPart())
}

func TestTheSameSeedIsTheSameOutcome(t *testing.T) {
	for _, mix := range []Mix{Broad()[3], Alternating(), Boundary()} {
		outcome := func(seed uint64) Outcome { return run(t, mix, seed, 200, &tokens{quantile: 0.99}) }
		once, again := outcome(5), outcome(5)
		assert.Equal(t, once, again)
		assert.NotEqual(t, once, outcome(6))
	}
}
