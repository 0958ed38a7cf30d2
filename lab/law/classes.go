// SPDX-License-Identifier: Apache-2.0

package law

import (
	"math/rand/v2"
	"time"
)

// Class is a task class: what its people upload.
type Class struct {
	Name       string
	Checkpoint string
	sides      []int
	weights    []float64 // of each side; they add up to 1
}

// The sides that people upload: small portraits and scans of buildings. The longer side of the
// article's rush, 1280 pixels, is the largest of both.
var (
	coreSides    = []int{512, 680, 768, 1024, 1280}
	coreWeights  = []float64{0.20, 0.25, 0.25, 0.20, 0.10}
	batchSides   = []int{512, 768, 1024, 1280}
	batchWeights = []float64{0.20, 0.35, 0.30, 0.15}
)

// The names of the classes.
const (
	Core  = "people"
	Batch = "buildings"
)

// drawClasses returns the classes, how often each size comes drawn around the usual.
func drawClasses(random *rand.Rand) []Class {
	draw := func(name string, sides []int, weights []float64) Class {
		c := Class{Name: name, Checkpoint: DefaultCheckpoint, sides: sides}
		total := 0.0
		for _, w := range weights {
			c.weights = append(c.weights, w*between(random, 0.85, 1.15))
			total += c.weights[len(c.weights)-1]
		}
		for i := range c.weights {
			c.weights[i] /= total
		}
		return c
	}
	return []Class{draw(Core, coreSides, coreWeights), draw(Batch, batchSides, batchWeights)}
}

// mean is the class's mean exclusive time in seconds.
func (c *Class) mean(l *Law) float64 {
	mean := 0.0
	for i, side := range c.sides {
		mean += c.weights[i] * l.MeanTime(c.load(side)).Seconds()
	}
	return mean
}

func (c *Class) load(side int) Load { return Load{Side: side, Batch: 1, Checkpoint: c.Checkpoint} }

// Loads are what the class's prompts ask for, each with its part of them.
func (c *Class) Loads() (loads []Load, parts []float64) {
	for _, side := range c.sides {
		loads = append(loads, c.load(side))
	}
	return loads, c.weights
}

// Pick draws what one prompt asks for.
func (c *Class) Pick(random *rand.Rand) Load {
	at := random.Float64()
	for i, w := range c.weights {
		if at -= w; at < 0 {
			return c.load(c.sides[i])
		}
	}
	return c.load(c.sides[len(c.sides)-1])
}

// MeanTimeOf is the mean exclusive time of a class's prompts.
func (l *Law) MeanTimeOf(c *Class) time.Duration { return seconds(c.mean(l)) }
