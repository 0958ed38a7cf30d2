// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"math"
	"math/rand/v2"
	"time"
)

// segment is a stretch of the work on a photo in which the load stays the same.
type segment struct {
	lasts  time.Duration
	memory int64 // MiB that the work needs
	// gpu and bandwidth are utilisations in percent.
	gpu, bandwidth int64
	// power is a share of what lies between rest and limit; beyond 1 the GPU is at
	// its limit and held back.
	power float64
	// encodes is true inside the network's steps, whose tensors live for 2 to 30 ms.
	encodes bool
}

// model holds the resources of a checkpoint.
type model struct {
	weights int64 // MiB
	cost    float64
}

// models are DDColor's. What is not known is as the largest.
var models = map[string]model{
	"ddcolor_paper_tiny.pth": {220, 0.6},
	"ddcolor_paper.pth":      {900, 1},
	"ddcolor_modelscope.pth": {900, 1.05},
	"ddcolor_artistic.pth":   {900, 1.1},
}

func modelOf(checkpoint string) model {
	if m, ok := models[checkpoint]; ok {
		return m
	}
	return models["ddcolor_paper.pth"]
}

// demand is what a photo needs at its peak: memory in MiB, the model's included, and
// time, without the loading of the model.
func demand(side int, m model) (mebibytes int64, lasts time.Duration) {
	megapixels := float64(side) * float64(side) / 1e6
	return m.weights + int64(900+2600*megapixels*m.cost), time.Duration((0.25 + 0.9*megapixels) * m.cost * float64(time.Second))
}

// stretch is how long a load stays about the same.
const stretch = 40 * time.Millisecond

// phases of a photo: the part of its time, the memory that it reaches in its first sixth and
// keeps, as a part of the peak's activations, and the load.
var phases = []struct {
	part, memory float64
	gpu          int64
	power        float64
	encodes      bool
}{
	{0.08, 0.05, 3, 0.08, false}, // the photo is prepared by the processor
	{0.35, 0.60, 88, 0.80, true},
	{0.25, 1.00, 97, 0.95, false},
	{0.20, 0.80, 95, 1.02, false}, // the decoder's last layers may reach the power limit
	{0.12, 0.30, 20, 0.20, false},
}

// cost is what a photo costs.
type cost struct {
	mebibytes      int64 // at its peak, the model's included
	lasts, loading time.Duration
}

// usual is what a photo costs where all of a size cost the same.
func usual(side int, m model) (c cost) {
	c.mebibytes, c.lasts = demand(side, m)
	c.loading = time.Duration(4+m.weights/100) * stretch
	return c
}

// photo is the work on one photo as segments, those that load the model first if it is not there.
func photo(c cost, m model, loaded bool, random *rand.Rand) []segment {
	var all []segment
	if !loaded {
		steps := int64(max(c.loading/stretch, 1))
		for i := range steps {
			all = append(all, segment{stretch, m.weights * (i + 1) / steps, 4 + random.Int64N(8), 10, 0.12, false})
		}
	}
	peak, lasts := c.mebibytes, c.lasts
	activations := float64(peak - m.weights)
	from := 0.0
	for _, p := range phases {
		n := max(int(math.Round(p.part*float64(lasts)/float64(stretch))), 1)
		for i := range n {
			level := from + (p.memory-from)*min(6*float64(i+1)/float64(n), 1)
			busy := min(max(p.gpu+random.Int64N(13)-6, 0), 100)
			all = append(all, segment{
				time.Duration(p.part * float64(lasts) / float64(n)), m.weights + int64(activations*level),
				busy, busy * (20 + random.Int64N(30)) / 100, max(p.power+0.16*(random.Float64()-0.5), 0), p.encodes,
			})
		}
		from = p.memory
	}
	return all
}
