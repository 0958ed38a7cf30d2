// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

const (
	// energySeed is the seed in make test; make bench-energy sets another in ENERGY_SEED.
	energySeed = 15
	// minCoverage is 90 % less two standard deviations at 1,000 spans.
	minCoverage = 0.88
	// beyondOneIn is of how many spans one may be beyond three times its uncertainty.
	beyondOneIn = 500
)

// energySpans is the least number of spans of a row.
func energySpans() int {
	if raced {
		return 60
	}
	return 1000
}

// seedOf is the seed of the energy benchmark.
func seedOf(tb testing.TB) uint64 {
	tb.Helper()
	text := os.Getenv("ENERGY_SEED")
	if text == "" {
		return energySeed
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	require.NoError(tb, err, "ENERGY_SEED")
	return seed
}

// initialRest is for how long a simulated GPU rests at first.
const initialRest = 20 * time.Second

func millis(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// counterKind is one row of the table: a kind of counter, and the bounds in percent.
type counterKind struct {
	name, kind       string
	calibrated       bool
	isolated, queued limit
	estimate         bool // no bounds: the product says so itself
}

// limit bounds the bias and the mean absolute relative error, in percent.
type limit struct{ bias, mean float64 }

// Beside most counters the power is refreshed every 100 ms, which helps less than 20 ms.
var counterKinds = []counterKind{
	{name: "continuous", kind: "continuous", isolated: limit{0.3, 0.5}, queued: limit{0.3, 0.5}},
	{name: "20ms", kind: "20ms", isolated: limit{0.5, 1}, queued: limit{0.5, 1}},
	{name: "100ms", kind: "100ms", isolated: limit{0.5, 1}, queued: limit{0.5, 1.5}},
	// The division within a step by fresh power.
	{name: "100ms_power_20ms_calibrated", kind: "100ms-power-20ms", calibrated: true, isolated: limit{0.5, 1}, queued: limit{0.5, 1.5}},
	{name: "100ms_late_calibrated", kind: "100ms-late", calibrated: true, isolated: limit{0.5, 1}, queued: limit{0.5, 1.5}},
	{name: "100ms_late", kind: "100ms-late", isolated: limit{2, 2.5}, queued: limit{1, 2}},
	{name: "25_of_100ms", kind: "25-of-100ms", isolated: limit{1, 3}, queued: limit{1, 3.5}},
	{name: "none_power_20ms", kind: "vgpu", isolated: limit{1, 2}, queued: limit{1, 2.5}},
	{name: "none_power_100ms", kind: "vgpu-power-100ms", isolated: limit{4, 4}, queued: limit{1, 4.5}},
	{name: "none_average", kind: "average-only", estimate: true},
	{name: "none_average_whole", kind: "average-only-whole", estimate: true},
}

// isolatedWorks are requests with pauses between them, queuedWorks such that wait for each
// other, fifty at a time.
func isolatedWorks(n int, random *rand.Rand) (works []gpumodel.Work, end time.Duration) {
	at := initialRest
	for range n {
		d := millis(500 + random.IntN(1500))
		works = append(works, gpumodel.Work{From: int64(at), To: int64(at + d), Watts: 90 + 150*random.Float64(), Demand: 1})
		at += d + millis(800+random.IntN(2500))
	}
	return works, at + 2*time.Second
}

func queuedWorks(n int, random *rand.Rand) (works []gpumodel.Work, end time.Duration) {
	at := initialRest
	for i := range n {
		d := millis(500 + random.IntN(1500))
		works = append(works, gpumodel.Work{From: int64(at), To: int64(at + d), Watts: 90 + 150*random.Float64(), Demand: 1})
		at += d + time.Duration(random.Int64N(int64(millis(3))))
		if i%50 == 49 {
			at += 8 * time.Second
		}
	}
	return works, at + 2*time.Second
}

// errors are those of the figures of a row.
type errorsOf struct {
	n                  int
	signed, truth      float64
	relative, absolute float64
	covered, beyond    int // within the uncertainty, beyond three times it
	uncertainty        float64
	// allowed is what sharpness may be, 1 if it is 0; estimate is set where the product says
	// itself that it does not know.
	allowed  float64
	estimate bool
	// beside: several shared the GPU, and the division among them is beyond its uncertainty
	// more often.
	beside bool
}

func (e *errorsOf) add(got, truth, uncertainty float64) {
	off := got - truth
	e.n++
	e.signed += off
	e.truth += truth
	e.absolute += math.Abs(off)
	e.relative += math.Abs(off) / truth
	e.uncertainty += uncertainty
	if math.Abs(off) <= uncertainty {
		e.covered++
	}
	if math.Abs(off) > 3*uncertainty {
		e.beyond++
	}
}

func (e *errorsOf) bias() float64     { return 100 * e.signed / e.truth }
func (e *errorsOf) mean() float64     { return 100 * e.relative / float64(e.n) }
func (e *errorsOf) coverage() float64 { return float64(e.covered) / float64(e.n) }

// sharpness is the mean of the uncertainties as a part of what it may be: four times the
// mean absolute error, or 1.5 % of the mean energy.
func (e *errorsOf) sharpness() float64 { return e.uncertainty / max(4*e.absolute, 0.015*e.truth) }

// check prints the figures of a row and asserts their bounds.
func (e *errorsOf) check(t *testing.T, row string, l limit, bounded bool) {
	t.Helper()
	name := "energy." + row
	assert.GreaterOrEqual(t, e.n, energySpans(), "spans of %s", row)
	if raced {
		return
	}
	figure.Print(name+".spans", float64(e.n), "spans")
	if bounded {
		figure.AtMost(name+".bias", math.Abs(e.bias()), "%", l.bias)
		figure.AtMost(name+".mean_error", e.mean(), "%", l.mean)
		assert.LessOrEqual(t, math.Abs(e.bias()), l.bias, "bias of %s in percent", row)
		assert.LessOrEqual(t, e.mean(), l.mean, "mean error of %s in percent", row)
	} else {
		figure.Print(name+".bias", e.bias(), "%")
		figure.Print(name+".mean_error", e.mean(), "%")
	}
	e.checkUncertainty(t, row)
}

func (e *errorsOf) checkUncertainty(t *testing.T, row string) {
	t.Helper()
	if raced {
		return
	}
	name := "energy." + row
	figure.AtLeast(name+".coverage", 100*e.coverage(), "%", 100*minCoverage)
	figure.Print(name+".uncertainty", 100*e.uncertainty/e.truth, "%")
	allowed := cmp.Or(e.allowed, 1)
	figure.AtMost(name+".uncertainty_of_allowed", e.sharpness(), "ratio", allowed)
	if e.estimate {
		figure.Print(name+".beyond_three_times", float64(e.beyond), "spans")
	} else {
		most := e.n / beyondOneIn
		if e.beside {
			most = e.n / 200
		}
		figure.AtMost(name+".beyond_three_times", float64(e.beyond), "spans", float64(most))
		assert.LessOrEqual(t, e.beyond, most, "spans of %s beyond three times their uncertainty", row)
	}
	assert.GreaterOrEqual(t, e.coverage(), minCoverage, "coverage of %s", row)
	assert.LessOrEqual(t, e.sharpness(), allowed, "mean uncertainty of %s beside what is allowed", row)
}

// newEnergyJoiner makes a joiner that knows a counter, if it is calibrated.
func newEnergyJoiner(calibrated bool, c gpumodel.Counter) *Joiner {
	return newTestJoiner(func(s *Settings) {
		if calibrated {
			s.Energy.Calibrated = map[string]Calibration{simGPU: {Lag: c.Lag, Share: cmp.Or(c.Share, 1)}}
		}
	})
}

// billsOf runs a row.
func billsOf(t *testing.T, kind *counterKind, works func(int, *rand.Rand) ([]gpumodel.Work, time.Duration), random *rand.Rand) (e, linear errorsOf) {
	t.Helper()
	list, end := works(energySpans(), random)
	run := gpumodel.NewRun(gpumodel.Usual(), list, 1, end, random)
	model := gpumodel.MustLoad(kind.kind)
	e.estimate = kind.estimate
	s := &energySim{run: run, model: model, pace: gpumodel.UsualPace(), joiner: newEnergyJoiner(kind.calibrated, model.Counter), random: random}
	for _, r := range s.simulate() {
		w := &run.Works[r.work]
		truth, _ := run.Truth(r.work, w.From, w.To)
		require.Contains(t, r.attributes, "gpu.energy", "work %d", r.work)
		if kind.estimate {
			assert.Equal(t, Estimate, r.attributes["gpu.correlation"])
		}
		e.add(r.energy, truth, r.uncertainty)
		between, _ := s.counter.Rise(gputimeline.Interval{From: w.From, To: w.To})
		linear.add(between, truth, 0)
	}
	return e, linear
}

// printLinear prints what interpolation between readings makes of the same readings.
func (e *errorsOf) printLinear(row string, absent bool) {
	if !absent && !raced {
		figure.Print("energy."+row+".linear_between_readings.bias", e.bias(), "%")
		figure.Print("energy."+row+".linear_between_readings.mean_error", e.mean(), "%")
	}
}

func TestEnergyIsAsTrueAsTheCounterAllows(t *testing.T) {
	seed := seedOf(t)
	fmt.Printf("energy seed %d\n", seed)
	for i, kind := range counterKinds {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			absent := gpumodel.MustLoad(kind.kind).Counter.Absent
			isolated, linear := billsOf(t, &kind, isolatedWorks, rand.New(rand.NewPCG(seed, uint64(2*i))))
			isolated.check(t, kind.name+".isolated", kind.isolated, !kind.estimate)
			linear.printLinear(kind.name+".isolated", absent)
			queued, linear := billsOf(t, &kind, queuedWorks, rand.New(rand.NewPCG(seed, uint64(2*i+1))))
			queued.check(t, kind.name+".queued", kind.queued, !kind.estimate)
			linear.printLinear(kind.name+".queued", absent)
		})
	}
}

