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
	assert.GreaterOrEqual(t, alerts, 35)
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

// TestEachFaultIsFound makes many faults at once: evaluating the mixin takes a while.
func TestEachFaultIsFound(t *testing.T) {
	const (
		config = mixin.Dir + "/config.libsonnet"
		source = mixin.Dir + "/alerts/gpu.libsonnet"
		tests  = mixin.TestsDir + "/state.yaml"
	)
	faulty := []struct{ name, file, from, to, want string }{
		{"a recording rule that was not copied", mixin.RulesDir + "/history.yaml", "[10m]", "[5m]", "history.yaml is not what the mixin renders"},
		{"an alert that fires in no test", tests, "severity: critical, instance: node-a, hw_id: GPU-0, hw_name: gpu0, hw_state: lost", "severity: info", "GPULost: there is no test in which it fires (page)"},
		{"an alert that is silent in no test", tests, "alertname: GPULost, exp_alerts: []", "alertname: GPUPowerBrake, exp_alerts: []", "GPULost: there is no test in which it is silent"},
		{"an alert that is silent without its metrics", tests, "'hw_gpu_active_time_seconds_total", "'hw_gpu_active_time", "GPUIdleWaste: there is no test in which it is silent with all its metrics there"},
		{"a rule of the article that fires in no test", mixin.TestsDir + "/article.yaml", "severity: critical, metrics: prototype", "severity: critical, metrics: other", "GPUMemoryCritical: there is no test in which it fires (critical prototype)"},
		{"a rule of the article without a runbook", mixin.RulesDir + "/article.yaml", "runbooks/GPUMemoryUsageHigh.md", "runbooks/None.md", `the runbook "None.md" of GPUMemoryHigh does not exist`},
		{"a summary without the GPU", source, "GPU {{ $labels.hw_name }} of {{ $labels.instance }} is lost", "A GPU of {{ $labels.instance }} is lost", "GPULost: its summary does not name the GPU"},
		{"a summary without the host", source, "GPU {{ $labels.hw_name }} of {{ $labels.instance }} does not", "GPU {{ $labels.hw_name }} does not", "GPUUnresponsive: its summary does not name the host"},
		{"no first action", source, "'Drain the host and reboot it; if the GPU stays lost, check its seating and power.'", "''", "GPULost: it has no action"},
		{"an unknown severity", source, "'critical',\n            '%s == 1' % gpu('hw_gpu_state', ['hw_state=\"lost\"'])", "'page',\n            '%s == 1' % gpu('hw_gpu_state', ['hw_state=\"lost\"'])", `GPULost: "page" is not a valid severity`},
		{"no for", config, "GPULost: '1m'", "GPULost: ''", "GPULost: it has no for"},
		{"a link to another page", config, "docs/runbooks/%s.md", "docs/%s.md", "GPULost: its runbook_url does not lead to docs/runbooks/GPULost.md"},
		{"an expression that cannot be parsed", source, "'%s == 0\\nand\\n", "'%s == \\nand\\n", "GPUNvLinkDown: "},
		{"a runbook without a part", "docs/runbooks/GPULost.md", "## How to silence", "## Silence", "GPULost.md: its parts are"},
		{"a runbook with another title", "docs/runbooks/GPULost.md", "# GPULost\n", "# Lost\n", "GPULost.md: its title is not the alert's name"},
		{"a runbook without an expression", "docs/runbooks/GPULost.md", "```promql", "```", `GPULost.md: "What to look at" has no expression`},
		{"a part that is empty", "docs/runbooks/GPURowRemapFailure.md", "None is known.", "", `GPURowRemapFailure.md: "False alarms" is empty`},
	}
	dir := scratch(t)
	for _, f := range faulty {
		edit(t, dir, f.file, f.from, f.to)
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "docs/runbooks/GPUPcieReplays.md"), filepath.Join(dir, "docs/runbooks/GPUFound.md")))
	_, faults, err := check(dir)
	require.NoError(t, err)
	found := errors.Join(faults...)
	for _, f := range faulty {
		assert.ErrorContains(t, found, f.want, f.name)
	}
	assert.ErrorContains(t, found, "alerts.yaml is not what the mixin renders")
	assert.ErrorContains(t, found, "GPUPcieReplays: it has no runbook")
	assert.ErrorContains(t, found, "docs/runbooks/GPUFound.md is the page of no alert")
}

func TestARuleFileThatWasEditedIsFound(t *testing.T) {
	dir := scratch(t)
	edit(t, dir, mixin.RulesDir+"/alerts.yaml", "> 0.85", "> 0.86")
	_, faults, err := check(dir)
	require.NoError(t, err)
	require.Len(t, faults, 1)
	assert.ErrorContains(t, faults[0], "alerts.yaml is not what the mixin renders")
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
