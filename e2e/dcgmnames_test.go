// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// scraping starts a Prometheus that scrapes ports of this machine each second.
func scraping(t *testing.T, ports ...int) stack.Store {
	t.Helper()
	targets := ""
	for _, p := range ports {
		targets += fmt.Sprintf("'127.0.0.1:%d', ", p)
	}
	return prometheusWith(t, fmt.Sprintf("global: {scrape_interval: 1s}\nscrape_configs:\n  - {job_name: names, static_configs: [{targets: [%s]}]}\n", targets))
}

// dashboard12239 are the queries of dcgm-exporter's own dashboard, its variables filled in.
var dashboard12239 = []string{
	`max by (Hostname, gpu, UUID) (DCGM_FI_DEV_GPU_TEMP{Hostname=~".+", gpu=~".+"})`,
	`avg(DCGM_FI_DEV_GPU_TEMP{Hostname=~".+", gpu=~".+"})`,
	`max by (Hostname, gpu, UUID) (DCGM_FI_DEV_POWER_USAGE{Hostname=~".+", gpu=~".+"})`,
	`sum(max by (gpu) (DCGM_FI_DEV_POWER_USAGE{Hostname=~".+", gpu=~".+"}))`,
	`max by (Hostname, UUID, gpu) (DCGM_FI_DEV_SM_CLOCK{Hostname=~".+", gpu=~".+"} * 1000000)`,
	`max by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE) (DCGM_FI_PROF_GR_ENGINE_ACTIVE{Hostname=~".+", gpu=~".+"})`,
	`max by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE) (DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{Hostname=~".+", gpu=~".+"})`,
	`max by (Hostname, gpu, GPU_I_ID, GPU_I_PROFILE) (DCGM_FI_DEV_FB_USED{Hostname=~".+", gpu=~".+"})`,
}

