// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakekubelet"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// ruleUse is a metric that a rule or a runbook names, with its labels.
type ruleUse struct {
	Where, Metric        string
	Labels, Alternatives []string
}

// ruleUses are all of the repository.
func ruleUses(t *testing.T) (uses []ruleUse) {
	t.Helper()
	raw, err := exec.Command("go", "run", "-C", filepath.Join(root, "tools", "rules"), ".", "uses", root).Output()
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &uses))
	return uses
}

// seriesOf are the labels of all series of a metric that a store has had.
func seriesOf(t *testing.T, store stack.Store, metric string) (all []map[string]string) {
	t.Helper()
	text, err := get(store.URL + "/api/v1/series?" + url.Values{"match[]": {metric}}.Encode())
	require.NoError(t, err)
	var answer struct{ Data []map[string]string }
	require.NoError(t, json.Unmarshal([]byte(text), &answer))
	return answer.Data
}

// missing is what a store lacks of a use; empty if it has all.
func (u *ruleUse) missing(t *testing.T, store stack.Store) string {
	t.Helper()
	series := seriesOf(t, store, u.Metric)
	if len(series) == 0 {
		return u.Where + ": no " + u.Metric
	}
	for _, other := range u.Alternatives {
		series = append(series, seriesOf(t, store, other)...)
	}
	for _, label := range u.Labels {
		if !slices.ContainsFunc(series, func(s map[string]string) bool { return s[label] != "" }) {
			return u.Where + ": no " + label + " on " + u.Metric
		}
	}
	return ""
}

// failing are exporters of every signal whose endpoints are away, and silent: what they lose is
// counted.
const failing = `
exporters:
  otlp_http/away: {endpoint: "http://127.0.0.1:1", sending_queue: {enabled: false}, retry_on_failure: {enabled: false}}
  otlp_http/silent: {endpoint: %q, timeout: 60s, sending_queue: {queue_size: 1, num_consumers: 1, sizer: requests}}
service:
  pipelines:
    metrics/lost: {receivers: [nvml/fast], exporters: [otlp_http/away, otlp_http/silent]}
    traces/lost: {receivers: [gpucorrelation], exporters: [otlp_http/away, otlp_http/silent]}
    logs/lost: {receivers: [gpucorrelation], exporters: [otlp_http/away, otlp_http/silent]}
`

// TestRulesNameWhatTheCollectorEmits asks a Prometheus for every metric and label that a rule or
// a runbook names, after a service with each kind of GPU has worked and failed.
func TestRulesNameWhatTheCollectorEmits(t *testing.T) {
	beside(t, working)
	uses := ruleUses(t)
	require.Greater(t, len(uses), 100)
	m := newMachine(t, fakenvml.Current, "rtx-4080-super", "h100", "h100-mig", "v100", "l40s")
	kubelet := fakekubelet.New(t).Start(t)
	kubelet.Set(fakekubelet.Pod("photos", "comfyui-0", "main", "nvidia.com/gpu", m.gpus[0].UUID()))
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	t.Cleanup(func() { cancel(); working.Wait() })
	of := memoryServer{newer: true, dynamic: true}
	service := simulation.NewService(m.gpus[0], m.profiles[0], 1)
	server := of.on(service)
	working.Go(func() { service.Run(ctx) })
	working.Go(func() { server.Run(ctx) })
	h := httptest.NewServer(server)
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	telemetry, proxy := port(t), "127.0.0.1:"+strconv.Itoa(port(t))
	overlay := filepath.Join(t.TempDir(), "overlay.yaml")
	require.NoError(t, os.WriteFile(overlay, fmt.Appendf(nil, "receivers:\n  comfyui: {proxy: {endpoint: %q}, upstream: {endpoint: %q}, device: %q, collection_interval: 1s}\n", proxy, h.URL, m.gpus[0].UUID()), 0o600))
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or the end of the connection is not noticed
		<-r.Context().Done()
	}))
	t.Cleanup(func() { silent.CloseClientConnections(); silent.Close() })
	losses := filepath.Join(t.TempDir(), "losses.yaml")
	require.NoError(t, os.WriteFile(losses, fmt.Appendf(nil, failing, silent.URL), 0o600))
	m.gpus[4].SetDelay("nvmlDeviceGetPcieReplayCounter", 20*time.Millisecond) // a family of calls is slowed
	store := prometheusWith(t, fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n  - {job_name: otelcol-gpu-telemetry, metric_name_escaping_scheme: underscores, static_configs: [{targets: ['127.0.0.1:%d'], labels: {instance: vm}}]}\nstorage: {tsdb: {out_of_order_time_window: 1h}}\n", telemetry))
	collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_COLLECTION_INTERVAL=1s", fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", telemetry),
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_TRACES_ENDPOINT="+startJaeger(t).otlp),
		"--config", overlay, "--config", losses, "--config=yaml:receivers::nvml::processes::pod_resources: "+kubelet.Socket)
	eventually(t, store, "comfyui_memory_context_bytes", atLeast(1)) // as it is before the first prompt
	u := simulation.NewUsers("http://" + proxy)
	ordering, stop := context.WithTimeout(ctx, 2*patience)
	defer stop()
	var users sync.WaitGroup
	for i := range 3 { // two wait
		users.Go(func() {
			assert.NoError(t, u.Order(ordering, fmt.Sprint("client-", i), []simulation.Photo{{Side: 512}, {Side: 960}}))
		})
	}
	users.Go(func() {
		_ = u.Generate(ordering, "client-3", []simulation.Image{{Checkpoint: largeCheckpoint, Side: 1024, Batch: 1, Steps: 4}, {Checkpoint: largeCheckpoint, Side: 2048, Batch: 64, Steps: 2}})
	})
	users.Wait()
	m.state.Event(1, fakenvml.EventXID, 31)
	var lacks []string
	checked := map[string]bool{}
	deadline := time.Now().Add(patience)
	require.Eventually(t, func() bool {
		lacks = nil
		for i := range uses {
			lack := uses[i].missing(t, store)
			if lack == "" {
				checked[uses[i].Metric] = true
			} else {
				lacks = append(lacks, lack)
			}
		}
		return len(lacks) == 0 || time.Now().After(deadline)
	}, 2*patience, time.Second)
	assert.Empty(t, lacks)
	figure.AtLeast("rules.metrics.emitted", float64(len(checked)), "metrics", 60)
	assert.GreaterOrEqual(t, len(checked), 60)
}