// nodeWorks are queued works of two or three nodes, of different power.
func nodeWorks(n int, random *rand.Rand) (works []gpumodel.Work, nodes [][]gpumodel.Node, end time.Duration) {
	works, end = queuedWorks(n, random)
	for i := range works {
		w := &works[i]
		w.Spread = 0.3
		k := 1 + random.IntN(2)
		length := (w.To - w.From) / int64(k+1)
		edges := []int64{w.From}
		for e := 1; e <= k; e++ {
			edges = append(edges, w.From+int64(e)*length+random.Int64N(int64(millis(100)))-int64(millis(50)))
		}
		w.Phases = edges[1:]
		edges = append(edges, w.To)
		var all []gpumodel.Node
		for e := range edges[1:] {
			all = append(all, gpumodel.Node{From: edges[e], To: edges[e+1]})
		}
		nodes = append(nodes, all)
	}
	return works, nodes, end
}

func TestEnergyOfNodesWhoseEdgesAreLateIsWithinItsUncertainty(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(seedOf(t), 300))
	works, nodes, end := nodeWorks(energySpans()/2, random)
	run := gpumodel.NewRun(gpumodel.Usual(), works, 1, end, random)
	s := &energySim{
		run: run, model: hundred, pace: gpumodel.UsualPace(), joiner: newTestJoiner(), random: random,
		nodes: nodes, late: millis(150),
	}
	var e errorsOf
	for _, r := range s.simulate() {
		if r.node < 0 {
			continue
		}
		n := nodes[r.work][r.node]
		truth, _ := run.Truth(r.work, n.From, n.To)
		e.add(r.energy, truth, r.uncertainty)
	}
	e.check(t, "nodes_150ms_late", limit{}, false)
}
