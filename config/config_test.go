// SPDX-License-Identifier: Apache-2.0

// Package config tests the ready configurations.
package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type pipeline struct{ Receivers, Processors, Exporters []string }

type file struct {
	Connectors map[string]any
	Service    struct{ Pipelines map[string]pipeline }
}

// neverRefuse are the processors that return an error only if what follows does, or
// none at all.
var neverRefuse = []string{"batch", "resource", "attributes", "transform", "filter", "delta_to_cumulative", "cumulative_to_delta", "groupbyattrs", "metrics_transform", "redaction", "tail_sampling", "interval"}

func kind(id string) string {
	name, _, _ := strings.Cut(id, "/")
	return name
}

// faults lists the places of a configuration where a refusal would lose data: behind a
// connector, or in front of it without the memory limiter.
func faults(f *file) (found []string) {
	for name, p := range f.Service.Pipelines {
		for _, r := range p.Receivers {
			if _, isConnector := f.Connectors[r]; !isConnector {
				continue
			}
			for _, processor := range p.Processors {
				if !slices.Contains(neverRefuse, kind(processor)) {
					found = append(found, name+": "+processor+" may refuse behind the connector "+r)
				}
			}
		}
		if slices.Contains(p.Exporters, "gpucorrelation") && kind(name) != "metrics" && !slices.Contains(p.Processors, "memory_limiter") {
			found = append(found, name+": no memory_limiter in front of gpucorrelation")
		}
	}
	slices.Sort(found)
	return found
}

func read(t *testing.T, text []byte) *file {
	t.Helper()
	var f file
	require.NoError(t, yaml.Unmarshal(text, &f))
	return &f
}

func TestNothingBetweenAConnectorAndAnExportersQueueRefuses(t *testing.T) {
	paths, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	require.Contains(t, paths, "comfyui.yaml")
	for _, path := range paths {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Empty(t, faults(read(t, text)), path)
	}
}

func TestTheCheckFindsAMemoryLimiterBehindAConnector(t *testing.T) {
	f := read(t, []byte(`
connectors: {gpucorrelation: {}}
service:
  pipelines:
    traces: {receivers: [comfyui], exporters: [gpucorrelation]}
    traces/joined: {receivers: [gpucorrelation], processors: [memory_limiter, batch/traces], exporters: [otlp_grpc]}
`))
	assert.Equal(t, []string{
		"traces/joined: memory_limiter may refuse behind the connector gpucorrelation",
		"traces: no memory_limiter in front of gpucorrelation",
	}, faults(f))
}
