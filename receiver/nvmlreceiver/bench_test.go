// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// benchProfiles are the GPUs of a mixed machine of n GPUs.
func benchProfiles(n int) []string {
	mix := []string{"l40s", "h100", "rtx-4080-super", "h200", "h100-mig"}
	profiles := make([]string, n)
	for i := range profiles {
		profiles[i] = mix[i%len(mix)]
	}
	return profiles
}

// blueprint is one metric of a scrape: what a plain loop needs to build it again.
type blueprint struct {
	name, description, unit string
	kind                    pmetric.MetricType
	monotonic               bool
	points                  []blueprintPoint
}

type blueprintPoint struct {
	float      float64
	integer    int64
	isInt      bool
	keys       []string
	values     []string
	simulated  bool
	start, now pcommon.Timestamp
}

func dissect(m pmetric.Metrics) (blueprints []blueprint) {
	for _, rm := range m.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				b := blueprint{name: metric.Name(), description: metric.Description(), unit: metric.Unit(), kind: metric.Type()}
				if b.kind == pmetric.MetricTypeSum {
					b.monotonic = metric.Sum().IsMonotonic()
				}
				for _, p := range pointsOf(metric).All() {
					bp := blueprintPoint{isInt: p.ValueType() == pmetric.NumberDataPointValueTypeInt, start: p.StartTimestamp(), now: p.Timestamp()}
					if bp.isInt {
						bp.integer = p.IntValue()
					} else {
						bp.float = p.DoubleValue()
					}
					for k, v := range p.Attributes().All() {
						if k == semconv.Simulated {
							bp.simulated = true
							continue
						}
						bp.keys, bp.values = append(bp.keys, k), append(bp.values, v.Str())
					}
					b.points = append(b.points, bp)
				}
				blueprints = append(blueprints, b)
			}
		}
	}
	return blueprints
}

// plainLoop builds the same points with the same attributes and nothing else.
func plainLoop(blueprints []blueprint) pmetric.Metrics {
	m := pmetric.NewMetrics()
	rm := m.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", "testhost")
	metrics := rm.ScopeMetrics().AppendEmpty().Metrics()
	for i := range blueprints {
		b := &blueprints[i]
		metric := metrics.AppendEmpty()
		metric.SetName(b.name)
		metric.SetDescription(b.description)
		metric.SetUnit(b.unit)
		var points pmetric.NumberDataPointSlice
		if b.kind == pmetric.MetricTypeSum {
			sum := metric.SetEmptySum()
			sum.SetIsMonotonic(b.monotonic)
			sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
			points = sum.DataPoints()
		} else {
			points = metric.SetEmptyGauge().DataPoints()
		}
		for j := range b.points {
			bp := &b.points[j]
			p := points.AppendEmpty()
			p.SetStartTimestamp(bp.start)
			p.SetTimestamp(bp.now)
			if bp.isInt {
				p.SetIntValue(bp.integer)
			} else {
				p.SetDoubleValue(bp.float)
			}
			for k := range bp.keys {
				p.Attributes().PutStr(bp.keys[k], bp.values[k])
			}
			if bp.simulated {
				p.Attributes().PutBool(semconv.Simulated, true)
			}
		}
	}
	return m
}

func benchRig(tb testing.TB, gpus int) (*rig, []blueprint, int) {
	profiles := benchProfiles(gpus)
	_, all := library.Machine(tb, profiles...)
	for i, name := range profiles {
		p, err := fakenvml.LoadProfile(name)
		if err != nil {
			tb.Fatal(err)
		}
		all[i].SetLoad(p) // with processes on it
	}
	r := newRig(tb, nvml.NewSessions(nvml.Timing{}), nil).ready(gpus)
	r.scrapeNow()
	m := r.scrapeNow()
	return r, dissect(m), m.DataPointCount()
}

// The units of BenchmarkScrape's measurements, by which figures.txt names them.
const (
	nsPerPoint, loopNsPerPoint, timeRatio = "ns/point", "loop-ns/point", "time-ratio"
	allocsPerPoint, allocsRatio           = "allocs/point", "allocs-ratio"
	bytesPerPoint, bytesRatio             = "B/point", "bytes-ratio"
)

// allocations counts the allocations of one call, and their bytes, over some calls.
func allocations(call func()) (count, bytes float64) {
	const calls = 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range calls {
		call()
	}
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / calls, float64(after.TotalAlloc-before.TotalAlloc) / calls
}

// BenchmarkScrape reports the cost of a scrape beside a plain loop's that builds the same
// points, measured in turn.
func BenchmarkScrape(b *testing.B) {
	for _, gpus := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("gpus=%d", gpus), func(b *testing.B) {
			r, blueprints, points := benchRig(b, gpus)
			scrape := func() { _, _ = r.scrape(context.Background()) }
			loop := func() { plainLoop(blueprints) }
			n := float64(points)
			count, bytes := allocations(scrape)
			loopCount, loopBytes := allocations(loop)
			var ours, plain float64
			for b.Loop() {
				ours += nanoseconds(scrape)
				plain += nanoseconds(loop)
			}
			ours, plain = ours/float64(b.N), plain/float64(b.N)
			b.ReportMetric(n, "points")
			b.ReportMetric(ours/1000, "us")
			b.ReportMetric(ours/n, nsPerPoint)
			b.ReportMetric(plain/n, loopNsPerPoint)
			b.ReportMetric(ours/plain, timeRatio)
			b.ReportMetric(count/n, allocsPerPoint)
			b.ReportMetric(count/loopCount, allocsRatio)
			b.ReportMetric(bytes/n, bytesPerPoint)
			b.ReportMetric(bytes/loopBytes, bytesRatio)
		})
	}
}

// BenchmarkScrapeOfMoreGPUs reports how the time of a point grows from 8 to 64 GPUs.
func BenchmarkScrapeOfMoreGPUs(b *testing.B) {
	var perPoint []float64
	for _, gpus := range []int{8, 64} {
		r, _, points := benchRig(b, gpus)
		var all []float64
		for range 50 {
			all = append(all, nanoseconds(func() { _, _ = r.scrape(context.Background()) })/float64(points))
		}
		perPoint = append(perPoint, median(all))
		require.NoError(b, r.shutdown(context.Background()))
	}
	for b.Loop() {
		b.ReportMetric(perPoint[1]/perPoint[0], timeRatio)
	}
}

func nanoseconds(call func()) float64 {
	begin := time.Now()
	call()
	return float64(time.Since(begin).Nanoseconds())
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
