// SPDX-License-Identifier: Apache-2.0

package weeks

import (
	"maps"
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// worst is the least part of a class's clients that met the objective.
func (t *Truth) worst() float64 {
	share := 1.0
	for class := range t.Clients {
		share = min(share, t.Share(class))
	}
	return share
}

// capped is what becomes of the plan's week with larger requests sent at caps, times scale.
func (p *Plan) capped(caps map[string]int, scale float64) Truth {
	q := *p
	q.Caps = maps.Clone(caps)
	for class := range caps {
		q.Caps[class] = int(float64(caps[class]) * scale)
	}
	return q.Run(func(*recommend.Request) {})
}

// TestTheRecommendedSizesMeetTheObjectives lives the week again with them, and with sizes around
// them, until it is known how far they are from those at which 95 % meet their objectives.
func TestTheRecommendedSizesMeetTheObjectives(t *testing.T) {
	for _, c := range []struct {
		name     string
		enforce  bool
		requests int // that are held one by one
		maxError float64
	}{{"observe", false, 0, 0.05}, {"enforce", true, 0, 0.05}, {"thinned", false, 8000, 0.10}} {
		least, sizeError, shareError := 1.0, 0.0, 0.0
		for seed := range *seeds {
			p := shortOfTime.with(seed, c.enforce)
			w := live(p, c.requests)
			got := w.recommendations()
			assert.Equal(t, c.requests == 0, got.Replayed == 1, "%v", got.Replayed)
			caps, predicted := map[string]int{}, 1.0
			for _, o := range got.Objectives {
				require.True(t, o.Known, "%+v", o)
				require.Positive(t, o.Side)
				caps[o.Class], predicted = o.Side, min(predicted, o.Share)
			}
			again := p.capped(caps, 1)
			low, high := 0.7, 1.3 // of the sizes: that at which 95 % really meet them
			for range 6 {         // to 1 %
				middle := (low + high) / 2
				if truth := p.capped(caps, middle); truth.worst() >= recommend.Share {
					low = middle
				} else {
					high = middle
				}
			}
			t.Logf("%s, seed %d: %v; %.1f %% predicted, really %.1f %%; 95 %% at %.3f of the sizes; as they came %.1f %%; %.2f of the time replayed", c.name, seed,
				caps, 100*predicted, 100*again.worst(), low, 100*w.truth.worst(), got.Replayed)
			least, sizeError, shareError = min(least, again.worst()), max(sizeError, math.Abs(low-1)), max(shareError, math.Abs(again.worst()-predicted))
		}
		figure.Print("recommend.objective."+c.name+".met", 100*least, "%")
		figure.Print("recommend.objective."+c.name+".share_error", 100*shareError, "points")
		figure.AtMost("recommend.objective."+c.name+".size_error", 100*sizeError, "%", 100*c.maxError)
		assert.LessOrEqual(t, sizeError, c.maxError, c.name)
	}
}

// TestAHealthyWeekNeedsNoSmallerSizes: all met their objectives as they came.
func TestAHealthyWeekNeedsNoSmallerSizes(t *testing.T) {
	w := live(healthy.with(1, false), 0)
	for _, o := range w.recommendations().Objectives {
		assert.True(t, o.Known && o.Enough, "%+v", o)
		assert.Equal(t, 1280, o.Side)
		assert.Greater(t, o.AsTheyCame, 0.99)
	}
}

// TestSafeSizesAreSafe compares them with what requests of such sizes really need.
func TestSafeSizesAreSafe(t *testing.T) {
	worst, least := 1.0, 1.0 // the part that fits, and of the largest size at which 99.5 % do
	for seed := range *seeds {
		for _, gib := range []float64{5, 5.5, 24} {
			p := shortOfMemory.with(seed, false)
			p.Memory, p.Days = int64(gib*law.GiB), 1
			w := live(p, 0)
			got := w.recommendations()
			require.Len(t, got.Safe, 2, "one a class")
			l, s := law.New(p.Seed), got.Safe[0]
			require.Positive(t, s.Side, "%+v", s)
			assert.Equal(t, Product, s.Product)
			load := law.Load{Side: s.Side, Batch: 1, Checkpoint: law.DefaultCheckpoint}
			room := p.Memory - int64(p.Servers)*Context
			worst = min(worst, l.NeedWithin(load, room))
			assert.LessOrEqual(t, l.TimeQuantile(load, 0.95), p.Classes[law.Core].Deadline)
			if gib == 24 {
				assert.Equal(t, recommend.BySeen, s.Bound)
				assert.InDelta(t, 1150*math.Sqrt(1.2), s.Side, 8)
				continue
			}
			assert.Equal(t, recommend.ByMemory, s.Bound, "%+v", s)
			largest := s.Side
			for next := load; l.NeedQuantile(next, 0.995) <= room; next.Side += 8 {
				largest = next.Side
			}
			t.Logf("seed %d, %v GiB: %d pixels of %d", seed, gib, s.Side, largest)
			least = min(least, float64(s.Side)/float64(largest))
		}
	}
	figure.AtLeast("recommend.safe.fits", 100*worst, "%", 98)
	figure.AtLeast("recommend.safe.of_largest", 100*least, "%", 85)
	assert.GreaterOrEqual(t, worst, 0.98)
	assert.GreaterOrEqual(t, least, 0.85)
}
