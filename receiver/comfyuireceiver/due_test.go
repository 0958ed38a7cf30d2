// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// TestAPromptWithoutADecisionIsDueAsItsClass, not as a prompt of the class that came again, or that asked
// for a deadline.
func TestAPromptWithoutADecisionIsDueAsItsClass(t *testing.T) {
	d := newDueTimes()
	now := time.Unix(1_800_000_000, 0)
	held := time.Time{}
	after := func(decision admission.Decision, allowed time.Duration) float64 {
		return d.number(&prompt.Admission{Decision: decision, Held: held}, "people", now, allowed) - float64(now.Unix())
	}
	fits := func(left time.Duration, returned bool) admission.Decision {
		return admission.Decision{Reason: admission.Fits, Deadline: now.Add(left), Returned: returned}
	}
	failed := admission.Decision{Reason: admission.Failed}
	assert.InDelta(t, 30, after(fits(30*time.Second, false), 0), 1e-3)
	assert.InDelta(t, 2, after(fits(2*time.Second, true), 0), 1e-3, "its first try was 28 s ago")
	assert.InDelta(t, 30, after(failed, 0), 1e-3)
	assert.InDelta(t, 5, after(fits(5*time.Second, false), 5*time.Second), 1e-3)
	assert.InDelta(t, 30, after(failed, 0), 1e-3)
	held = now
	assert.InDelta(t, 3, after(fits(3*time.Second, false), 0), 1e-3, "it may have come again before it was held")
	held = time.Time{}
	assert.InDelta(t, 30, after(failed, 0), 1e-3)
	assert.InDelta(t, 20, after(fits(20*time.Second, false), 0), 1e-3)
	assert.InDelta(t, 20, after(failed, 0), 1e-3, "its class has another deadline now")
}
