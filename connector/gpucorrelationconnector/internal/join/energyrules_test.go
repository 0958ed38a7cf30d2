// SPDX-License-Identifier: Apache-2.0

package join

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

// hundred is the usual counter.
var hundred = gpumodel.MustLoad("100ms")

// newSim is a simulation of isolated requests.
func newSim(n int, model gpumodel.Model, seed uint64, change ...func([]gpumodel.Work)) *energySim {
	random := rand.New(rand.NewPCG(seed, 400))
	works, end := isolatedWorks(n, random)
	for _, f := range change {
		f(works)
	}
	run := gpumodel.NewRun(gpumodel.Usual(), works, 1, end, random)
	return &energySim{run: run, model: model, pace: gpumodel.UsualPace(), joiner: newTestJoiner(), random: random}
}

// The bills of executions that follow on each other add up to the counter's rise, whatever
// the counter and wherever the edges are: only at the two outer ones a step of the counter
// is divided.
func TestBillsOfExecutionsInARowAddUpToTheCountersRise(t *testing.T) {
	seeds := uint64(40)
	if raced {
		seeds = 8
	}
	for seed := range seeds {
		random := rand.New(rand.NewPCG(seed, 500))
		model := hundred
		model.Counter.Period = []time.Duration{0, millis(20), millis(100), millis(137), millis(200)}[random.IntN(5)]
		if random.IntN(3) == 0 {
			model.Counter.Share = 0.25
		}
		model.Power.Period = []time.Duration{millis(20), millis(100)}[random.IntN(2)]
		var works []gpumodel.Work
		at := initialRest
		for range 10 + random.IntN(40) {
			d := millis(20 + random.IntN(2000))
			works = append(works, gpumodel.Work{From: int64(at), To: int64(at + d), Watts: 40 + 250*random.Float64(), Demand: 1})
			at += d
		}
		run := gpumodel.NewRun(gpumodel.Usual(), works, 1, at+3*time.Second, random)
		s := &energySim{run: run, model: model, pace: gpumodel.UsualPace(), joiner: newTestJoiner(), random: random}
		s.phase = time.Duration(random.Int64N(int64(time.Second)))
		sum := 0.0
		for _, r := range s.simulate() {
			sum += r.energy
		}
		// What the counter rose within a step, or between two reads, around an outer edge.
		counter := gpumodel.NewMeter(model, run.Total, s.phase)
		rise := func(from, to int64) float64 {
			a, _ := counter.Energy(from)
			b, _ := counter.Energy(to)
			return b - a
		}
		from, to := works[0].From, works[len(works)-1].To
		step := max(model.Counter.Period, millis(60)).Nanoseconds()
		counter.Energy(0)
		first := rise(from-step, from+step)
		middle := rise(from+step, to-step)
		last := rise(to-step, to+step)
		assert.GreaterOrEqual(t, sum, middle, "seed %d, counter %+v", seed, model.Counter)
		assert.LessOrEqual(t, sum, first+middle+last, "seed %d, counter %+v", seed, model.Counter)
	}
}

func TestEnergyOfACounterThatMisbehavesIsAnEstimateWithTheReason(t *testing.T) {
	const hour = int64(time.Hour)
	middle := func(s *energySim, work int) int64 { return (s.run.Works[work].From + s.run.Works[work].To) / 2 }
	for name, test := range map[string]struct {
		corrupt func(s *energySim) func(at int64, joules float64) float64
		reason  string
	}{
		"a counter that steps back": {
			func(s *energySim) func(int64, float64) float64 {
				from, offset := middle(s, 40), 0.0
				return func(at int64, joules float64) float64 {
					if at >= from && offset == 0 {
						offset = joules // the driver was loaded again
					}
					return joules - offset
				}
			}, "counter_reset",
		},
		"a counter that stands still while the GPU works": {
			func(s *energySim) func(int64, float64) float64 {
				from, to, held := s.run.Works[40].From, s.run.Works[40].To+hour, 0.0
				return func(at int64, joules float64) float64 {
					if at < from || at > to {
						held = joules
					}
					return held
				}
			}, "counter_stuck",
		},
		"a step beyond one and a half times the power limit": {
			func(s *energySim) func(int64, float64) float64 {
				s.limit = 300
				from := middle(s, 40)
				return func(at int64, joules float64) float64 {
					if at >= from {
						joules += 70
					}
					return joules
				}
			}, "counter_jump",
		},
		"a step that no GPU can draw": {
			func(s *energySim) func(int64, float64) float64 {
				from := middle(s, 40)
				return func(at int64, joules float64) float64 {
					if at >= from {
						joules += 1e6
					}
					return joules
				}
			}, "counter_jump",
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(41, hundred, 1, func(w []gpumodel.Work) { w[40].To = w[40].From + millis(1900).Nanoseconds() })
			s.corrupt = test.corrupt(s)
			all := s.simulate()
			for _, r := range all {
				if r.work < 40 {
					assert.Equal(t, Measured, r.attributes["gpu.correlation"], "work %d before", r.work)
					continue
				}
				assert.Equal(t, Estimate, r.attributes["gpu.correlation"])
				assert.Equal(t, test.reason, r.attributes["gpu.correlation.reason"])
				assert.Equal(t, test.reason, r.attributes["gpu.energy.reason"])
				assert.Less(t, r.energy, 1000.0, "the step is not billed")
				assert.GreaterOrEqual(t, r.energy, 0.0)
			}
			require.Len(t, all, 41)
		})
	}
}

