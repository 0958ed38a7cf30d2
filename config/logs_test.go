// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// nodeConfigurations are those of a node, beside which logs.yaml is given.
var nodeConfigurations = []string{"comfyui.yaml", "default.yaml", "no-loss.yaml", "node.yaml"}

// merged is a file with a second one over it, as the collector reads two: maps are merged,
// all else is replaced.
func merged(t *testing.T, first, second string) []byte {
	t.Helper()
	all := map[string]any{}
	for _, path := range []string{first, second} {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var one map[string]any
		require.NoError(t, yaml.Unmarshal(text, &one))
		merge(all, one)
	}
	text, err := yaml.Marshal(all)
	require.NoError(t, err)
	return text
}

func merge(into, from map[string]any) {
	for key, value := range from {
		below, isMap := value.(map[string]any)
		if there, ok := into[key].(map[string]any); ok && isMap {
			merge(there, below)
			continue
		}
		into[key] = value
	}
}

// TestLogsArePrintedOrSentByOnePipeline: what a second file replaces is the exporter of
// logs/out, to which every record goes, and which cannot refuse or change one.
func TestLogsArePrintedOrSentByOnePipeline(t *testing.T) {
	for _, path := range nodeConfigurations {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		alone, both := read(t, text), read(t, merged(t, path, "logs.yaml"))
		ends := 0
		for name, p := range alone.Service.Pipelines {
			if kind(name) != "logs" || name == "logs/out" {
				continue
			}
			assert.Contains(t, [][]string{{"forward/logs", "gpuadvisor"}, {"gpucorrelation"}}, p.Exporters, "%s: %s", path, name)
			ends++
		}
		assert.Positive(t, ends, "%s: has logs", path)
		assert.Equal(t, pipeline{Receivers: []string{"forward/logs"}, Exporters: []string{"debug/events"}}, alone.Service.Pipelines["logs/out"], path)
		assert.Equal(t, pipeline{Receivers: []string{"forward/logs"}, Exporters: []string{"otlp_http/logs"}}, both.Service.Pipelines["logs/out"], path)
		delete(alone.Service.Pipelines, "logs/out")
		delete(both.Service.Pipelines, "logs/out")
		assert.Equal(t, alone.Service.Pipelines, both.Service.Pipelines, "%s: all else is as without logs.yaml", path)
		assert.Empty(t, faults(both), path)
	}
}
