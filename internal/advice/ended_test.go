// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// dies has a server's process end: what it said before stands, and no connection to it can be opened.
func (w *world) dies(name string) {
	s := w.servers[name]
	s.Unreachable = w.now
	w.seen(s)
}

// TestAServerWhoseProcessEndedDoesNotWorkForEver: its prompts neither take the GPU's time nor its memory.
func TestAServerWhoseProcessEndedDoesNotWorkForEver(t *testing.T) {
	w := crowded(t)
	w.rested()
	for range 3 {
		w.queued("b", "people", 512)
	}
	d := w.claimed("b", "people", 512)
	require.NotZero(t, d.Claim)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy)
	is(t, w.ask("a", "buildings", 512), admission.Reject, admission.BatchWaits)
	w.dies("b")
	w.pass(time.Second)
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy, "it may only restart its listener")
	w.pass(endedAfter)
	w.sampled()
	is(t, w.ask("a", "people", 512), admission.Admit, admission.Fits)
	is(t, w.ask("a", "buildings", 512), admission.Admit, admission.Fits)
	assert.Zero(t, w.Claims())
	is(t, w.ask("b", "people", 512), admission.Admit, admission.Unknown, "the proxy says what is wrong")
	w.gpu.Used += 5 * gib // the process has not given its memory back
	w.SetGPU(w.gpu)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy, "by what the driver says")

	s := w.servers["b"] // it comes back, and is asked again
	s.Unreachable, s.Prompts, s.Memory.At = time.Time{}, nil, w.now
	w.sampled()
	w.queued("b", "people", 512)
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy)
	is(t, w.ask("b", "people", 512), admission.Admit, admission.Fits)
}

// TestAServerThatCannotBeReachedIsNotRecommended: it looks idle.
func TestAServerThatCannotBeReachedIsNotRecommended(t *testing.T) {
	w := newWorld(t, "a", "b")
	w.learned("a", 20)
	w.learned("b", 20)
	w.rested()
	for range 17 {
		w.queued("a", "people", 512)
	}
	a := w.advisor()
	ask := func(server string, stays bool) admission.Decision {
		d, err := a.Advise(t.Context(), &admission.Request{Server: server, Class: "people", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Stays: stays})
		require.NoError(t, err)
		return d
	}
	assert.Equal(t, "b", ask("", false).Target)
	assert.Equal(t, "b", ask("a", false).Target)
	is(t, ask("a", true), admission.Reject, admission.Late, "its session has begun")
	w.dies("b")
	w.pass(endedAfter)
	w.sampled()
	assert.Equal(t, "a", ask("", false).Target)
	is(t, ask("a", false), admission.Reject, admission.Late)
	w.ended("a")
	for len(w.servers["a"].Prompts) > 0 {
		w.ended("a")
	}
	d := ask("b", false)
	assert.Equal(t, admission.Redirect, d.Verdict)
	assert.Equal(t, "a", d.Target)
}

// TestWhatWouldBeHeldIsCounted where nobody is held.
func TestWhatWouldBeHeldIsCounted(t *testing.T) {
	w := crowded(t)
	w.rested()
	w.queued("b", "people", 512)
	a := w.advisor()
	for _, observe := range []bool{false, true} {
		d, err := a.Advise(t.Context(), &admission.Request{Server: "a", Class: "people", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Claim: true, Observe: observe})
		require.NoError(t, err)
		is(t, d, admission.Hold, admission.MemoryBusy)
	}
	assert.Equal(t, map[Counted]int64{{"a", "people", admission.Hold, admission.MemoryBusy}: 1}, a.Counts(), "those that are held are asked about again")
}
