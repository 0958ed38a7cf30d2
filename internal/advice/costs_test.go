// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
)

// advisor is one whose engine is a world's.
func (w *world) advisor() *Advisor {
	a := NewAdvisor(w.settings, nil, func() time.Time { return w.now }, nil)
	a.engine = w.Engine
	return a
}

// grows has a server run prompts whose time and memory grow with their pixels: 1 s and 1 GiB at 512.
func (w *world) grows(name string, sides ...int) {
	for range 4 {
		for _, side := range sides {
			times := float64(side*side) / (512 * 512)
			w.run(name, side, seconds(times), int64(times*float64(gib)))
		}
	}
	w.sampled()
}

func about(side int) *admission.Request {
	return &admission.Request{Server: "a", Class: "people", Workflow: "colour", Model: "ddcolor", Side: side, Batch: 1}
}

func TestTheSafeSizeFitsAndEndsInTime(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.grows("a", 512, 724, 1024)
	a := w.advisor()
	safe := func(side int, deadline time.Duration) (int, recommend.Bound) {
		r := about(side)
		r.Deadline = deadline
		return a.Safe(r)
	}
	side, bound := safe(1024, 0)
	assert.Equal(t, recommend.BySeen, bound)
	assert.InDelta(t, 1024*math.Sqrt(1.2), side, 8, "1.2 times the pixels of the largest")
	side, bound = safe(1024, 3*time.Second)
	assert.Equal(t, recommend.ByTime, bound)
	assert.InDelta(t, 512*math.Sqrt(3), side, 12, "3 s")
	w.gpu.Capacity = 4 * gib // 3 GiB beside two contexts, and a margin
	w.sampled()
	side, bound = safe(1024, 0)
	assert.Equal(t, recommend.ByMemory, bound)
	assert.InDelta(t, 512*math.Sqrt(3/1.05), side, 12)
	_, bound = safe(0, 0)
	assert.Equal(t, recommend.NotKnown, bound)
	r := about(1024)
	r.Model = "other"
	_, bound = a.Safe(r)
	assert.Equal(t, recommend.NotKnown, bound)
	r.Server = "c"
	_, bound = a.Safe(r)
	assert.Equal(t, recommend.NotKnown, bound)
}

func TestWhatRanOutOfMemoryTwiceIsNotSafe(t *testing.T) {
	w := newWorld(t, "a")
	w.grows("a", 512, 724, 1024)
	w.gpu.Capacity = 4 * gib
	w.sampled()
	for range 2 {
		id := w.queued("a", "people", 680)
		w.ended("a")
		w.Executed(&Execution{ID: id, Server: "a", Workflow: "colour", Model: "ddcolor", Side: 680, Batch: 1, Ended: w.now, OutOfMemory: true, Reserved: 4 * gib})
	}
	side, bound := w.advisor().Safe(about(1024))
	assert.Equal(t, 672, side)
	assert.Equal(t, recommend.ByMemory, bound)
}

func TestWhereWeightsAreElasticMemoryIsNoBound(t *testing.T) {
	w := newWorld(t, "a")
	w.servers["a"].Memory.Dynamic = true
	w.grows("a", 512, 724, 1024)
	w.gpu.Capacity = 2 * gib
	w.sampled()
	_, bound := w.advisor().Safe(about(1024))
	assert.Equal(t, recommend.BySeen, bound)
}

func TestWhatExecutionsUseIsKnown(t *testing.T) {
	w := newWorld(t, "a")
	w.grows("a", 512, 724, 1024)
	a := w.advisor()
	used, known := a.Time(about(512))
	assert.True(t, known)
	assert.InDelta(t, 1, used, 0.05)
	_, known = a.Time(about(4096))
	assert.False(t, known)
	_, known = a.Time(&admission.Request{Server: "c"})
	assert.False(t, known)
	id := w.queued("a", "people", 512)
	w.pass(1500 * time.Millisecond)
	_, known = a.Used(id)
	assert.False(t, known, "it runs")
	w.ended("a")
	used, known = a.Used(id)
	require.True(t, known)
	assert.InDelta(t, 1.5, used, 1e-9)
	gpu, product := a.GPUOf("a")
	assert.Equal(t, []string{theGPU, "RTX"}, []string{gpu, product})
	gpu, _ = a.GPUOf("c")
	assert.Empty(t, gpu)
}
