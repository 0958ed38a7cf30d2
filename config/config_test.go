// SPDX-License-Identifier: Apache-2.0

// Package config tests the ready configurations.
package config

import (
	"os"
	"path/filepath"
	"regexp"
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
	Exporters  map[string]map[string]any
	Service    struct{ Pipelines map[string]pipeline }
}

// queues is the key of each exporter's queue; exporters that write to the process's own
// output have none and do not refuse.
var queues = map[string]string{
	"otlp_grpc": "sending_queue", "otlp_http": "sending_queue", "prometheus_remote_write": "remote_write_queue",
	"debug": "", "nop": "", "prometheus": "",
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
			if _, isConnector := f.Connectors[r]; isConnector {
				found = append(found, refusals(f, name, r, p)...)
			}
		}
		feeds := slices.ContainsFunc(p.Exporters, func(e string) bool { return kind(e) == "gpucorrelation" })
		if feeds && kind(name) != "metrics" && (len(p.Processors) == 0 || kind(p.Processors[0]) != "memory_limiter") {
			found = append(found, name+": memory_limiter is not the first processor in front of gpucorrelation")
		}
	}
	slices.Sort(found)
	return found
}

// refusals lists what may refuse between a connector and the queues of a pipeline's
// exporters.
func refusals(f *file, name, connector string, p pipeline) (found []string) {
	for _, processor := range p.Processors {
		if !slices.Contains(neverRefuse, kind(processor)) {
			found = append(found, name+": "+processor+" may refuse behind the connector "+connector)
		}
	}
	for _, e := range p.Exporters {
		if _, isConnector := f.Connectors[e]; isConnector {
			continue
		}
		key, known := queues[kind(e)]
		queue, _ := f.Exporters[e][key].(map[string]any)
		if enabled, set := queue["enabled"].(bool); !known || set && !enabled {
			found = append(found, name+": "+e+" has no queue behind the connector "+connector)
		}
	}
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

func TestTheCheckFindsWhatRefuses(t *testing.T) {
	f := read(t, []byte(`
connectors: {gpucorrelation/a: {}}
exporters: {otlp_grpc: {sending_queue: {enabled: false}}, otlp_http: {}, unknown: {}}
service:
  pipelines:
    traces: {receivers: [comfyui], processors: [batch, memory_limiter], exporters: [gpucorrelation/a]}
    logs: {receivers: [nvml], exporters: [gpucorrelation/a]}
    traces/joined: {receivers: [gpucorrelation/a], processors: [memory_limiter, batch/traces], exporters: [otlp_grpc, otlp_http, unknown]}
`))
	assert.Equal(t, []string{
		"logs: memory_limiter is not the first processor in front of gpucorrelation",
		"traces/joined: memory_limiter may refuse behind the connector gpucorrelation/a",
		"traces/joined: otlp_grpc has no queue behind the connector gpucorrelation/a",
		"traces/joined: unknown has no queue behind the connector gpucorrelation/a",
		"traces: memory_limiter is not the first processor in front of gpucorrelation",
	}, faults(f))
}

// TestWhatIsCommentedOutWorks: each setting that the configurations of admission propose may be
// uncommented where it stands.
func TestWhatIsCommentedOutWorks(t *testing.T) {
	proposal := regexp.MustCompile(`(?m)^( {4,})# ([a-z_]+: [\[{])`)
	for path, proposals := range map[string]int{"observe.yaml": 1, "enforce.yaml": 3} {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.Len(t, proposal.FindAll(raw, -1), proposals, path)
		require.NoError(t, yaml.Unmarshal(proposal.ReplaceAll(raw, []byte("$1$2")), map[string]any{}), path)
	}
}
