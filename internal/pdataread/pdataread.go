// SPDX-License-Identifier: Apache-2.0

// Package pdataread reads single values out of pdata.
package pdataread

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// Text is a text attribute; empty if it is missing or not a text.
func Text(m pcommon.Map, key string) string {
	if v, ok := m.Get(key); ok && v.Type() == pcommon.ValueTypeStr {
		return v.Str()
	}
	return ""
}

// True reports whether an attribute is true.
func True(a pcommon.Map, key string) bool {
	v, ok := a.Get(key)
	return ok && v.Bool()
}

// Number is a point's value, whatever its type.
func Number(p pmetric.NumberDataPoint) float64 {
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

// Points are the points of a gauge or a sum; none of other metrics.
func Points(m pmetric.Metric) pmetric.NumberDataPointSlice {
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		return m.Gauge().DataPoints()
	case pmetric.MetricTypeSum:
		return m.Sum().DataPoints()
	}
	return pmetric.NewNumberDataPointSlice()
}
