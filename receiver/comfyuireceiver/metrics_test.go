// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/metric/metricdata/metricdatatest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadatatest"
)

// values are the points of a metric by their attributes: a number's value, a
// histogram's count.
func values(m pmetric.Metrics, name string) map[string]float64 {
	all := map[string]float64{}
	for _, metric := range m.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		if metric.Name() != name {
			continue
		}
		switch metric.Type() {
		case pmetric.MetricTypeGauge:
			for _, p := range metric.Gauge().DataPoints().All() {
				all[fmt.Sprint(p.Attributes().AsRaw())] = p.DoubleValue()
			}
		case pmetric.MetricTypeSum:
			for _, p := range metric.Sum().DataPoints().All() {
				all[fmt.Sprint(p.Attributes().AsRaw())] = float64(p.IntValue())
			}
		case pmetric.MetricTypeHistogram:
			for _, p := range metric.Histogram().DataPoints().All() {
				all[fmt.Sprint(p.Attributes().AsRaw())] = float64(p.Count())
			}
		}
	}
	return all
}

func TestMetricsOfTheRushOfRecording21(t *testing.T) {
	all := comfyreplay.All(t)
	r := all[slices.IndexFunc(all, func(r comfyreplay.Recording) bool { return strings.HasPrefix(r.Name, "21_") })]
	server := comfyreplay.Serve(t, &r, 8, false)
	rig := newRig(t, server.URL, func(c *Config) { c.Memory.Interval = minMemoryInterval })
	require.Eventually(t, server.Watched, 10*time.Second, time.Millisecond)
	require.NoError(t, comfyreplay.Drive(context.Background(), &r, rig.base, 8, false))
	require.Eventually(t, func() bool { return rig.following.tracker.OpenCount() == 0 }, 20*time.Second, 5*time.Millisecond)
	m, err := rig.scrape(context.Background())
	require.NoError(t, err)
	for _, metric := range m.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
		assert.NotEmpty(t, metric.Unit(), metric.Name())
		assert.NotEmpty(t, metric.Description(), metric.Name())
	}
	kind := "comfyui.model:ddcolor_paper.pth "
	var succeeded, failed float64
	for attributes, v := range values(m, "comfyui.prompts") {
		assert.Contains(t, attributes, kind)
		if strings.Contains(attributes, "outcome:success") {
			succeeded += v
		} else {
			failed += v
			assert.Contains(t, attributes, "outcome:")
		}
	}
	assert.InDelta(t, 8, succeeded, 0)
	assert.InDelta(t, 0, failed, 0, "initialised to 0")
	count := func(name string) (n float64) {
		for _, v := range values(m, name) {
			n += v
		}
		return n
	}
	assert.InDelta(t, 8, count("comfyui.execution.duration"), 0)
	assert.InDelta(t, 8, count("comfyui.queue.duration"), 0)
	assert.Greater(t, count("comfyui.node.duration"), 8.0)
	assert.InDelta(t, 1, count("comfyui.up"), 0)
	assert.Positive(t, count("comfyui.proxy.io"))
	assert.Positive(t, count("comfyui.proxy.request.duration"))
	assert.Positive(t, count("comfyui.device.memory.limit"))
	assert.Contains(t, values(m, "comfyui.queue.length"), "map[state:pending]")
}

func TestValuesBeyondALimitAreOtherAndCounted(t *testing.T) {
	telemetry := componenttest.NewTelemetry()
	builder, err := metadata.NewTelemetryBuilder(telemetry.NewTelemetrySettings())
	require.NoError(t, err)
	now := time.Unix(0, 0)
	m, err := newInstruments(LimitsConfig{Workflows: 2, Models: 2, NodeClasses: 2, TaskClasses: 2}, builder, func() time.Time { return now })
	require.NoError(t, err)
	for i := range 10 {
		m.label(m.workflows, fmt.Sprint("w", i), true)
	}
	assert.Equal(t, "w1", m.label(m.workflows, "w1", true))
	assert.Equal(t, "other", m.label(m.workflows, "w9", true))
	assert.Empty(t, m.label(m.workflows, "", true))
	assert.Equal(t, "other", m.label(m.models, "of a refused prompt", false))
	assert.Equal(t, "m", m.label(m.models, "m", true), "a refused prompt takes no place")
	now = now.Add(unusedAfter / 2)
	m.label(m.workflows, "w1", true)
	now = now.Add(unusedAfter / 2)
	assert.Equal(t, "w9", m.label(m.workflows, "w9", true), "w0 has not been used for an hour")
	assert.Equal(t, "w1", m.label(m.workflows, "w1", true))
	assert.Equal(t, "other", m.label(m.workflows, "w0", true))
	metadatatest.AssertEqualReceiverComfyuiFolded(t, telemetry, []metricdata.DataPoint[int64]{
		{Attributes: attribute.NewSet(attribute.String("comfyui.what", "workflow")), Value: 10},
		{Attributes: attribute.NewSet(attribute.String("comfyui.what", "model")), Value: 1},
	}, metricdatatest.IgnoreTimestamp())
}

func TestServerThatIsDownIsAMetricAndNoError(t *testing.T) {
	s := newTap(t, func(http.ResponseWriter, *http.Request) {})
	s.Close()
	r := newRig(t, s.URL, nil)
	m, err := r.scrape(context.Background())
	require.NoError(t, err)
	assert.Equal(t, map[string]float64{"map[]": 0}, values(m, "comfyui.up"))
	assert.Empty(t, values(m, "comfyui.queue.length"), "it is unknown")
}
