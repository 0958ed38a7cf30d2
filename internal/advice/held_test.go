// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
)

// TestBatchWaitsWhileCoreWorkIsHeld, at whichever server of the GPU: a neighbour that always has batch
// would never come to rest.
func TestBatchWaitsWhileCoreWorkIsHeld(t *testing.T) {
	w := crowded(t)
	w.rested()
	w.queued("b", "buildings", 512)
	batch := func() admission.Decision { return w.ask("b", "buildings", 512) }
	is(t, batch(), admission.Admit, admission.Fits, "nothing else is wanted")
	is(t, w.ask("a", "people", 512), admission.Hold, admission.MemoryBusy, "somebody only asks")
	is(t, batch(), admission.Admit, admission.Fits)
	is(t, w.claimed("a", "people", 512), admission.Hold, admission.MemoryBusy)
	d := batch()
	is(t, d, admission.Reject, admission.BatchWaits, "core work is held")
	assert.Positive(t, d.RetryAfter)
	w.pass(heldAgain)
	is(t, batch(), admission.Admit, admission.Fits, "it is no longer held")
}

// TestWhoIsNotRefusedDoesNotComeAgain: where decisions are only noted, the same prompts are decided about
// alike, however many would have been refused.
func TestWhoIsNotRefusedDoesNotComeAgain(t *testing.T) {
	w := newWorld(t, "a")
	w.learned("a", 20)
	w.rested()
	for range 3 {
		w.queued("a", "buildings", 512)
	}
	w.queued("a", "people", 512)
	r := admission.Request{Server: "a", Class: "buildings", Workflow: "colour", Model: "ddcolor", Side: 512, Batch: 1, Claim: true, Observe: true}
	first := w.Advise(&r, w.now)
	is(t, first, admission.Reject, admission.BatchWaits)
	for range 3 * crowd {
		is(t, w.Advise(&r, w.now), admission.Reject, admission.BatchWaits)
	}
	assert.Zero(t, w.Engine.servers["a"].gpu.promises.batch, "nobody comes again")
	assert.False(t, w.Engine.servers["a"].isCrowded())
	w.pass(2 * time.Second)
	again := w.Advise(&r, w.now)
	assert.Equal(t, w.now.Add(first.Deadline.Sub(w.now.Add(-2*time.Second))), again.Deadline, "it is another prompt, with all its time")
}
