// SPDX-License-Identifier: Apache-2.0

package memory

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

const mib = 1 << 20

func reserved(mebibytes float64) *protocol.Device {
	return &protocol.Device{TorchTotal: mebibytes * mib}
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

func TestContextIsTheSmallestMemoryOutsideSinceTheStart(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	context, elastic := figures(&o)
	assert.EqualValues(t, []float64{-1, -1}, []float64{context, elastic})
	assert.True(t, o.See(1720*mib, reserved(1000), false, false))
	assert.False(t, o.See(1800*mib, reserved(1000), false, false), "nothing was learned")
	assert.True(t, o.See(700*mib, reserved(0), false, false))
	context, elastic = figures(&o)
	assert.EqualValues(t, []float64{700, 0}, []float64{context, elastic})
	assert.False(t, o.See(900*mib, reserved(1000), false, false), "memory was given back between the two readings")
}

func TestWithDynamicVRAMOnlyTheMemoryBeforeTheFirstPromptIsContext(t *testing.T) {
	var o Outside
	o.Is(Process{1, 100})
	o.See(620*mib, reserved(0), true, true)
	o.See(7000*mib, reserved(1000), true, false)
	context, elastic := figures(&o)
	assert.EqualValues(t, []float64{620, 5380}, []float64{context, elastic})

	o = Outside{}
	o.Is(Process{2, 100})
	o.See(16000*mib, reserved(400), true, false)
	context, elastic = figures(&o)
	assert.EqualValues(t, []float64{-1, 15600 - 840}, []float64{context, elastic}, "a GPU that was full before the collector started has elastic memory")
	o.See(900*mib, reserved(400), true, false)
	_, elastic = figures(&o)
	assert.Zero(t, elastic, "the smallest memory outside is all that is subtracted")
}

func TestWhatWasLearnedSurvivesTheCollectorAndNotTheServer(t *testing.T) {
	var before Outside
	before.Is(Process{1, 100})
	before.See(620*mib, reserved(0), true, true)
	var o Outside
	o.Is(Process{1, 100})
	o.Restore(before.Learned())
	context, _ := figures(&o)
	assert.EqualValues(t, 620, context)
	assert.False(t, o.Is(Process{1, 100}))
	assert.True(t, o.Is(Process{1, 900}), "the same id, started later")
	context, _ = figures(&o)
	assert.EqualValues(t, -1, context)
	o.Restore(before.Learned())
	context, _ = figures(&o)
	assert.EqualValues(t, -1, context, "of another process")
	var unknown Outside
	unknown.Restore(Learned{Context: 5})
	context, _ = figures(&unknown)
	assert.EqualValues(t, -1, context, "of no process that is known")
}
