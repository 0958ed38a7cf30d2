// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestObserveNotesDecisions has the collector observe, with config/observe.yaml: decisions are on
// spans and in the store, and models are learned.
func TestObserveNotesDecisions(t *testing.T) {
	beside(t, working)
	j := prepareJoined(t, "", filepath.Join(root, "config", "observe.yaml"))
	j.environment = append(j.environment, newLivePage(t).environment())
	j.start(t)
	const photos = 5
	for i := range photos {
		j.photo(t, 512+i, nil)
	}
	var roots []*jaegerSpan
	require.Eventually(t, func() bool {
		roots = nil
		all := j.jaeger.traces("/api/traces?limit=100&lookback=1h&service=comfyui")
		for i := range all {
			if s := all[i].named("comfyui.prompt"); s != nil {
				roots = append(roots, s)
			}
		}
		return len(roots) == photos
	}, patience, 1e8)
	for _, s := range roots {
		decision, _ := s.tag("comfyui.admission.decision").(string)
		assert.Equal(t, "admit", decision)
		enforced, _ := s.tag("comfyui.admission.enforced").(bool)
		assert.False(t, enforced)
	}
	eventually(t, j.store, `sum(gpuadvisor_decisions_total{comfyui_admission_decision="admit"}) == 5`, atLeast(1))
	eventually(t, j.store, `sum(comfyui_admission_decisions_total{comfyui_admission_enforced="false"}) == 5`, atLeast(1))
	eventually(t, j.store, `sum(gpuadvisor_level) == 1`, atLeast(1)) // one level of one GPU
	eventually(t, j.store, `gpuadvisor_model_samples{gpuadvisor_cost="time"} >= 3`, atLeast(1))
}
