// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var figures = flag.Bool("figures", false, "measure and print figures")

// benchProfiles are the GPUs of a mixed machine of n GPUs.
func benchProfiles(n int) []string {
	mix := []string{"l40s", "h100", "rtx-4080-super", "h200", "h100-mig"}
	profiles := make([]string, n)
	for i := range profiles {
		profiles[i] = mix[i%len(mix)]
	}
	return profiles
}

// blueprint is a scrape taken apart: what a plain loop needs to build it again.
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
	names      []string
	values     []string
	simulated  bool
	start, now pcommon.Timestamp
}

func takeApart(m pmetric.Metrics) (blueprints []blueprint) {
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
						if k == simulatedAttribute {
							bp.simulated = true
							continue
						}
						bp.names, bp.values = append(bp.names, k), append(bp.values, v.Str())
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
			for k := range bp.names {
				p.Attributes().PutStr(bp.names[k], bp.values[k])
			}
			if bp.simulated {
				p.Attributes().PutBool(simulatedAttribute, true)
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
	r.collectNow()
	m := r.collectNow()
	return r, takeApart(m), m.DataPointCount()
}

func BenchmarkCollection(b *testing.B) {
	for _, gpus := range []int{1, 8, 64} {
		r, blueprints, points := benchRig(b, gpus)
		b.Run(fmt.Sprintf("nvml/cards=%d", gpus), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = r.collect(context.Background())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(points), "ns/point")
		})
		b.Run(fmt.Sprintf("loop/cards=%d", gpus), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				plainLoop(blueprints)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(points), "ns/point")
		})
	}
}

// TestFigures prints the cost of a scrape beside a plain loop's, measured
// in turn. It checks nothing: a missed goal is a figure, not a failure.
func TestFigures(t *testing.T) {
	if !*figures {
		t.Skip("asked for with -figures (make bench)")
	}
	const rounds = 5
	perPoint := map[int]float64{}
	for _, gpus := range []int{1, 8, 64} {
		r, blueprints, points := benchRig(t, gpus)
		var time, loop, ratio []float64
		var ours, plain testing.BenchmarkResult
		for range rounds {
			ours = testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_, _ = r.collect(context.Background())
				}
			})
			plain = testing.Benchmark(func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					plainLoop(blueprints)
				}
			})
			time, loop = append(time, nsPerOp(ours)), append(loop, nsPerOp(plain))
			ratio = append(ratio, nsPerOp(ours)/nsPerOp(plain))
		}
		n, name := float64(points), fmt.Sprintf("scrape.%d_cards.", gpus)
		perPoint[gpus] = median(time) / n
		figure.Print(name+"points", n, "points")
		figure.Print(name+"time", median(time)/1000, "us")
		figure.Print(name+"time_per_point", median(time)/n, "ns")
		figure.Print(name+"loop_time_per_point", median(loop)/n, "ns")
		figure.AtMost(name+"time_ratio", median(ratio), "x", 2.2)
		figure.Print(name+"allocs_per_point", float64(ours.AllocsPerOp())/n, "allocs")
		figure.AtMost(name+"allocs_ratio", float64(ours.AllocsPerOp())/float64(plain.AllocsPerOp()), "x", 1.25)
		figure.Print(name+"bytes_per_point", float64(ours.AllocedBytesPerOp())/n, "By")
		figure.AtMost(name+"bytes_ratio", float64(ours.AllocedBytesPerOp())/float64(plain.AllocedBytesPerOp()), "x", 1.3)
	}
	figure.AtMost("scrape.time_per_point_64_to_8", perPoint[64]/perPoint[8], "x", 1.2)
}

func nsPerOp(r testing.BenchmarkResult) float64 { return float64(r.T.Nanoseconds()) / float64(r.N) }

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
