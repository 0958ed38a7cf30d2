// SPDX-License-Identifier: Apache-2.0

package join

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

// queue is the work of one of several processes: what it works on, and for how long.
type queue struct {
	lasts  [2]int // ms, at random between the two
	remote [2]int // ms before that, elsewhere
	demand float64
	watts  float64
}

// Small images use the GPU for less of the time, and draw less power in it, than their
// share of its time says: 0.8 of it, which is assumed.
var (
	queue256    = queue{lasts: [2]int{500, 800}, demand: 0.5, watts: 150}
	queue1280   = queue{lasts: [2]int{1400, 2200}, demand: 0.97, watts: 190}
	queueRemote = queue{lasts: [2]int{500, 900}, remote: [2]int{1000, 2000}, demand: 0.9, watts: 180}
)

type mix struct {
	name    string
	queues  [2]queue
	unequal bool
}

var mixes = []mix{
	{"mix_equal", [2]queue{queue1280, queue1280}, false},
	{"mix_256_beside_1280", [2]queue{queue256, queue1280}, true},
	{"mix_remote_beside_local", [2]queue{queueRemote, queue1280}, true},
}

func (m *mix) works(n int, random *rand.Rand) (works []gpumodel.Work, end time.Duration) {
	var at [2]time.Duration
	for p := range at {
		at[p] = initialRest + millis(random.IntN(300))
	}
	ms := func(d [2]int) time.Duration { return millis(d[0] + random.IntN(max(d[1]-d[0], 1))) }
	for range n {
		p := 0 // who is behind
		if at[1] < at[0] {
			p = 1
		}
		q := &m.queues[p]
		w := gpumodel.Work{Process: p, From: int64(at[p]), Demand: q.demand, Watts: q.watts * (0.9 + 0.2*random.Float64())}
		if q.remote[1] > 0 {
			w.Remote = ms(q.remote)
		}
		w.To = w.From + int64(w.Remote) + int64(ms(q.lasts))
		works = append(works, w)
		at[p] = time.Duration(w.To) + millis(random.IntN(100))
		if random.IntN(60) == 0 { // nobody comes for a while
			at[p] += 5 * time.Second
		}
	}
	slices.SortFunc(works, func(a, b gpumodel.Work) int { return int(min(max(a.From-b.From, -1), 1)) })
	return works, max(at[0], at[1]) + 7*time.Second
}

// billsOfMix compares energies, and what is left without the rest power.
func billsOfMix(t *testing.T, run *gpumodel.Run, model gpumodel.Model, withUses bool, random *rand.Rand) (whole, above errorsOf) {
	t.Helper()
	s := &energySim{run: run, model: model, pace: gpumodel.UsualPace(), joiner: newTestJoiner(), random: random, withUses: withUses}
	for _, r := range s.simulate() {
		w := &run.Works[r.work]
		energy, marginal := run.Truth(r.work, w.From+w.Remote.Nanoseconds(), w.To)
		whole.add(r.energy, energy, r.uncertainty)
		require.Contains(t, r.attributes, "gpu.energy.marginal", "work %d", r.work)
		above.add(r.marginal, marginal, r.uncertainty)
	}
	return whole, above
}

// evenBills are those of an even division among all prompts that run at a time: what joining
// the GPU's power with the prompts gives. With local it is one among those that do not run
// elsewhere at the time, which needs to know where they run.
func evenBills(run *gpumodel.Run, local bool) (whole, above errorsOf) {
	from := func(w *gpumodel.Work) int64 {
		if local {
			return w.From + w.Remote.Nanoseconds()
		}
		return w.From
	}
	for i := range run.Works {
		w := &run.Works[i]
		energy, marginal := run.Truth(i, w.From+w.Remote.Nanoseconds(), w.To)
		var billed, rest float64
		for at := from(w); at < w.To; at += int64(time.Millisecond) {
			n := 0
			for k := range run.Works {
				if from(&run.Works[k]) <= at && at < run.Works[k].To {
					n++
				}
			}
			billed += run.Total.Between(at, at+int64(time.Millisecond)) / float64(n)
			rest += run.Rest.Between(at, at+int64(time.Millisecond)) / float64(n)
		}
		whole.add(billed, energy, 0)
		above.add(billed-rest, marginal, 0)
	}
	return whole, above
}

func TestEnergyOfProcessesThatShareAGPUIsDividedByTheirUse(t *testing.T) {
	seed := seedOf(t)
	for i, m := range mixes {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(100+i)))
			works, end := m.works(energySpans(), random)
			run := gpumodel.NewRun(gpumodel.Usual(), works, 2, end, random)
			whole, above := billsOfMix(t, run, hundred, true, rand.New(rand.NewPCG(seed, uint64(200+i))))
			evenWhole, evenAbove := evenBills(run, false)
			localWhole, localAbove := evenBills(run, true)
			blind, _ := billsOfMix(t, run, hundred, false, rand.New(rand.NewPCG(seed, uint64(200+i))))
			for _, c := range []struct {
				name             string
				got, even, local *errorsOf
			}{{m.name, &whole, &evenWhole, &localWhole}, {m.name + ".marginal", &above, &evenAbove, &localAbove}} {
				assert.GreaterOrEqual(t, c.got.n, energySpans(), "spans of %s", c.name)
				if raced {
					continue
				}
				figure.Print("energy."+c.name+".spans", float64(c.got.n), "spans")
				figure.AtMost("energy."+c.name+".bias", math.Abs(c.got.bias()), "%", 1)
				assert.LessOrEqual(t, math.Abs(c.got.bias()), 1.0, "bias of %s in percent", c.name)
				figure.Print("energy."+c.name+".mean_error_even", c.even.mean(), "%")
				figure.Print("energy."+c.name+".mean_error_even_on_gpu", c.local.mean(), "%")
				if !m.unequal {
					figure.Print("energy."+c.name+".mean_error", c.got.mean(), "%")
					continue
				}
				assert.LessOrEqual(t, c.got.mean(), c.local.mean(), "mean error of %s beside an even division's among those that use the GPU, in percent", c.name)
				figure.AtMost("energy."+c.name+".mean_error", c.got.mean(), "%", c.even.mean()/2)
				assert.LessOrEqual(t, c.got.mean(), c.even.mean()/2, "mean error of %s beside half of an even division's, in percent", c.name)
			}
			whole.beside = true
			whole.checkUncertainty(t, m.name)
			if raced {
				return
			}
			figure.AtLeast("energy."+m.name+".marginal.coverage", 100*above.coverage(), "%", 100*minCoverage)
			assert.GreaterOrEqual(t, above.coverage(), minCoverage, "coverage of %s without the rest power", m.name)
			figure.Print("energy."+m.name+".coverage_without_use", 100*blind.coverage(), "%")
			assert.GreaterOrEqual(t, blind.coverage(), minCoverage, "coverage of %s where the driver does not say what each process used", m.name)
		})
	}
}
