// SPDX-License-Identifier: Apache-2.0

// Package law is what a simulated service costs: how long a prompt uses a GPU that it has for
// itself, and how much memory it needs, by size, batch, steps and checkpoint, with noise. All
// parameters are drawn from a seed. What learns them must not read them: the product has no
// access to this package, and tests read it for the truth.
package law

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"
)

// The sizes of memory, in bytes.
const (
	MiB = 1 << 20
	GiB = 1 << 30
	// NeedStep is the step in which a prompt's need grows.
	NeedStep = 256 * MiB
)

// The noise of a prompt.
const (
	timeVariation  = 0.10 // coefficient of variation
	needDeviation  = 0.03 // standard deviation
	outliers       = 0.01 // the part of prompts that are outliers, in time and in memory apart
	timeOfOutliers = 3.0
	needOfOutliers = 1.15
)

// Load is what a prompt asks for.
type Load struct {
	// Side is model_input_size of DDColor's node, or the side of a generated image, in pixels.
	Side  int
	Batch int
	// Steps is 0 for DDColor, whose memory does not depend on the batch, and the sampler's
	// number of steps for a diffusion model, whose memory does.
	Steps      int
	Checkpoint string
}

// Drawn is what one prompt costs.
type Drawn struct {
	// Exclusive is the time that it uses a GPU that it has for itself, Host the time beside
	// that in which it uses the processor only.
	Exclusive, Host time.Duration
	// Need is the most that its live tensors use, the model's weights among them, in bytes.
	Need int64
}

// Checkpoint is a model.
type Checkpoint struct {
	Weights int64         // bytes
	Cost    float64       // time and activations, relative to the others
	Loading time.Duration // from the disk to the GPU
}

// Law are the parameters of one GPU and its servers.
type Law struct {
	// Classes are the task classes of the service, core first.
	Classes []Class

	seed        uint64
	checkpoints map[string]Checkpoint
	time        curve // seconds, by megapixels
	activations curve // bytes, by megapixels
	host        time.Duration
}

// curve is base + slope × x^power.
type curve struct{ base, slope, power float64 }

func (c curve) at(x float64) float64 { return c.base + c.slope*math.Pow(x, c.power) }

// between draws a number.
func between(random *rand.Rand, low, high float64) float64 { return low + random.Float64()*(high-low) }

// models are the checkpoints that a law knows: their weights in MiB, and the range of their cost.
var models = []struct {
	name      string
	weights   int64
	low, high float64
}{
	{"ddcolor_paper_tiny.pth", 220, 0.5, 0.7},
	{"ddcolor_paper.pth", 900, 1, 1},
	{"ddcolor_modelscope.pth", 900, 1, 1.1},
	{"ddcolor_artistic.pth", 900, 1, 1.2},
	{"v1-5-pruned-emaonly-fp16.safetensors", 2034, 0.2, 0.3},
	{"sd_xl_base_1.0.safetensors", 6616, 0.5, 0.7},
}

// DefaultCheckpoint is the one of DDColor's that the classes use.
const DefaultCheckpoint = "ddcolor_paper.pth"

// New draws a law: the mean exclusive time of each of its classes lies between 1.5 and 2 s.
func New(seed uint64) *Law {
	random := rand.New(rand.NewPCG(seed, 0x1a3))
	l := &Law{
		seed:        seed,
		checkpoints: map[string]Checkpoint{},
		time:        curve{between(random, 0.25, 0.45), between(random, 0.9, 1.1), between(random, 0.9, 1.1)},
		activations: curve{between(random, 600, 750) * MiB, between(random, 2200, 2350) * MiB, between(random, 0.95, 1.05)},
		host:        time.Duration(between(random, 0.02, 0.06) * float64(time.Second)),
	}
	for _, m := range models {
		l.checkpoints[m.name] = Checkpoint{
			Weights: m.weights * MiB, Cost: between(random, m.low, m.high), Loading: time.Duration(between(random, 1, 20) * float64(time.Second)),
		}
	}
	l.Classes = drawClasses(random)
	l.scale(random)
	return l
}

// The range of the classes' mean exclusive time, in seconds.
const (
	minMean = 1.5
	maxMean = 2.0
)

// scale sets the GPU's speed so that each class's mean exclusive time is in its range.
func (l *Law) scale(random *rand.Rand) {
	low, high := math.Inf(1), 0.0
	for i := range l.Classes {
		mean := l.Classes[i].mean(l)
		low, high = min(low, mean), max(high, mean)
	}
	factor := between(random, minMean/low, maxMean/high)
	l.time.base, l.time.slope = l.time.base*factor, l.time.slope*factor
}

// Checkpoint returns what is drawn of a model; one that the law does not know is as
// [DefaultCheckpoint].
func (l *Law) Checkpoint(name string) Checkpoint {
	if c, ok := l.checkpoints[name]; ok {
		return c
	}
	return l.checkpoints[DefaultCheckpoint]
}

// stepPart is the time of a diffusion model's step, as a part of DDColor's whole pass.
const stepPart = 0.06

// typicalTime is a load's exclusive time without noise, in seconds.
func (l *Law) typicalTime(w Load) float64 {
	t := l.time.at(megapixels(w)) * l.Checkpoint(w.Checkpoint).Cost * float64(max(w.Batch, 1))
	if w.Steps > 0 {
		t *= stepPart * float64(w.Steps)
	}
	return t
}

// typicalNeed is a load's need without noise and steps, in bytes.
func (l *Law) typicalNeed(w Load) float64 {
	c := l.Checkpoint(w.Checkpoint)
	pixels := megapixels(w)
	if w.Steps > 0 {
		pixels *= float64(max(w.Batch, 1))
	}
	return float64(c.Weights) + c.Cost*l.activations.at(pixels)
}

func megapixels(w Load) float64 { return float64(w.Side) * float64(w.Side) / 1e6 }

// Draw returns what a prompt costs. It depends on the law and the prompt's key alone: the same
// prompt costs the same in every run.
func (l *Law) Draw(key string, w Load) Drawn {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	random := rand.New(rand.NewPCG(l.seed, h.Sum64()))
	relative := math.Exp(timeLog.mean + timeLog.deviation*random.NormFloat64())
	if random.Float64() < outliers {
		relative *= timeOfOutliers
	}
	need := l.typicalNeed(w) * (1 + needDeviation*random.NormFloat64())
	if random.Float64() < outliers {
		need *= needOfOutliers
	}
	return Drawn{Exclusive: seconds(l.typicalTime(w) * relative), Host: l.host, Need: inSteps(need)}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// inSteps rounds a need up to the step in which it grows.
func inSteps(bytes float64) int64 { return int64(math.Ceil(bytes/NeedStep)) * NeedStep }
