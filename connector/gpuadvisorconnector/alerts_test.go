// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/connector/connectortest"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
)

func TestTheStateHasTheAlertsThatFire(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"status":"success","data":{"alerts":[{"state":"firing","labels":{"alertname":"GPULost","severity":"critical"},"annotations":{"summary":"GPU gpu0 is lost."},"activeAt":"2026-03-01T12:00:00Z"}]}}`))
	}))
	defer server.Close()
	cfg := createDefaultConfig().(*Config)
	cfg.Page.NetAddr.Endpoint = "127.0.0.1:0"
	require.NoError(t, cfg.Unmarshal(confmap.NewFromStringMap(map[string]any{"alerts": map[string]any{"endpoint": server.URL, "source": "prometheus", "interval": "1s"}})))
	require.NoError(t, cfg.Validate())
	a := newAdvisor(connectortest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, a.Start(t.Context(), componenttest.NewNopHost()))
	require.Eventually(t, func() bool { return len(a.state.State(texts.English).Alerts.Firing) == 1 }, 10*time.Second, 5*time.Millisecond)
	shown := a.state.State(texts.English).Alerts
	assert.Equal(t, "GPU gpu0 is lost.", shown.Firing[0].Summary)
	assert.Equal(t, server.URL, shown.Source)
	require.NoError(t, a.Shutdown(t.Context()))
}

func TestWithoutAnAlertmanagerThereAreNoAlerts(t *testing.T) {
	cfg := createDefaultConfig().(*Config)
	require.NoError(t, cfg.Validate())
	cfg.Page.NetAddr.Endpoint = "127.0.0.1:0"
	a := newAdvisor(connectortest.NewNopSettings(metadata.Type), cfg)
	require.NoError(t, a.Start(t.Context(), componenttest.NewNopHost()))
	assert.Nil(t, a.state.State(texts.English).Alerts)
	require.NoError(t, a.Shutdown(t.Context()))
	cfg.Alerts.Client.Endpoint = "127.0.0.1:9093"
	require.ErrorContains(t, cfg.Validate(), "alerts::endpoint")
	require.ErrorContains(t, cfg.Unmarshal(confmap.NewFromStringMap(map[string]any{"alerts": map[string]any{"sourse": "prometheus"}})), "alerts::sourse")
}
