// SPDX-License-Identifier: Apache-2.0

package law

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// draws are how many prompts the comparisons of parts and means use: the standard error of a
// part of 1 % is then 0.05 %, of a coefficient of variation of 10 % 0.04 %.
const draws = 40000

func drawn(l *Law, w Load) []Drawn {
	all := make([]Drawn, draws)
	for i := range all {
		all[i] = l.Draw(fmt.Sprint("prompt ", i), w)
	}
	return all
}

func TestTimeHasItsNoise(t *testing.T) {
	l := New(1)
	w := Load{Side: 1024, Batch: 1, Checkpoint: DefaultCheckpoint}
	typical := l.typicalTime(w)
	sum, squares, ordinary, outlying, tripled, all := 0.0, 0.0, 0, 0, 0.0, 0.0
	for _, d := range drawn(l, w) {
		x := d.Exclusive.Seconds() / typical
		all += x
		if x > 1.8 { // 7 deviations above the ordinary, 4 below the outliers
			outlying++
			tripled += x
			continue
		}
		ordinary++
		sum, squares = sum+x, squares+x*x
	}
	mean := sum / float64(ordinary)
	assert.InDelta(t, 1, mean, 0.003)
	assert.InDelta(t, 0.10, math.Sqrt(squares/float64(ordinary)-mean*mean)/mean, 0.003, "coefficient of variation")
	assert.InDelta(t, 0.01, float64(outlying)/draws, 0.002, "1 % of prompts")
	assert.InDelta(t, 3, tripled/float64(outlying), 0.1, "are three times as long")
	assert.InDelta(t, l.MeanTime(w).Seconds(), typical*all/draws, 0.01*typical)
}

func TestNeedComesInStepsWithItsNoise(t *testing.T) {
	l := New(2)
	w := Load{Side: 1280, Batch: 1, Checkpoint: DefaultCheckpoint}
	typical := l.typicalNeed(w)
	far, sum, squares, ordinary := 0, 0.0, 0.0, 0
	for _, d := range drawn(l, w) {
		require.Zero(t, d.Need%NeedStep)
		x := (float64(d.Need) - NeedStep/2) / typical // the middle of the step
		if x > 1.105 {
			far++
			continue
		}
		ordinary++
		sum, squares = sum+x, squares+x*x
	}
	mean := sum / float64(ordinary)
	// A step is 4 to 6 % of the need here, and adds a deviation of step/√12.
	deviation := math.Sqrt(squares/float64(ordinary) - mean*mean)
	assert.InDelta(t, math.Hypot(0.03, NeedStep/typical/math.Sqrt(12)), deviation, 0.006)
	assert.InDelta(t, 1, mean, 0.01)
	assert.InDelta(t, 0.01, float64(far)/draws, 0.004, "1 % need 15 % more")
}

// TestTheTruthIsThatOfTheDraws compares quantiles and probabilities with counts.
func TestTheTruthIsThatOfTheDraws(t *testing.T) {
	for seed := range uint64(5) {
		l := New(seed)
		w := Load{Side: 768, Batch: 2, Checkpoint: "ddcolor_artistic.pth"}
		all := drawn(l, w)
		for _, q := range []float64{0.05, 0.5, 0.9, 0.95, 0.985, 0.995} {
			within, fits, mayUse := 0, 0, 0
			limit, need := l.TimeQuantile(w, q), l.NeedQuantile(w, q)
			for _, d := range all {
				if d.Exclusive <= limit {
					within++
				}
				if d.Need <= need {
					fits++
				}
				if d.Need <= need-1 {
					mayUse++
				}
			}
			margin := 4 * math.Sqrt(q*(1-q)/draws)
			assert.InDelta(t, q, float64(within)/draws, margin, "time, seed %d, %g", seed, q)
			assert.InDelta(t, q, l.TimeWithin(w, limit), 1e-6)
			assert.GreaterOrEqual(t, float64(fits)/draws, q-margin, "memory, seed %d, %g", seed, q)
			assert.InDelta(t, l.NeedWithin(w, need), float64(fits)/draws, 0.01)
			assert.InDelta(t, l.NeedWithin(w, need-1), float64(mayUse)/draws, 0.01, "a byte less is a step less")
		}
	}
}

func TestDDColorsBatchCostsTimeAndNoMemory(t *testing.T) {
	l := New(3)
	photo := Load{Side: 680, Batch: 1, Checkpoint: DefaultCheckpoint}
	four := photo
	four.Batch = 4
	assert.InEpsilon(t, 4*l.typicalTime(photo), l.typicalTime(four), 1e-9)
	assert.InEpsilon(t, l.typicalNeed(photo), l.typicalNeed(four), 1e-9)
	image := Load{Side: 680, Batch: 1, Steps: 20, Checkpoint: "sd_xl_base_1.0.safetensors"}
	images := image
	images.Batch = 4
	assert.Greater(t, l.typicalNeed(images), 1.2*l.typicalNeed(image), "of a diffusion model it costs both")
	assert.InEpsilon(t, 4*l.typicalTime(image), l.typicalTime(images), 1e-9)
	tiny := photo
	tiny.Checkpoint = "ddcolor_paper_tiny.pth"
	assert.Less(t, l.typicalNeed(tiny), l.typicalNeed(photo))
	assert.Less(t, l.typicalTime(tiny), l.typicalTime(photo))
}

func TestEveryLawKeepsItsRanges(t *testing.T) {
	loadings := map[time.Duration]bool{}
	for seed := range uint64(200) {
		l := New(seed)
		require.Equal(t, []string{Core, Batch}, []string{l.Classes[0].Name, l.Classes[1].Name})
		for i := range l.Classes {
			c := &l.Classes[i]
			mean := l.MeanTimeOf(c)
			require.GreaterOrEqual(t, mean, 1500*time.Millisecond-time.Microsecond, "seed %d, %s", seed, c.Name)
			require.LessOrEqual(t, mean, 2*time.Second+time.Microsecond, "seed %d, %s", seed, c.Name)
			random, sum := rand.New(rand.NewPCG(seed, 9)), 0.0
			for range 2000 {
				sum += l.MeanTime(c.Pick(random)).Seconds()
			}
			require.InEpsilon(t, mean.Seconds(), sum/2000, 0.08, "what is picked has the mean; standard error 1.3 %")
		}
		for _, m := range models {
			loading := l.Checkpoint(m.name).Loading
			require.GreaterOrEqual(t, loading, time.Second)
			require.LessOrEqual(t, loading, 20*time.Second)
			loadings[loading] = true
		}
	}
	assert.Greater(t, len(loadings), 1000, "each seed and checkpoint has its own")
}

func TestTheSameSeedAndPromptCostTheSame(t *testing.T) {
	w := Load{Side: 680, Batch: 1, Checkpoint: DefaultCheckpoint}
	once, again := New(4).Draw("a", w), New(4).Draw("a", w)
	assert.Equal(t, once, again)
	assert.NotEqual(t, New(4).Draw("a", w).Exclusive, New(4).Draw("b", w).Exclusive)
	noise := func(seed uint64) float64 {
		return New(seed).Draw("a", w).Exclusive.Seconds() / New(seed).typicalTime(w)
	}
	assert.Greater(t, math.Abs(noise(4)-noise(5)), 1e-6, "the noise of a prompt is another with each seed")
	assert.NotEqual(t, New(4).time, New(5).time)
	assert.NotEqual(t, New(4).activations, New(5).activations)
}
