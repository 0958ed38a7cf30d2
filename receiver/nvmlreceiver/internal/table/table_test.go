// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestTheTableHasTheMetricsOfMetadata compares the metrics and which of them are counters
// with metadata.yaml. hw.gpu.count belongs to no GPU.
func TestTheTableHasTheMetricsOfMetadata(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "metadata.yaml"))
	require.NoError(t, err)
	var described struct {
		Metrics map[string]struct {
			Sum struct {
				Monotonic bool `yaml:"monotonic"`
			} `yaml:"sum"`
		} `yaml:"metrics"`
	}
	require.NoError(t, yaml.Unmarshal(raw, &described))
	want := map[string]bool{}
	for name, m := range described.Metrics {
		want[name] = m.Sum.Monotonic
	}
	delete(want, "hw.gpu.count")
	got := map[string]bool{}
	for _, m := range []*Metric{Info.Metric, Responds.Metric, State.Metric, Status.Metric, XIDErrors.Metric, LastXID.Metric, Allocated.Metric} {
		got[m.Name] = m.Counter
	}
	for _, row := range all() {
		for _, m := range row.metrics {
			got[m.Name] = m.Counter
		}
	}
	assert.Equal(t, want, got)
}

func TestRowsAreThoseThatTheConfigurationNeeds(t *testing.T) {
	cfg := metadata.DefaultMetricsBuilderConfig().Metrics
	cfg.HwGpuNvlinkFecCorrected.Enabled = true // by default it is not
	rowNames := func(sampler bool) (all []string) {
		for _, row := range Rows(&cfg, sampler, false) {
			all = append(all, row.Name)
		}
		return all
	}
	everything := rowNames(true)
	assert.Len(t, everything, len(all()))
	assert.Len(t, slices.Compact(slices.Sorted(slices.Values(everything))), len(everything), "names are unique")
	assert.NotContains(t, rowNames(false), "peaks.memory")
	for _, m := range []*metadata.MetricConfig{&cfg.HwPower, &cfg.HwGpuUtilization, &cfg.HwGpuMemoryBandwidthUtilization} {
		m.Enabled = false
	}
	without := rowNames(true)
	assert.NotContains(t, without, "power")
	assert.Contains(t, without, "utilization", "hw.status depends on it")
	cfg.HwStatus.Enabled = false
	assert.NotContains(t, rowNames(true), "utilization")
}
