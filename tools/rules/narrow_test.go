// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func TestATestHasTheRulesThatItNames(t *testing.T) {
	rules := `groups:
  - name: memory
    interval: 1m
    rules:
      - {record: "a:b", expr: "sum(c)"}
      - {alert: GPUMemoryHigh, expr: "x > 1", for: 5m, labels: {severity: warning}}
      - {alert: GPUMemoryFull, expr: "x > 2"}
  - name: other
    rules:
      - {alert: GPULost, expr: "up == 0"}
`
	var all ruleFile
	require.NoError(t, yaml.Unmarshal([]byte(rules), &all))
	named, err := yaml.Marshal(all.namedIn("alertname: GPUMemoryHigh"))
	require.NoError(t, err)
	assert.YAMLEq(t, `{groups: [{name: memory, interval: 1m, rules: [{record: "a:b", expr: "sum(c)"}, {alert: GPUMemoryHigh, expr: "x > 1", for: 5m, labels: {severity: warning}}]}]}`, string(named))
}

// TestNarrowKeepsEveryTestedAlert compares with the repository's own tests: a test whose alert were
// missing would be silent for no reason.
func TestNarrowKeepsEveryTestedAlert(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	folder := t.TempDir()
	require.NoError(t, narrow(root, folder))
	tests, err := readTests(root)
	require.NoError(t, err)
	all := ""
	files, err := filepath.Glob(filepath.Join(folder, "*", "rules", "*.yaml"))
	require.NoError(t, err)
	for _, path := range files {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		all += string(text)
	}
	require.NotEmpty(t, tests)
	for alert := range tests {
		assert.Contains(t, all, "alert: "+alert+"\n")
	}
}
