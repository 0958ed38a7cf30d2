// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

var update = flag.Bool("update", false, "write the golden files again")

// goldenProfiles are an old GPU, one without ECC's repairs, and one with MIG devices. The
// other profiles are covered by supported.yaml.
var goldenProfiles = []string{"rtx-2080-super", "l40s", "h100-mig"}

func TestGoldenPointsOfIdleAndLoadedGPUs(t *testing.T) {
	for _, profile := range goldenProfiles {
		for _, state := range []string{"idle", "load"} {
			t.Run(profile+"/"+state, func(t *testing.T) {
				p, err := fakenvml.LoadProfile(profile)
				require.NoError(t, err)
				_, gpus := library.Machine(t, profile)
				if state == "load" {
					gpus[0].SetLoad(p)
				}
				// Averages are constant once their period is over; energy is not, and has
				// tests of its own.
				gpus[0].SetSamplingPeriods(time.Microsecond, time.Microsecond)
				r := newRig(t, nvml.NewSessions(fast), func(c *Config) {
					c.SamplingInterval, c.Metrics.HwEnergy.Enabled = 0, false
				}).ready(1)
				r.scrapeNow() // profiling counters are averages between two scrapes
				got := pointLines(t, r.scrapeNow())
				path := filepath.Join("testdata", "golden", profile+"-"+state+".txt")
				if *update {
					require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
				}
				want, err := os.ReadFile(path)
				require.NoError(t, err)
				assert.Equal(t, string(want), got)
			})
		}
	}
}

// pointLines writes the points of a scrape, one a line, in order. The ids of devices are
// only on the lines of hw.gpu.info: the others are checked against them.
func pointLines(t *testing.T, m pmetric.Metrics) string {
	t.Helper()
	ids := map[string]string{}
	eachPoint(m, func(p pmetric.NumberDataPoint) {
		if a := p.Attributes().AsRaw(); a["hw.model"] != nil {
			ids[a["hw.name"].(string)] = a["hw.id"].(string)
		}
	})
	var lines []string
	for _, rm := range m.ResourceMetrics().All() {
		assert.Equal(t, map[string]any{"host.name": "testhost"}, rm.Resource().Attributes().AsRaw())
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				for _, p := range pointsOf(metric).All() {
					lines = append(lines, fmt.Sprintf("%s{%s} %s %s %s", metric.Name(), labels(t, metric.Name(), p, ids), valueText(p), metric.Unit(), kindOf(metric)))
				}
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func labels(t *testing.T, metric string, p pmetric.NumberDataPoint, ids map[string]string) string {
	t.Helper()
	var all []string
	for k, v := range p.Attributes().All() {
		switch {
		case k == "gpu.simulated":
			assert.True(t, v.Bool())
		case k == "hw.gpu.numa.node": // this machine's
		case k == "hw.id" && metric != "hw.gpu.info":
			name, _ := p.Attributes().Get("hw.name")
			gpu, _, isFan := strings.Cut(name.Str(), "/fan")
			assert.Equal(t, ids[gpu], v.Str(), "%s of %s (fan: %v)", metric, name.Str(), isFan)
		default:
			all = append(all, k+"="+v.AsString())
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

func valueText(p pmetric.NumberDataPoint) string {
	switch {
	case p.Flags().NoRecordedValue():
		return "ended"
	case p.ValueType() == pmetric.NumberDataPointValueTypeInt:
		return strconv.FormatInt(p.IntValue(), 10)
	}
	return strconv.FormatFloat(p.DoubleValue(), 'g', 9, 64)
}

func kindOf(m pmetric.Metric) string {
	switch {
	case m.Type() == pmetric.MetricTypeGauge:
		return "gauge"
	case m.Sum().IsMonotonic():
		return "counter"
	}
	return "sum"
}

// TestGoldenCountsOfEachProfile counts the series of each metric of each profile in
// testdata/supported.yaml, from which docs/metrics.md lists the GPUs that support it.
func TestGoldenCountsOfEachProfile(t *testing.T) {
	got := map[string]map[string]int{}
	for _, name := range fakenvml.Profiles() {
		p, err := fakenvml.LoadProfile(name)
		require.NoError(t, err)
		_, gpus := library.Machine(t, name)
		gpus[0].SetLoad(p)
		r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
		r.scrapeNow()
		r.until("the sampler has read the GPU", func(m pmetric.Metrics) bool {
			got[name] = seriesCounts(m)
			return got[name]["hw.gpu.memory.usage.max"] == max(1, 1+len(p.MIG)) && (len(p.MIG) > 0 || got[name]["hw.gpu.utilization.mean"] == 3)
		})
		require.NoError(t, r.shutdown(context.Background()))
	}
	path := filepath.Join("testdata", "supported.yaml")
	if *update {
		raw, err := yaml.Marshal(got)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, raw, 0o600))
	}
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var want map[string]map[string]int
	require.NoError(t, yaml.Unmarshal(raw, &want))
	assert.Equal(t, want, got)
}

func seriesCounts(m pmetric.Metrics) map[string]int {
	counts := map[string]int{}
	for _, rm := range m.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				for _, p := range pointsOf(metric).All() {
					if !p.Flags().NoRecordedValue() {
						counts[metric.Name()]++
					}
				}
			}
		}
	}
	return counts
}
