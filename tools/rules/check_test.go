// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/mixin"
)

const root = "../.."

func TestEachAlertHasItsTestsAndItsRunbook(t *testing.T) {
	alerts, faults, err := check(root)
	require.NoError(t, err)
	require.NoError(t, errors.Join(faults...))
	assert.GreaterOrEqual(t, alerts, 34)
}

// scratch copies what check reads.
func scratch(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, folder := range []string{"deploy/prometheus", "docs/runbooks"} {
		require.NoError(t, os.CopyFS(filepath.Join(dir, folder), os.DirFS(filepath.Join(root, folder))))
	}
	return dir
}

func edit(t *testing.T, dir, name, from, to string) {
	t.Helper()
	path := filepath.Join(dir, name)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(raw), from)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(raw), from, to)), 0o600))
}

func TestEachFaultIsFound(t *testing.T) {
	const (
		alerts  = mixin.RulesDir + "/alerts.yaml"
		runbook = "docs/runbooks/GPULost.md"
		source  = mixin.Dir + "/alerts/gpu.libsonnet"
		tests   = mixin.TestsDir + "/state.yaml"
	)
	for _, test := range []struct {
		name, file, from, to, want string
	}{
		{"a rule file that was edited", alerts, "> 0.85", "> 0.86", "alerts.yaml is not what the mixin renders"},
		{"a mixin that was not rendered", mixin.Dir + "/config.libsonnet", "memoryHigh: 0.85", "memoryHigh: 0.8", "alerts.yaml is not what the mixin renders"},
		{"a recording rule that was not copied", mixin.RulesDir + "/history.yaml", "[10m]", "[5m]", "history.yaml is not what the mixin renders"},
		{"an alert that fires in no test", tests, "severity: critical, instance: node-a, hw_id: GPU-0, hw_name: gpu0, hw_state: lost", "severity: warning", "GPULost: there is no test in which it fires (critical)"},
		{"an alert that is silent in no test", tests, "alertname: GPULost, exp_alerts: []", "alertname: GPUUnresponsive, exp_alerts: []", "GPULost: there is no test in which it is silent"},
		{"an alert that is silent without its metrics", tests, "'hw_gpu_active_time_seconds_total", "'hw_gpu_active_time", "GPUIdleWaste: there is no test in which it is silent with all its metrics there"},
		{"a rule of the article that fires in no test", mixin.TestsDir + "/article.yaml", "severity: critical, metrics: prototype", "severity: critical, metrics: other", "GPUMemoryCritical: there is no test in which it fires (critical prototype)"},
		{"a rule of the article without a runbook", mixin.RulesDir + "/article.yaml", "runbooks/GPUMemoryUsageHigh.md", "runbooks/None.md", `the runbook "None.md" of GPUMemoryHigh does not exist`},
		{"a summary without the GPU", source, "GPU {{ $labels.hw_name }} of {{ $labels.instance }} is lost", "A GPU of {{ $labels.instance }} is lost", "GPULost: its summary does not name the GPU"},
		{"a summary without the host", source, "GPU {{ $labels.hw_name }} of {{ $labels.instance }} is lost", "GPU {{ $labels.hw_name }} is lost", "GPULost: its summary does not name the host"},
		{"no first action", source, "'Drain the host and reboot it; if the GPU stays lost, check its seating and power.'", "''", "GPULost: it has no action"},
		{"an unknown severity", source, "'critical',\n            '%s == 1' % gpu('hw_gpu_state', ['hw_state=\"lost\"'])", "'page',\n            '%s == 1' % gpu('hw_gpu_state', ['hw_state=\"lost\"'])", `GPULost: "page" is not a valid severity`},
		{"no for", mixin.Dir + "/config.libsonnet", "GPULost: '1m'", "GPULost: ''", "GPULost: it has no for"},
		{"a link to another page", mixin.Dir + "/config.libsonnet", "docs/runbooks/%s.md", "docs/%s.md", "GPULost: its runbook_url does not lead to docs/runbooks/GPULost.md"},
		{"a runbook without a part", runbook, "## How to silence", "## Silence", "its parts are"},
		{"a runbook with another title", runbook, "# GPULost\n", "# Lost\n", "its title is not the alert's name"},
		{"a runbook without an expression", runbook, "```promql", "```", `"What to look at" has no expression`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := scratch(t)
			edit(t, dir, test.file, test.from, test.to)
			_, faults, err := check(dir)
			require.NoError(t, err)
			assert.ErrorContains(t, errors.Join(faults...), test.want)
		})
	}
	t.Run("a part that is empty", func(t *testing.T) {
		text := "# A\n\n## Meaning\n\n## What to look at\n\n```promql\nup\n```\n\n## What to do\n\nx\n\n## How to silence\n\nx\n\n## False alarms\n\nx\n"
		assert.ErrorContains(t, errors.Join(pageFaults("A", text)...), `"Meaning" is empty`)
	})
	t.Run("an alert without a runbook, and a runbook without an alert", func(t *testing.T) {
		dir := scratch(t)
		require.NoError(t, os.Rename(filepath.Join(dir, runbook), filepath.Join(dir, "docs/runbooks/GPUFound.md")))
		_, faults, err := check(dir)
		require.NoError(t, err)
		assert.ErrorContains(t, errors.Join(faults...), "GPULost: it has no runbook")
		assert.ErrorContains(t, errors.Join(faults...), "docs/runbooks/GPUFound.md is the page of no alert")
	})
	t.Run("an expression that cannot be parsed", func(t *testing.T) {
		dir := scratch(t)
		edit(t, dir, source, "'%s == 0\\nand\\n", "'%s == \\nand\\n")
		_, faults, err := check(dir)
		require.NoError(t, err)
		assert.ErrorContains(t, errors.Join(faults...), "GPUNvLinkDown: ")
	})
}

func TestRenderWritesWhatCheckExpects(t *testing.T) {
	dir := scratch(t)
	edit(t, dir, mixin.Dir+"/config.libsonnet", "throttleShare: 0.05", "throttleShare: 0.06")
	require.NoError(t, run("render", dir))
	require.NoError(t, run("check", dir))
	raw, err := os.ReadFile(filepath.Join(dir, mixin.RulesDir, "alerts.yaml"))
	require.NoError(t, err)
	assert.Contains(t, string(raw), "> 0.06")
	assert.Error(t, run("rendre", dir))
}
