// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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

// shown is a service with each kind of GPU whose collector writes to two stores.
type shown struct {
	prometheus, victoria stack.Store
	jaeger               *jaeger
}

// newShown starts the service, and has its users order until the test ends.
func newShown(t *testing.T) *shown {
	t.Helper()
	telemetry := port(t)
	s := &shown{jaeger: startJaeger(t)}
	rules := quickRules(t)
	s.prometheus = prometheusWith(t, fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 2s}
rule_files: [%q]
scrape_configs:
  - {job_name: otelcol-gpu, metric_name_escaping_scheme: underscores, static_configs: [{targets: ['127.0.0.1:%d'], labels: {instance: %q}}]}
storage: {tsdb: {out_of_order_time_window: 1h}}
`, rules, telemetry, hostName(t)))
	s.victoria = victoriaMetricsScraping(t, telemetry, rules)

	m := newMachine(t, fakenvml.Current, "rtx-4080-super", "h100", "h100-mig", "v100", "l40s")
	kubelet := fakekubelet.New(t).Start(t)
	kubelet.Set(fakekubelet.Pod("photos", "comfyui-0", "main", "nvidia.com/gpu", m.gpus[0].UUID()))
	proxy, working := serveImages(t, m, []stack.Store{s.prometheus, s.victoria}, fmt.Sprintf("OTELCOL_GPU_TELEMETRY_PORT=%d", telemetry),
		"OTELCOL_GPU_TRACES_ENDPOINT="+s.jaeger.otlp, "KUBELET="+kubelet.Socket)
	eventually(t, s.prometheus, "comfyui_memory_context_bytes", atLeast(1)) // as it is before the first prompt
	for kind := range 4 {
		working.Go(func(ctx context.Context) { orderKind(ctx, simulation.NewUsers(proxy), kind) })
	}
	working.Go(func(ctx context.Context) {
		for ctx.Err() == nil {
			m.state.Event(1, fakenvml.EventXID, 31)
			m.state.Event(4, fakenvml.EventXID, 79)
			if response, err := http.Post(proxy+"/prompt", "application/json", strings.NewReader("{}")); err == nil { // the server refuses it
				_ = response.Body.Close()
			}
			wait(ctx, 3*time.Second)
		}
	})
	return s
}

// group is what works until the test ends.
type group struct {
	ctx context.Context
	all sync.WaitGroup
}

// Go adds something that works until its context ends.
func (g *group) Go(work func(ctx context.Context)) { g.all.Go(func() { work(g.ctx) }) }

// serveImages starts a ComfyUI on the first GPU of a machine, and the collector, which writes to
// stores. It returns the proxy's URL.
func serveImages(t *testing.T, m *machine, stores []stack.Store, environment ...string) (proxy string, working *group) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	working = &group{ctx: ctx}
	t.Cleanup(func() { cancel(); working.all.Wait() })
	service := simulation.NewService(m.gpus[0], m.profiles[0], 1)
	server := (&memoryServer{newer: true, dynamic: true}).on(service)
	working.Go(service.Run)
	working.Go(server.Run)
	h := httptest.NewServer(server)
	t.Cleanup(func() { h.CloseClientConnections(); h.Close() })
	address := "127.0.0.1:" + strconv.Itoa(port(t))
	exporters, names := remoteWriters(stores...)
	overlay := filepath.Join(t.TempDir(), "overlay.yaml")
	require.NoError(t, os.WriteFile(overlay, fmt.Appendf(nil, `receivers:
  nvml: {processes: {pod_resources: "${env:KUBELET:-}"}}
  comfyui: {proxy: {endpoint: %q}, upstream: {endpoint: %q}, device: %q, collection_interval: 1s}
exporters:
%sservice: {pipelines: {metrics/out: {exporters: [%s]}}}
`, address, h.URL, m.gpus[0].UUID(), exporters, names), 0o600))
	collect(t, "comfyui.yaml", slices.Concat(m.environment, []string{"OTELCOL_GPU_COMFYUI_STORE=" + t.TempDir(), "OTELCOL_GPU_COLLECTION_INTERVAL=1s"}, environment), "--config", overlay)
	return "http://" + address, working
}

// orderKind is a user of each kind: people, buildings, images that change the model, and one who
// asks for more than the GPU has.
func orderKind(ctx context.Context, u *simulation.Users, kind int) {
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("client-%d-%d", kind, i)
		switch kind {
		case 0:
			_ = u.Order(ctx, id, []simulation.Photo{{Side: 512}})
		case 1:
			_ = u.Order(ctx, id, []simulation.Photo{{Side: 960}})
		case 2:
			_ = u.Generate(ctx, id, []simulation.Image{{Checkpoint: []string{smallCheckpoint, largeCheckpoint}[i%2], Side: 512, Batch: 1, Steps: 3, Seed: int64(i)}})
		case 3:
			_ = u.Generate(ctx, id, []simulation.Image{{Checkpoint: largeCheckpoint, Side: 2048, Batch: 64, Steps: 2, Seed: int64(i)}})
			wait(ctx, 5*time.Second)
		}
		wait(ctx, 500*time.Millisecond)
	}
}

func hostName(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	require.NoError(t, err)
	return name
}

// quickRules are the shipped rules, evaluated each two seconds.
func quickRules(t *testing.T) (pattern string) {
	t.Helper()
	folder := t.TempDir()
	for _, name := range []string{"history.yaml", "prices.yaml", "alerts.yaml"} {
		raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", name))
		require.NoError(t, err)
		text := string(raw)
		for _, interval := range []string{"interval: 1m\n", "interval: 15s\n"} {
			text = strings.ReplaceAll(text, interval, "interval: 2s\n")
		}
		require.NoError(t, os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600))
	}
	return filepath.Join(folder, "*.yaml")
}

// victoriaMetricsScraping starts a VictoriaMetrics that scrapes a port of this host, and a
// vmalert that evaluates rules.
func victoriaMetricsScraping(t *testing.T, telemetry int, rules string) stack.Store {
	t.Helper()
	scrape := filepath.Join(t.TempDir(), "scrape.yaml")
	require.NoError(t, stack.WriteScrapeConfig(scrape, hostName(t), fmt.Sprintf("127.0.0.1:%d", telemetry), time.Second))
	store := victoriaMetrics(t, "-promscrape.config="+scrape)
	startVmalert(t, rules, store, "-notifier.blackhole", "-rule.evalDelay=0s")
	return store
}

// exemplars asks for the exemplars of each query that shows some: they must lead to traces.
func (s *shown) exemplars(t *testing.T, panels []boardPanel, variables map[string][]boardVariable) {
	t.Helper()
	asked := 0
	for i := range panels {
		p := &panels[i]
		for _, target := range p.targets {
			if !target.Exemplar {
				continue
			}
			asked++
			expr := boardIntervals.Replace(replaceVariables(target.Expr, choices(t, s.prometheus, variables[p.board])[0]))
			now := time.Now()
			text, err := get(s.prometheus.URL + "/api/v1/query_exemplars?" + url.Values{"query": {expr},
				"start": {strconv.FormatInt(now.Add(-boardRange).Unix(), 10)}, "end": {strconv.FormatInt(now.Unix(), 10)}}.Encode())
			require.NoError(t, err, p)
			var answer struct {
				Data []struct {
					Exemplars []struct{ Labels map[string]string }
				}
			}
			require.NoError(t, json.Unmarshal([]byte(text), &answer))
			id := ""
			for _, series := range answer.Data {
				for _, e := range series.Exemplars {
					id = e.Labels["trace_id"]
				}
			}
			if assert.NotEmpty(t, id, "%s: no exemplar: %s", p, expr) {
				require.Eventually(t, func() bool { return len(s.jaeger.traces("/api/traces/"+id)) == 1 }, patience, 100*time.Millisecond, "%s: there is no trace %s", p, id)
			}
		}
	}
	assert.Positive(t, asked)
	figure.Print("panels.exemplars_that_lead_to_traces", float64(asked), "queries")
}