func TestASpanShorterThanThreeStepsOfTheCounterIsAnEstimate(t *testing.T) {
	s := newSim(41, hundred, 2, func(w []gpumodel.Work) { w[40].To = w[40].From + millis(250).Nanoseconds() })
	for _, r := range s.simulate() {
		if r.work == 40 {
			assert.Equal(t, Estimate, r.attributes["gpu.correlation"])
			assert.Equal(t, "slow_counter", r.attributes["gpu.energy.reason"])
		}
	}
}

// disagreements reads a GPU for a virtual time and returns when the joiner first said that
// counter and power disagree.
func disagreements(t *testing.T, j *Joiner, gain float64, lasts time.Duration) (first time.Duration, found bool) {
	t.Helper()
	random := rand.New(rand.NewPCG(7, 600))
	n := int(lasts / (3 * time.Second))
	works, _ := isolatedWorks(n, random)
	model := hundred
	model.Counter.Gain = gain
	run := gpumodel.NewRun(gpumodel.Usual(), works, 1, lasts, random)
	s := &energySim{run: run, model: model, joiner: j, random: random}
	pace := gpumodel.UsualPace()
	meter := gpumodel.NewMeter(model, run.Total, 0)
	for _, at := range pace.Reads(works, run.End, random) {
		s.joiner.AddMetrics(s.read(meter, nil, at))
		for id, difference := range s.joiner.Drain().Disagreements {
			assert.Equal(t, simGPU, id)
			assert.InDelta(t, gain-1, difference, 0.02)
			return time.Duration(at), true
		}
	}
	return 0, false
}

func TestACounterThatDiffersFromThePowerByATenthIsReportedWithinAMinute(t *testing.T) {
	for _, gain := range []float64{0.9, 1.1} {
		first, found := disagreements(t, newTestJoiner(), gain, 2*time.Minute)
		require.True(t, found, "gain %v", gain)
		assert.Less(t, first, time.Minute, "gain %v", gain)
	}
	for _, gain := range []float64{0.97, 1.03} {
		lasts := time.Hour
		if raced {
			lasts = 10 * time.Minute
		}
		_, found := disagreements(t, newTestJoiner(), gain, lasts)
		assert.False(t, found, "gain %v", gain)
	}
}

func TestADisagreementEndsWithItsGPU(t *testing.T) {
	j := newTestJoiner(func(s *Settings) { s.Limits.GPUs = 1 })
	first, found := disagreements(t, j, 0.9, 2*time.Minute)
	require.True(t, found)
	j.AddMetrics(gpuload.Sample(first.Seconds()+120, gpuload.Steady("GPU-other", 0, 0)))
	assert.Equal(t, map[string]float64{simGPU: 0}, j.Drain().Disagreements, "it made room for another")
}

