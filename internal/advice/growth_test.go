// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// TestWhatTheEngineHoldsIsBounded sends it more of everything than it holds.
func TestWhatTheEngineHoldsIsBounded(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	for range 40 {
		w.queued("a", "people", 512)
	}
	s := w.Engine.servers["a"]
	for i := range 6000 {
		text := fmt.Sprint(i)
		w.over(&job{id: text}, w.now)
		w.Executed(&Execution{ID: text, Server: "a", Workflow: text, Model: "m", Side: 512 + i, Batch: 1, Ended: w.now, Ran: time.Second, OutOfMemory: true, Reserved: gib, Active: gib})
		w.calibrationOf(text)
		w.loadRan(map[string][]savedRan{"absent " + text: {{Size: sizeOf(512, 1, 0), At: unix(w.now)}}}, w.now)
		w.SetGPU(GPU{ID: text})
		w.SetServer(&comfyevents.Server{Name: text}, w.now)
		w.Advise(&admission.Request{Server: "a", Class: text, Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Claim: true}, w.now) // refused
	}
	for i := range maxClaims + 100 {
		w.claim(&admission.Decision{}, &job{server: w.Engine.servers["b"], number: float64(i % 7)}, &timing{}, w.now)
	}
	require.NoError(t, growth.Within(w.Bounds()))
	for _, b := range w.Bounds() {
		assert.Equal(t, b.Max, b.Size, "%s is full", b.Name)
	}
	assert.Len(t, s.gpu.promises.all, maxPromises)
	assert.Len(t, s.gpu.probes, maxProbes)
	assert.Positive(t, w.Dropped)
	assert.True(t, slices.IsSortedFunc(w.Engine.servers["b"].queue, byNumber))
	w.pass(time.Hour)
	w.sampled()
	s.gpu.promises.forget(w.now)
	assert.Empty(t, s.gpu.promises.all)
	assert.Empty(t, s.gpu.promises.byKey)
	assert.Empty(t, s.gpu.promises.core)
	assert.Zero(t, s.gpu.promises.batch)
}

// TestPromisesCostTheSameHoweverMany: of one kind of prompts, and of many.
func TestPromisesCostTheSameHoweverMany(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	of := func(n int) (*promises, func(i int)) {
		p := &promises{}
		random := rand.New(rand.NewPCG(1, uint64(n)))
		for i := range n {
			p.add(&promise{promiseKey: promiseKey{side: i % 3, batch: i%2 == 0}, at: now.Add(24*time.Hour + time.Duration(random.IntN(1000))*time.Second)})
		}
		return p, func(i int) {
			key := promiseKey{side: i % 3}
			p.add(&promise{promiseKey: key, at: now, came: now})
			if _, ok := p.returned(key, 0, now, true); !ok {
				t.Error("a promise is not found")
			}
			now = now.Add(2 * time.Second) // the ones that came are forgotten
			p.forget(now)
		}
	}
	few, little := of(maxPromises / 20)
	many, much := of(maxPromises / 2)
	growth.Constant(t, "promise", little, much)
	assert.Len(t, few.all, maxPromises/20)
	assert.Len(t, many.all, maxPromises/2)
}

// TestPromisesAreForgottenOnce: those of the same kind may have the same time.
func TestPromisesAreForgottenOnce(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := &promises{}
	for i := range 30 {
		p.add(&promise{promiseKey: promiseKey{side: i % 2, batch: i < 20}, at: now.Add(time.Duration(i/6) * time.Second), came: now})
	}
	_, ok := p.returned(promiseKey{side: 0, batch: true}, 0, now, true)
	assert.True(t, ok)
	_, ok = p.returned(promiseKey{side: 0, batch: true}, 0, now.Add(-time.Second), true)
	assert.False(t, ok, "too early")
	for range 100 {
		p.forget(now)
		now = now.Add(100 * time.Millisecond)
	}
	assert.Empty(t, p.all)
	assert.Empty(t, p.byKey)
	assert.Empty(t, p.core)
	assert.Zero(t, p.batch)
}
