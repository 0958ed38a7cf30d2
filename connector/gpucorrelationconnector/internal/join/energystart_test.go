// SPDX-License-Identifier: Apache-2.0

package join

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpumodel"
)

// startWorks are requests of which the first begins soon after the first reading.
func startWorks(random *rand.Rand) (works []gpumodel.Work, end time.Duration) {
	at := time.Duration(random.Int64N(int64(1500 * time.Millisecond)))
	for range 3 {
		d := millis(500 + random.IntN(1500))
		works = append(works, gpumodel.Work{From: int64(at), To: int64(at + d), Watts: 90 + 150*random.Float64(), Demand: 1})
		at += d + millis(random.IntN(600))
	}
	return works, at + 3*time.Second
}

func TestEnergyOfTheFirstSpansIsWithinItsUncertainty(t *testing.T) {
	for i, kind := range counterKinds {
		if kind.estimate || kind.calibrated {
			continue
		}
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seedOf(t), uint64(700+i)))
			e := errorsOf{allowed: 2} // nothing is known of the counter yet
			for e.n < energySpans() {
				works, end := startWorks(random)
				run := gpumodel.NewRun(gpumodel.Usual(), works, 1, end, random)
				s := &energySim{run: run, model: gpumodel.MustLoad(kind.kind), pace: gpumodel.UsualPace(), joiner: newTestJoiner(), random: random}
				for _, r := range s.simulate() {
					if r.attributes["gpu.correlation.reason"] == "history" { // it began before the readings, and says so
						continue
					}
					w := &run.Works[r.work]
					truth, _ := run.Truth(r.work, w.From, w.To)
					require.Contains(t, r.attributes, "gpu.energy")
					e.add(r.energy, truth, r.uncertainty)
				}
			}
			e.check(t, "start."+kind.name, limit{}, false)
		})
	}
}
