// SPDX-License-Identifier: Apache-2.0

package config

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

type exporter struct {
	Queue struct {
		Storage   string
		Sizer     string
		Consumers int `yaml:"num_consumers"`
		Batch     struct {
			Sizer   string
			MaxSize int `yaml:"max_size"`
		}
	} `yaml:"sending_queue"`
	Retry struct {
		MaxElapsedTime string `yaml:"max_elapsed_time"`
	} `yaml:"retry_on_failure"`
	Middlewares []struct{ ID string }
}

type delivery struct {
	Exporters  map[string]exporter
	Extensions map[string]struct {
		Directory string
		Fsync     bool
		Recreate  bool
	}
	Service struct {
		Extensions []string
		Pipelines  map[string]pipeline
	}
}

// TestEveryQueueIsOnDiskSyncedBoundedAndChecked checks what the end-to-end tests of
// docs/delivery.md build on: a file that is not synced would pass the mixtures of a synced
// one.
func TestEveryQueueIsOnDiskSyncedBoundedAndChecked(t *testing.T) {
	paths, err := filepath.Glob("*.yaml")
	require.NoError(t, err)
	// Those who are scraped send nothing that could wait; logs.yaml is given beside another.
	beside := []string{"dcgm-names.yaml", "logs.yaml", "observe.yaml", "enforce.yaml"}
	require.ElementsMatch(t, append(slices.Clone(nodeConfigurations), beside...), paths)
	for _, path := range nodeConfigurations {
		text := merged(t, path, "logs.yaml")
		var d delivery
		require.NoError(t, yaml.Unmarshal(text, &d))
		queues := 0
		for id, e := range d.Exporters {
			if kind(id) == "otlp_grpc" || kind(id) == "prometheus_remote_write" || id == "otlp_http/logs" {
				assert.Contains(t, e.Middlewares, struct{ ID string }{"shutdown_limit"}, "%s: %s", path, id)
			}
			if kind(id) != "otlp_grpc" && kind(id) != "otlp_http" {
				continue
			}
			queues++
			assert.Equal(t, "file_storage/queue", e.Queue.Storage, "%s: %s", path, id)
			assert.Equal(t, 1, e.Queue.Consumers, "%s: %s is in order", path, id)
			assert.Equal(t, "0s", e.Retry.MaxElapsedTime, "%s: %s retries for ever", path, id)
			assert.Equal(t, 3<<20, e.Queue.Batch.MaxSize, "%s: %s sends at most 3 MiB a request", path, id)
			assert.True(t, e.Queue.Sizer == "bytes" || e.Queue.Batch.Sizer == "bytes", "%s: %s", path, id)
		}
		assert.GreaterOrEqual(t, queues, 2, path)
		assert.True(t, d.Extensions["file_storage/queue"].Fsync, "%s: the queue is synced", path)
		for id, e := range d.Extensions {
			if kind(id) != "file_storage" {
				continue
			}
			check := "queue_check" + id[len("file_storage"):]
			assert.Equal(t, e.Directory, d.Extensions[check].Directory, "%s: %s checks what %s opens", path, check, id)
			assert.Less(t, slices.Index(d.Service.Extensions, check), slices.Index(d.Service.Extensions, id), "%s: %s is created first", path, check)
			assert.Contains(t, d.Service.Extensions, check, path)
			assert.True(t, e.Recreate, "%s: %s", path, id)
		}
		for name, p := range d.Service.Pipelines {
			if slices.Contains(p.Exporters, "prometheus_remote_write") {
				assert.Equal(t, []string{"otlp/loop"}, p.Receivers, "%s: %s: only the queue reaches remote write", path, name)
			}
		}
	}
}
