// SPDX-License-Identifier: Apache-2.0

package loading

import (
	"maps"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

const ms = time.Millisecond

func at(after time.Duration) time.Time { return time.Unix(1000, 0).Add(after) }

func TestLoadersAreKnownByTheirClass(t *testing.T) {
	for _, class := range []string{
		"CheckpointLoaderSimple", "UNETLoader", "VAELoader", "DualCLIPLoader", "LoraLoader", "LoraLoaderModelOnly", "ControlNetLoader",
		"UpscaleModelLoader", "UnetLoaderGGUF", "CLIPVisionLoader", "easy fullLoader", "ckpt_loader",
	} {
		assert.True(t, IsLoader(class), class)
	}
	for _, class := range []string{"LoadImage", "VHS_LoadVideo", "ImageLoader", "LoadImageMask", "KSampler", "DDColor_Colorize", "SaveImage", "", "LoadLatent", "VideoLoader"} {
		assert.False(t, IsLoader(class), class)
	}
}

func TestTimeBeforeTheFirstStepIsWithoutThatStep(t *testing.T) {
	s := Steps{Begin: at(0), First: at(1100 * ms), Last: at(2000 * ms), FirstDone: 1, LastDone: 10}
	lasted, ok := s.BeforeFirst()
	assert.True(t, ok)
	assert.Equal(t, time.Second, lasted, "a step takes 100 ms")
	s.FirstDone = 4 // newer servers leave out some
	s.Last = at(1700 * ms)
	lasted, _ = s.BeforeFirst()
	assert.Equal(t, 700*ms, lasted)
	s = Steps{Begin: at(0), First: at(100 * ms), Last: at(1200 * ms), FirstDone: 1, LastDone: 10}
	lasted, ok = s.BeforeFirst()
	assert.True(t, ok)
	assert.Zero(t, lasted, "the first step was faster than the others")
	s = Steps{Begin: at(0), First: at(100 * ms), Last: at(100 * ms), FirstDone: 1, LastDone: 1}
	_, ok = s.BeforeFirst()
	assert.False(t, ok, "one step")
	_, ok = (&Steps{Begin: at(0)}).BeforeFirst()
	assert.False(t, ok, "none")
}

func TestColdExecutionsAreComparedWithTheMedianOfWarmOnes(t *testing.T) {
	e := NewEstimator(10)
	paper := Class{Workflow: "w", Model: "paper", SizeClass: "<=512", Node: "DDColor"}
	artistic := paper
	artistic.Model = "artistic"
	clock := time.Duration(0)
	run := func(c Class, lasted time.Duration) any {
		clock += time.Minute
		if loading, ok := e.Executed(c, at(clock), lasted); ok {
			return loading
		}
		return "unknown"
	}
	assert.Equal(t, "unknown", run(paper, 900*ms), "the server may have the model or not")
	assert.Equal(t, "unknown", run(paper, 400*ms), "warm")
	assert.Equal(t, "unknown", run(paper, 500*ms))
	e.Unloaded(at(clock))
	assert.Equal(t, "unknown", run(paper, 900*ms), "two warm ones are not enough")
	assert.Equal(t, "unknown", run(paper, 600*ms))
	e.Unloaded(at(clock))
	assert.Equal(t, 500*ms, run(paper, time.Second), "the median of 400, 500 and 600 ms is 500")
	assert.Equal(t, "unknown", run(paper, 5*time.Second), "the next one is warm, whatever it took")

	assert.Equal(t, "unknown", run(artistic, time.Second), "another model without warm executions")
	assert.Equal(t, 450*ms, run(paper, time.Second), "of 400, 500, 600 and 5000 ms the median is 550")
	for range 20 {
		run(paper, 800*ms)
	}
	e.Unloaded(at(clock))
	assert.Equal(t, 100*ms, run(paper, 900*ms), "the last twenty count")
	e.Unloaded(at(clock))
	assert.Equal(t, time.Duration(0), run(paper, 300*ms), "a fast one loaded nothing")
}

func TestExecutionThatBeganBeforeTheModelsWereUnloadedIsWarm(t *testing.T) {
	e := NewEstimator(10)
	c := Class{Model: "m"}
	for i := range 5 {
		e.Executed(c, at(time.Duration(i)*time.Second), 100*ms)
	}
	e.Unloaded(at(10 * time.Second))
	_, ok := e.Executed(c, at(9*time.Second), 2*time.Second)
	assert.False(t, ok, "ComfyUI frees after the prompt that runs")
	loading, ok := e.Executed(c, at(11*time.Second), time.Second)
	assert.True(t, ok)
	assert.Equal(t, 900*ms, loading)
}

func TestClassesAreBounded(t *testing.T) {
	e := NewEstimator(3)
	class := func(i int) Class { return Class{Workflow: strconv.Itoa(i)} }
	e.Executed(class(0), at(0), ms) // cold
	for i := range 50 {
		e.Executed(class(i), at(0), ms)
		e.Executed(class(0), at(0), ms)
		for _, b := range e.Bounds() {
			assert.LessOrEqual(t, b.Size, b.Max, b.Name)
		}
	}
	held := maps.Collect(e.classes.All())
	assert.Contains(t, held, class(0), "it was used")
	assert.Contains(t, held, class(49))
	assert.Len(t, held, 3)
}
