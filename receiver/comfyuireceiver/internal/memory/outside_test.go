// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

const mib = 1 << 20

func mebibytes(process, reserved float64) Reading {
	return Reading{Process: process * mib, Reserved: reserved * mib}
}

func dynamic(process, reserved float64, fresh bool) Reading {
	return Reading{Process: process * mib, Reserved: reserved * mib, Dynamic: true, Fresh: fresh}
}

// figures are context and elastic memory in MiB, -1 where they are unknown.
func figures(o *Outside) (context, elastic float64) {
	context, elastic = -1, -1
	if v, ok := o.Context(); ok {
		context = v / mib
	}
	if v, ok := o.Elastic(); ok {
		elastic = v / mib
	}
	return context, elastic
}

func TestContextIsTheSmallestMemoryOutsideOnWhichTwoReadingsAgree(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	context, elastic := figures(&o)
	assert.Equal(t, []float64{-1, -1}, []float64{context, elastic})
	assert.True(t, o.See(mebibytes(1720, 1000)))
	context, _ = figures(&o)
	assert.InDelta(t, -1, context, 0, "memory may have been allocated between the two")
	assert.True(t, o.See(mebibytes(1722, 1000)), "another agrees")
	context, _ = figures(&o)
	assert.InDelta(t, 722, context, 0)
	assert.False(t, o.See(mebibytes(1800, 1000)), "nothing was learned")
	assert.True(t, o.See(mebibytes(700, 0)))
	context, _ = figures(&o)
	assert.InDelta(t, 722, context, 0, "smaller, and none agrees")
	assert.True(t, o.See(mebibytes(698, 0)))
	context, elastic = figures(&o)
	assert.Equal(t, []float64{698, 0}, []float64{context, elastic})
	assert.False(t, o.See(mebibytes(900, 1000)), "memory was given back between the two readings")
	for i := range 100 { // none agrees
		o.See(mebibytes(float64(690-6*i), 0))
	}
	context, _ = figures(&o)
	assert.InDelta(t, 698, context, 0)
}

func TestContextOfAServerThatRanNothingNeedsOneReading(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	assert.True(t, o.See(Reading{Process: 650 * mib, Fresh: true}))
	context, _ := figures(&o)
	assert.InDelta(t, 650, context, 0)
}

func TestHistoryThatWasClearedDoesNotMakeWeightsAContext(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	o.See(dynamic(9000, 1000, true))
	context, _ := figures(&o)
	assert.InDelta(t, -1, context, 0)
}

func TestWithDynamicVRAMOnlyTheMemoryBeforeTheFirstPromptIsContext(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	o.See(dynamic(620, 0, true))
	o.See(dynamic(7000, 1000, false))
	context, elastic := figures(&o)
	assert.Equal(t, []float64{620, 5380}, []float64{context, elastic})

	o = Outside{}
	o.Is(Process{2, 100})
	o.See(dynamic(16000, 400, false))
	context, elastic = figures(&o)
	assert.Equal(t, []float64{-1, 15600 - 840}, []float64{context, elastic}, "a GPU that was full before the collector started has elastic memory")
	o.See(dynamic(900, 400, false))
	_, elastic = figures(&o)
	assert.Zero(t, elastic, "the smallest memory outside is all that is subtracted")
}

func TestWhatWasLearnedSurvivesTheCollectorAndNotTheServer(t *testing.T) {
	var before Outside
	before.Is(Process{1, 100})
	before.See(dynamic(620, 0, true))
	var o Outside
	o.Is(Process{1, 100})
	o.Restore(before.Learned())
	context, _ := figures(&o)
	assert.InDelta(t, 620, context, 0)
	assert.False(t, o.Is(Process{1, 100}))
	assert.True(t, o.Is(Process{1, 900}), "the same id, started later")
	context, _ = figures(&o)
	assert.InDelta(t, -1, context, 0)
	o.Restore(before.Learned())
	context, _ = figures(&o)
	assert.InDelta(t, -1, context, 0, "of another process")
	var unknown Outside
	unknown.Restore(Learned{Context: 5})
	context, _ = figures(&unknown)
	assert.InDelta(t, -1, context, 0, "of no process that is known")
}

func TestTheSmallerOfTwoBoundsBetweenAnswersCounts(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	o.See(dynamic(700, 0, true))
	o.See(dynamic(5000, 1000, false))
	seen := func() float64 {
		v, _ := o.Seen()
		return v / mib
	}
	assert.False(t, o.SeeBetween(9000*mib, 1000*mib), "one alone")
	assert.InDelta(t, 4000, seen(), 0)
	assert.True(t, o.SeeBetween(12000*mib, 1000*mib), "the allocator may have grown and shrunk")
	assert.InDelta(t, 8000, seen(), 0)
	assert.False(t, o.SeeBetween(900*mib, 1000*mib), "memory was given back")
	assert.True(t, o.SeeBetween(3000*mib, 1000*mib))
	assert.InDelta(t, 2000, seen(), 0)
	context, _ := o.Context()
	assert.InDelta(t, 700*mib, context, 0, "nothing is learned from it")
	assert.False(t, o.See(dynamic(6000, 1000, false)))
	assert.False(t, o.SeeBetween(9000*mib, 1000*mib), "after a reading the first bound is alone again")
	assert.InDelta(t, 5000, seen(), 0)
}