// TestDashboardsAndRulesForDCGMGoOnWorking asks a Prometheus that scrapes the collector, as it
// scraped dcgm-exporter and the article's prototype.
func TestDashboardsAndRulesForDCGMGoOnWorking(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s", "h100", "h100-mig", "rtx-2080-super")
	m.gpus[0].Step("power", 123_000) // of both figures: one is an average
	dcgm, prototype, written := port(t), port(t), victoriaMetrics(t)
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=1s", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+written.URL+"/api/v1/write",
		fmt.Sprintf("OTELCOL_GPU_DCGM_ENDPOINT=127.0.0.1:%d", dcgm), fmt.Sprintf("OTELCOL_GPU_PROTOTYPE_ENDPOINT=127.0.0.1:%d", prototype)),
		"--config", filepath.Join(root, "config", "dcgm-names.yaml"))
	store := scraping(t, dcgm, prototype)
	eventually(t, store, `DCGM_FI_PROF_GR_ENGINE_ACTIVE{GPU_I_ID!=""}`, atLeast(1)) // of the second scrape

	for _, query := range dashboard12239 {
		eventually(t, store, query, atLeast(1))
	}
	eventually(t, store, `count by (gpu) (DCGM_FI_DEV_POWER_USAGE)`, atLeast(4))
	eventually(t, store, fmt.Sprintf(`count(DCGM_FI_DEV_FB_USED{gpu="2", UUID=%q, GPU_I_ID=~"\\d+", GPU_I_PROFILE=~".+gb"}) == %d`, m.gpus[2].UUID(), len(m.profiles[2].MIG)), atLeast(1))
	one := func(query string) float64 {
		return eventually(t, store, query, func(s []stack.Series) bool { return len(s) == 1 })[0].Value()
	}
	checkCounters(t, store)
	assert.Empty(t, eventually(t, store, `{__name__=~"DCGM_FI_.*|dcgm_.*|nvidia_gpu_.*", hostname=""} or {__name__=~"DCGM_FI_.*|dcgm_.*|nvidia_gpu_.*", Hostname=""}`, atLeast(0)), "both labels")

	// Units.
	used := float64(m.gpus[0].Get("memory_used"))
	for name, want := range map[string]float64{
		"DCGM_FI_DEV_FB_USED": used / (1 << 20), "dcgm_fb_used": used / (1 << 20), "nvidia_gpu_memory_used_mb": used / (1 << 20),
		"DCGM_FI_DEV_FB_RESERVED": float64(m.gpus[0].Get("memory_reserved")) / (1 << 20),
		"dcgm_fb_total":           float64(m.gpus[0].Get("memory_total")) / (1 << 20),
		"DCGM_FI_DEV_GPU_TEMP":    float64(m.gpus[0].Get("temperature_gpu")),
		"DCGM_FI_DEV_SM_CLOCK":    float64(m.gpus[0].Get("clock_sm")),
	} {
		assert.InDelta(t, want, one(name+`{gpu="0"}`), 1e-3*want, name)
	}
	assert.Greater(t, one(`DCGM_FI_DEV_GPU_UTIL{gpu="0"}`), 1.0, "percent")
	assert.InDelta(t, one(`DCGM_FI_DEV_GPU_UTIL{gpu="0"}`), one(`nvidia_gpu_utilization_percent{device="nvidia0"}`), 100)
	eventually(t, store, `rate(DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0"}[5s]) > 110e3 < 136e3`, atLeast(1)) // mJ a second, of 123 W
	for gpu, scope := range map[string]string{"0": "average", "3": "instant"} {
		power := eventually(t, written, fmt.Sprintf(`hw_power_watts{hw_name="gpu%s", hw_gpu_power_scope=%q}`, gpu, scope), atLeast(1))[0].Value()
		assert.InEpsilon(t, power, one(`DCGM_FI_DEV_POWER_USAGE{gpu="`+gpu+`"}`), 0.05, "%s of GPU %s", scope, gpu)
	}

	// The article's rules, as it writes them.
	const warning, critical = `dcgm_fb_used / dcgm_fb_total > 0.85`, `dcgm_fb_used / dcgm_fb_total > 0.95`
	m.gpus[0].Set("memory_used", m.gpus[0].Get("memory_total")*9/10)
	full := eventually(t, store, warning, atLeast(1))
	assert.Equal(t, []string{"0", m.gpus[0].UUID()}, []string{full[0].Labels["gpu"], full[0].Labels["UUID"]})
	assert.Empty(t, eventually(t, store, critical, atLeast(0)))
	m.gpus[0].Set("memory_used", m.gpus[0].Get("memory_total")*96/100)
	eventually(t, store, critical, atLeast(1))
	eventually(t, store, `nvidia_gpu_memory_used_mb / nvidia_gpu_memory_total_mb > 0.95`, atLeast(1))
	eventually(t, store, `DCGM_FI_DEV_FB_USED / (DCGM_FI_DEV_FB_USED + DCGM_FI_DEV_FB_FREE + DCGM_FI_DEV_FB_RESERVED) > 0.95`, atLeast(1))

	m.state.Event(1, fakenvml.EventXID, 79)
	eventually(t, store, `DCGM_FI_DEV_XID_ERRORS{gpu="1"} == 79`, atLeast(1))
	assert.True(t, c.Alive())
}

// checkCounters compares the table of docs/dcgm-names.md with a store.
func checkCounters(t *testing.T, store stack.Store) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "docs", "dcgm-names.md"))
	require.NoError(t, err)
	present := 0
	for _, line := range regexp.MustCompile("(?m)^\\| `(DCGM_FI_\\w+)` \\| (present|absent) \\| (.+) \\|$").FindAllStringSubmatch(string(raw), -1) {
		series, err := store.Query(context.Background(), line[1])
		require.NoError(t, err)
		assert.Equal(t, line[2] == "present", len(series) > 0, line[1])
		if len(series) > 0 {
			present++
		}
	}
	figure.AtLeast("dcgm.counters.present", float64(present), "counters", 24)
	assert.GreaterOrEqual(t, present, 24)
}
