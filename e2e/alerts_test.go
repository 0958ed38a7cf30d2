// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// alerting is a rule engine that evaluates the shipped alerts.
type alerting struct {
	stack.Store
	firing func() []string // names of the alerts that fire
}

// engines are the two that people have, by name: each starts one that sends to Alertmanager.
var engines = map[string]func(t *testing.T, rules, alertmanager string) alerting{
	"Prometheus": prometheusWithRules, "vmalert": vmalert,
}

func prometheusWithRules(t *testing.T, rules, alertmanager string) alerting {
	t.Helper()
	store := prometheusWith(t, fmt.Sprintf(`global: {scrape_interval: 15s, evaluation_interval: 15s}
rule_files: [%q]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
storage: {tsdb: {out_of_order_time_window: 1h}}
`, rules, alertmanager))
	return alerting{store, func() []string { return firing(t, store.URL+"/api/v1/alerts") }}
}

func vmalert(t *testing.T, rules, alertmanager string) alerting {
	t.Helper()
	store := victoriaMetrics(t)
	alerts := startVmalert(t, rules, store, "-notifier.url=http://"+alertmanager, "-evaluationInterval=15s", "-rule.evalDelay=0s")
	return alerting{store, func() []string { return firing(t, alerts) }}
}

// firing are the alerts that fire by an engine's API.
func firing(t *testing.T, url string) (names []string) {
	t.Helper()
	for _, labels := range firingLabels(t, url) {
		names = append(names, strings.TrimSpace(labels["alertname"]+" "+labels["hw_name"]))
	}
	slices.Sort(names)
	return names
}

// firingLabels are the labels of each alert that fires by an engine's API.
func firingLabels(t *testing.T, url string) (all []map[string]string) {
	t.Helper()
	text, err := get(url)
	require.NoError(t, err)
	var answer struct {
		Data struct {
			Alerts []struct {
				State  string
				Labels map[string]string
			}
		}
	}
	require.NoError(t, json.Unmarshal([]byte(text), &answer))
	for _, a := range answer.Data.Alerts {
		if a.State == "firing" {
			all = append(all, a.Labels)
		}
	}
	return all
}

// criticalFor is the for of GPUMemoryUsageCritical, as the article has it.
const criticalFor = time.Minute

// TestTheArticlesStory fills a GPU's memory, and waits for what its operator reads, on each
// channel, by each rule engine, with the intervals that are shipped; then for the end of it.
func TestTheArticlesStory(t *testing.T) {
	t.Parallel()
	rules := filepath.Join(root, "deploy", "prometheus", "rules", "alerts.yaml")
	var mu sync.Mutex
	slowest := map[string]time.Duration{} // of the engines, by channel
	t.Cleanup(func() {
		for channel, d := range slowest {
			figure.AtMost("alerts."+channel+".delivery", d.Seconds(), "s", 60)
		}
	})
	for name, engine := range engines {
		t.Run(name, func(t *testing.T) {
			besideFirst(t, waiting)
			c := newChannels(t)
			a := engine(t, rules, alertmanager(t, c, func(s string) string { return strings.ReplaceAll(s, "#response ", "") }))
			m := newMachine(t, fakenvml.Current, "l40s", "l40s")
			gpu := m.gpus[1]
			rest := gpu.Get("memory_used")
			collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+a.URL+"/api/v1/write"))
			eventually(t, a.Store, "hw_gpu_up == 1", atLeast(2))
			begin := time.Now()
			gpu.Set("memory_used", gpu.Get("memory_total")*96/100)
			const summary = "is almost out of memory: 96"
			for _, channel := range append(slices.Clone(allChannels), "response") {
				require.Eventually(t, func() bool { return len(c.with(channel, summary)) > 0 }, criticalFor+3*patience, 50*time.Millisecond, "%s has no message", channel)
				reported := channel
				if channel == "response" {
					reported = "webhook"
				}
				delivery := time.Since(begin) - criticalFor
				figure.Print("alerts."+reported+"."+strings.ToLower(name)+".delivery", delivery.Seconds(), "s")
				mu.Lock()
				slowest[reported] = max(slowest[reported], delivery)
				mu.Unlock()
				assert.LessOrEqual(t, delivery, time.Minute, "%s: from the cause, less the rule's for", channel)
			}
			text := c.with("email", summary)[0]
			assert.Contains(t, text, "gpu1")
			assert.Contains(t, text, "docs/runbooks/GPUMemoryUsageCritical.md")
			assert.Subset(t, []string{"GPUMemoryUsageCritical gpu1", "GPUMemoryUsageHigh gpu1", "Watchdog"}, a.firing(), "nothing else fires")
			gpu.Set("memory_used", rest)
			for _, part := range []struct{ channel, text string }{{"email", "[RESOLVED] GPUMemoryUsageCritical"}, {"slack", "[RESOLVED]"}, {"wecom_app", "已恢复"}, {"wecom_robot", "已恢复"}} {
				require.Eventually(t, func() bool { return len(c.with(part.channel, part.text)) > 0 }, 4*patience, 50*time.Millisecond, "%s does not say that it ended", part.channel)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			assert.Empty(t, c.refused)
		})
	}
}
