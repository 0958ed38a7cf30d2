// SPDX-License-Identifier: Apache-2.0

package calibration

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

// squareWave is a load of several periods, and the power that it makes a GPU draw: with
// ramps, and 15 W of noise.
func squareWave(random *rand.Rand) (on []Interval, power *gpumodel.Signal, end int64) {
	const ms = int64(time.Millisecond)
	var works []gpumodel.Work
	at := 2000 * ms
	for _, period := range []int64{130, 170, 230, 310, 470, 730} {
		for range 8000 / period {
			w := Interval{at, at + period*ms/2}
			on = append(on, w)
			works = append(works, gpumodel.Work{From: w.From, To: w.To, Watts: 200, Demand: 1, Spread: 0.02})
			at += period * ms
		}
	}
	shape := gpumodel.Usual()
	shape.Head, shape.Tail = [2]time.Duration{}, [2]time.Duration{}
	run := gpumodel.NewRun(shape, works, 1, time.Duration(at)+time.Second, random)
	return on, run.Total, run.End
}

func TestACounterIsFoundAsItIs(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	models := []gpumodel.Model{
		{Counter: gpumodel.Counter{Period: ms(100), Lag: ms(50), Share: 0.25}, Power: gpumodel.Power{Period: ms(100)}},
		{Counter: gpumodel.Counter{Period: ms(200), Lag: ms(80), Share: 0.5}, Power: gpumodel.Power{Period: ms(20)}},
		{Counter: gpumodel.Counter{Lag: ms(30), Gain: 0.9}, Power: gpumodel.Power{Period: ms(100)}},
	}
	for _, name := range gpumodel.Kinds() {
		if m := gpumodel.MustLoad(name); !m.Counter.Absent {
			models = append(models, m)
		}
	}
	for i, model := range models {
		want := model.Counter
		t.Run(fmt.Sprintf("%s%+v", model.Origin, want), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(i), 3))
			on, power, end := squareWave(random)
			meter := gpumodel.NewMeter(model, power, time.Duration(random.Int64N(int64(time.Second))))
			var readings []Reading
			for at := 500 * int64(time.Millisecond); at < end; at += 4_500_000 + random.Int64N(1_000_000) {
				joules, _ := meter.Energy(at)
				watts, _ := meter.Instant(at)
				readings = append(readings, Reading{at, float64(int64(joules*1000)) / 1000, watts})
			}
			got, err := Estimate(on, readings)
			require.NoError(t, err)
			t.Logf("%+v", got)
			assert.InDelta(t, want.Period, got.Period, 0.05*float64(want.Period))
			assert.InDelta(t, want.Lag, got.Lag, 10e6)
			assert.InDelta(t, cmp.Or(want.Share, 1), got.Share, 0.0501)
			if model.Power.NoInstant {
				assert.Zero(t, got.Ratio)
			} else {
				assert.InDelta(t, cmp.Or(want.Gain, 1), got.Ratio, 0.02)
			}
		})
	}
}

func TestACounterThatDoesNotRiseIsNotCalibrated(t *testing.T) {
	_, err := Estimate([]Interval{{0, 1}}, []Reading{{0, 1, 1}, {1, 1, 1}})
	assert.ErrorContains(t, err, "is the load on the GPU")
}
