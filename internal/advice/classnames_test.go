// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// TestMadeUpClassesHideNoDecision: where a request may name its class, a client chooses it.
func TestMadeUpClassesHideNoDecision(t *testing.T) {
	settings := DefaultSettings()
	settings.Classes = map[string]Class{"people": {Deadline: time.Minute}}
	a := NewAdvisor(settings, &comfyevents.Servers{}, time.Now, nil)
	ask := func(server, class string) {
		_, err := a.Advise(t.Context(), &admission.Request{Server: server, Class: class, Side: 512, Batch: 1, Claim: true})
		require.NoError(t, err)
	}
	for i := range 2 * maxCounted {
		ask("a", fmt.Sprint("forged ", i))
	}
	ask("a", "people")
	counts := a.Counts()
	assert.EqualValues(t, 1, counts[Counted{"a", "people", admission.Admit, admission.Unknown}])
	assert.EqualValues(t, 2*maxCounted-maxOtherNames, counts[Counted{"a", OtherClass, admission.Admit, admission.Unknown}])
	assert.Zero(t, a.Dropped())
	for i := range 2 * maxCounted {
		ask(fmt.Sprint(i), "people")
	}
	assert.Greater(t, a.Dropped(), int64(maxCounted), "of servers that do not exist")
	for _, b := range a.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
}
