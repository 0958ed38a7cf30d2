// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// TestTheScrapeJobReadsTheCollectorsOwnTelemetry gives the file of deploy/prometheus to a
// Prometheus and to a VictoriaMetrics, with the address of a collector that listens on another
// address than the default one.
func TestTheScrapeJobReadsTheCollectorsOwnTelemetry(t *testing.T) {
	beside(t, working)
	const host = "127.0.0.2" // a loopback address that is not the default one
	m := newMachine(t, fakenvml.Current, "l40s")
	store := victoriaMetrics(t)
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_TELEMETRY_HOST="+host,
		"OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	at, err := url.Parse(c.telemetry)
	require.NoError(t, err)
	_, err = net.Dial("tcp", at.Host)
	require.Error(t, err, "it listens on the address that it was given")

	raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "scrape", "otelcol-gpu.yaml"))
	require.NoError(t, err)
	text := strings.Replace(string(raw), "gpu-node-1:8888", net.JoinHostPort(host, at.Port()), 1)
	text = strings.Replace(text, "          - gpu-node-2:8888\n", "", 1)
	text = strings.Replace(text, "scrape_interval: 15s", "scrape_interval: 500ms", 1)
	require.NotContains(t, text, "- gpu-node", "the file has other targets")
	job := filepath.Join(t.TempDir(), "otelcol-gpu.yaml")
	require.NoError(t, os.WriteFile(job, []byte(text), 0o600))

	prometheus := prometheusWith(t, fmt.Sprintf("scrape_config_files: [%q]\n", job))
	second := "127.0.0.1:" + strconv.Itoa(port(t))
	vm := start(t, "victoria-metrics-2", tool(t, "victoria-metrics"), nil, "-httpListenAddr="+second, "-storageDataPath="+t.TempDir(),
		"-search.latencyOffset=0s", "-storage.cacheSizeIndexDBTagFilters=1", "-loggerLevel=WARN", "-promscrape.config="+job, "-promscrape.config.strictParse=false")
	require.NoError(t, vm.WaitHTTP(withPatience(t), "http://"+second+"/health"))
	for _, scraped := range []stack.Store{prometheus, {URL: "http://" + second}} {
		for _, query := range []string{
			`up{job="otelcol-gpu"} == 1`, `otelcol_exporter_queue_size{exporter="otlp_http/queue"}`, `otelcol_receiver_nvml_up`,
			`otelcol_exporter_sent_metric_points > 0`,
			`otelcol_receiver_nvml_family_time{nvml_family="memory"}`,
		} {
			for _, s := range eventually(t, scraped, query, atLeast(1)) {
				assert.Equal(t, host, s.Labels["instance"], query)
			}
		}
	}
}