func TestRestPowerComesOnlyFromTimesInWhichNothingUsedTheGPU(t *testing.T) {
	use := func(u float64) *gpuload.Load {
		gpu := gpuload.Steady(gpuload.A, 20, 22)
		gpu.Util = func(s float64) float64 {
			if s >= 20 && s < 22 {
				return 0.9
			}
			return u
		}
		return gpu
	}
	bill := func(c *Joiner, gpu *gpuload.Load) map[string]any {
		samples(c, 0, 23, 0.1, gpu)
		c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: gpuload.A, From: 20, To: 22}), gpuload.At(23))
		return out(t, c)["1.1"]
	}
	idle := bill(newTestJoiner(), use(0))
	near(t, 30, idle["gpu.power.rest"], 0.5, "the power before")
	near(t, 2e9, idle["gpu.power.rest.memory"], 0, "and the memory that was held then")
	used := bill(newTestJoiner(), use(0.01)) // another program's
	assert.NotContains(t, used, "gpu.energy.marginal")
	assert.Equal(t, "no_rest", used["gpu.energy.marginal.reason"])
	assert.Contains(t, used, "gpu.energy")
	override := bill(newTestJoiner(func(s *Settings) { s.Energy.RestPower = 25 }), use(0.01))
	near(t, 400-2*25, override["gpu.energy.marginal"], 2, "the configured one")

	// A prompt that is open, though the driver says that nothing uses the GPU.
	c := newTestJoiner()
	s := &energySim{run: &gpumodel.Run{Works: []gpumodel.Work{{From: 0, To: 1}}}}
	c.AddLogs(s.started(0), gpuload.At(0))
	open := bill(c, use(0))
	assert.Contains(t, open, "gpu.energy.marginal", "of another GPU")
	ld := s.started(0)
	ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().PutStr("hw.id", gpuload.A)
	c = newTestJoiner()
	c.AddLogs(ld, gpuload.At(0))
	assert.NotContains(t, bill(c, use(0)), "gpu.energy.marginal")
}

func TestAGainThatWasMeasuredIsAppliedAndOneThatWasNotIsNamed(t *testing.T) {
	model := hundred
	model.Counter.Gain = 0.95
	for _, gain := range []float64{1, 0.95} {
		s := newSim(300, model, 3)
		s.joiner.settings.Energy.Gain = gain
		var e errorsOf
		named := 0.0
		for _, r := range s.simulate() {
			w := &s.run.Works[r.work]
			truth, _ := s.run.Truth(r.work, w.From, w.To)
			relative, ok := r.attributes["gpu.energy.gain.uncertainty"].(float64)
			assert.Equal(t, gain == 1, ok)
			named = relative
			e.add(r.energy, truth, r.uncertainty+relative*r.energy/(1-relative))
		}
		t.Logf("gain %v: bias %.2f %%, coverage %.1f %%", gain, e.bias(), 100*e.coverage())
		assert.GreaterOrEqual(t, e.coverage(), minCoverage, "the uncertainty and that of the gain (%v) cover it", named)
		if gain != 1 {
			assert.LessOrEqual(t, math.Abs(e.bias()), 0.5)
		}
	}
}

func TestEnergyComesFromTheBestThatAGPUOffers(t *testing.T) {
	for kind, method := range map[string]string{"vgpu": "power.instant", "average-only": "power.average", "v100": "counter", "rtx-2080": "counter"} {
		t.Run(kind, func(t *testing.T) {
			for _, r := range newSim(5, gpumodel.MustLoad(kind), 4).simulate() {
				assert.Equal(t, method, r.attributes["gpu.energy.method"])
				assert.Equal(t, method == "power.average", r.attributes["gpu.correlation"] == Estimate)
				assert.Positive(t, r.uncertainty)
			}
		})
	}
}

func TestAMIGDeviceHasNoEnergyAndSaysWhy(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady("MIG-1", 10, 12)
	for i := range 130 {
		md := gpuload.Sample(float64(i)/10, gpu)
		md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().RemoveIf(func(m pmetric.Metric) bool { return m.Name() == "hw.energy" })
		c.AddMetrics(md)
	}
	c.AddTraces(gpuload.Trace(1, gpuload.Span{ID: 1, GPU: "MIG-1", From: 10, To: 12}), gpuload.At(13))
	c.Finish()
	got := out(t, c)["1.1"]
	assert.Equal(t, "mig", got["gpu.energy.reason"])
	assert.NotContains(t, got, "gpu.energy")
	assert.Equal(t, Measured, got["gpu.correlation"], "its memory is")
}
