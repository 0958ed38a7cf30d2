// SPDX-License-Identifier: Apache-2.0

package nvml

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// machineWords are the attributes that differ between machines, and the words
// that stand for their values.
var machineWords = map[string]string{
	"host.name":        "<host>",
	"hw.gpu.numa.node": "<numa node>", // of whatever this machine has at the simulated PCI address
}

// attributesText writes attributes in the order of their names.
func attributesText(t *testing.T, m pcommon.Map) string {
	t.Helper()
	host, err := os.Hostname()
	require.NoError(t, err)
	var all []string
	for k, v := range m.All() {
		text := v.AsString()
		if word, ok := machineWords[k]; ok {
			require.True(t, k != "host.name" || text == host, "host.name is %q", text)
			text = word
		}
		if v.Type() != pcommon.ValueTypeStr {
			text = strings.ToLower(v.Type().String()) + ":" + text
		}
		all = append(all, k+"="+text)
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ", ") + "}"
}

func valueText(p pmetric.NumberDataPoint) string {
	switch {
	case p.Flags().NoRecordedValue():
		return "ended"
	case p.ValueType() == pmetric.NumberDataPointValueTypeInt:
		return strconv.FormatInt(p.IntValue(), 10)
	case p.ValueType() == pmetric.NumberDataPointValueTypeDouble:
		return fmt.Sprintf("%.9g", p.DoubleValue()) + " double"
	}
	return "no value"
}

// typeText is a metric's type, with the points it has.
func typeText(t *testing.T, m pmetric.Metric) (string, pmetric.NumberDataPointSlice) {
	t.Helper()
	if m.Type() == pmetric.MetricTypeGauge {
		return "gauge", m.Gauge().DataPoints()
	}
	require.Equal(t, pmetric.MetricTypeSum, m.Type(), m.Name())
	kind := "sum"
	if m.Sum().IsMonotonic() {
		kind = "monotonic sum"
	}
	return kind + "/" + strings.ToLower(m.Sum().AggregationTemporality().String()), m.Sum().DataPoints()
}

// eachPoint visits every point of a batch.
func eachPoint(t *testing.T, m pmetric.Metrics, do func(resource pcommon.Resource, scope pmetric.ScopeMetrics, metric pmetric.Metric, kind string, p pmetric.NumberDataPoint)) {
	t.Helper()
	for _, rm := range m.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				kind, points := typeText(t, metric)
				for _, p := range points.All() {
					do(rm.Resource(), sm, metric, kind, p)
				}
			}
		}
	}
}

// logLines writes each record of a batch as one line, without its times.
func logLines(t *testing.T, logs plog.Logs) (lines []string) {
	t.Helper()
	for _, rl := range logs.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				require.NotZero(t, r.Timestamp())
				require.GreaterOrEqual(t, r.ObservedTimestamp(), r.Timestamp())
				lines = append(lines, fmt.Sprintf("log %s/%s %s %q %s resource%s scope=%s %s",
					r.SeverityNumber(), r.SeverityText(), r.EventName(), r.Body().AsString(), attributesText(t, r.Attributes()),
					attributesText(t, rl.Resource().Attributes()), sl.Scope().Name(), sl.Scope().Version()))
			}
		}
	}
	return lines
}

// telemetryLines writes each point of a component's own telemetry as one line.
// exact says of which instruments the value is the same each time; of histograms
// that is the number of values. when names the moment.
func telemetryLines(t *testing.T, when string, all *metricdata.ResourceMetrics, exact func(name string) bool) []string {
	t.Helper()
	lines := map[string]bool{}
	for _, sm := range all.ScopeMetrics {
		for _, m := range sm.Metrics {
			line := func(kind string, attributes attribute.Set, value string) {
				if !exact(m.Name) {
					value = "present"
				}
				lines[fmt.Sprintf("telemetry/%s %s %s %s %q {%s} %s scope=%s", when, m.Name, m.Unit, kind, m.Description, attributes.Encoded(attribute.DefaultEncoder()), value, sm.Scope.Name)] = true
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					line(fmt.Sprintf("sum monotonic=%t %s int", data.IsMonotonic, data.Temporality), p.Attributes, strconv.FormatInt(p.Value, 10))
				}
			case metricdata.Sum[float64]:
				for _, p := range data.DataPoints {
					line(fmt.Sprintf("sum monotonic=%t %s double", data.IsMonotonic, data.Temporality), p.Attributes, fmt.Sprintf("%.9g", p.Value))
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					line("gauge int", p.Attributes, strconv.FormatInt(p.Value, 10))
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					line(fmt.Sprintf("histogram %s double bounds=%v", data.Temporality, p.Bounds), p.Attributes, "count="+strconv.FormatUint(p.Count, 10))
				}
			default:
				t.Fatalf("%s is a %T", m.Name, data)
			}
		}
	}
	return slices.Collect(maps.Keys(lines))
}
