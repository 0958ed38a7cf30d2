// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestAdviceAcrossCollectors has a gateway's proxy ask the collector on the GPU node, which polls
// the same server, with a token. The node's end costs no prompt.
func TestAdviceAcrossCollectors(t *testing.T) {
	beside(t, working)
	j, p := prepareJoined(t, ""), newLivePage(t)
	const token = "extensions:\n  bearertokenauth: {token: secret}\n"
	overlay := func(text string) (arguments []string) {
		return []string{"--config", writeConfig(t, text)}
	}
	j.overlays = append(j.overlays, overlay(token+`
receivers:
  comfyui: {mode: poll, poll_interval: 200ms}
connectors:
  gpuadvisor: {page: {auth: {authenticator: bearertokenauth}}, advice: {claims: true}}
service:
  extensions: [health_check, shutdown_limit, queue_check/queue, file_storage/queue, queue_check/comfyui, file_storage/comfyui, bearertokenauth]
`)...)
	j.environment = append(j.environment, p.environment())
	j.start(t)
	answer, err := http.Post(p.url()+"/v1/advice", "application/json", http.NoBody)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	assert.Equal(t, http.StatusUnauthorized, answer.StatusCode, "without the token")

	start := func() *collector {
		gateway := overlay(fmt.Sprintf(`%s
  health_check: {endpoint: "127.0.0.1:${env:OTELCOL_GPU_HEALTH_PORT}"}
receivers:
  comfyui:
    proxy: {endpoint: %q}
    upstream: {endpoint: %q}
    device: ""
    collection_interval: 1s
    admission:
      mode: enforce
      timeout: 500ms # a busy machine is not a slow advisor
      remote: {endpoint: %q, auth: {authenticator: bearertokenauth}}
exporters:
  prometheus_remote_write: {endpoint: %q}
service:
  extensions: [health_check, bearertokenauth]
  telemetry: {metrics: {level: none}}
  pipelines:
    metrics: {receivers: [comfyui], exporters: [prometheus_remote_write]}
`, token, j.comfyui[0].proxy, j.comfyui[0].server.URL, p.url(), j.store.URL+"/api/v1/write"))
		return collect(t, gateway[1], nil, gateway[2:]...)
	}
	start()
	decided := func(reason string) string {
		return fmt.Sprintf(`sum(comfyui_admission_decisions_total{comfyui_admission_reason=%q,comfyui_admission_enforced="true"}) > 0`, reason)
	}
	for range 5 { // until the node has learned
		j.photo(t, 512, nil)
	}
	eventually(t, j.store, `gpuadvisor_model_samples{gpuadvisor_cost="time"} >= 3`, atLeast(1))
	j.photo(t, 512, nil)
	eventually(t, j.store, decided("fits"), atLeast(1))
	eventually(t, j.store, `sum(gpuadvisor_decisions_total{comfyui_admission_reason="fits"}) > 0`, atLeast(1)) // by the node
	j.Kill()
	j.photo(t, 512, nil)
	eventually(t, j.store, decided("failed"), atLeast(1))
}
