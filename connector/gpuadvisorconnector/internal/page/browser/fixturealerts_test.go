// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/alerts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// startAlerts asks an Alertmanager for the alerts that fire, as the connector does: where there
// is a rush it has two, where a GPU is lost it does not respond, elsewhere nobody is asked.
func (f *fixture) startAlerts(t testing.TB) *alerts.Poller {
	t.Helper()
	cfg := alerts.DefaultConfig()
	cfg.AllHosts = true
	switch f.trouble {
	case rushHour:
		body, err := json.Marshal([]any{
			firing(t, "GPUMemoryUsageCritical", f.begun.Add(-2*time.Minute), "98.2%", map[string]string{"hw_name": "gpu1", "instance": "gpu-node-07"}),
			firing(t, "ComfyUIQueueGrowing", f.begun.Add(-time.Minute), "1m 35s", map[string]string{"instance": f.server(0)}),
		})
		require.NoError(t, err)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
		t.Cleanup(server.Close)
		cfg.Client.Endpoint = server.URL
	case lostGPU:
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		cfg.Client.Endpoint = server.URL
	}
	p := alerts.New(cfg, componenttest.NewNopTelemetrySettings())
	require.NoError(t, p.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(p.Shutdown)
	if cfg.IsEnabled() {
		waiting := texts.Message{Key: "alerts.waiting"}.In(texts.English)
		require.Eventually(t, func() bool { return p.View(texts.English).Error != waiting }, patience, time.Millisecond, "the first answer")
	}
	return p
}

// firing is an alert of the shipped rules as Alertmanager has it. value is what Prometheus fills
// in, in words.
func firing(t testing.TB, name string, since time.Time, value string, labels map[string]string) map[string]any {
	t.Helper()
	root, err := figure.Root()
	require.NoError(t, err)
	raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", "alerts.yaml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert               string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(raw, &rules))
	same := func(v string) string { return v }
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Alert != name {
				continue
			}
			annotations := map[string]string{}
			for key, text := range rule.Annotations {
				filled, err := template.New(key).Funcs(template.FuncMap{"humanizePercentage": same, "humanizeDuration": same}).Parse("{{$labels := .Labels}}{{$value := .Value}}" + text)
				require.NoError(t, err)
				var out strings.Builder
				require.NoError(t, filled.Execute(&out, map[string]any{"Labels": labels, "Value": value}))
				annotations[key] = out.String()
			}
			all := map[string]string{"alertname": name, "severity": rule.Labels["severity"]}
			for key, label := range labels {
				all[key] = label
			}
			return map[string]any{"labels": all, "annotations": annotations, "startsAt": since}
		}
	}
	require.Fail(t, "There is no such alert", name)
	return nil
}
