// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"reflect"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// Metric is one metric of metadata.yaml. The generic types below wrap it, so that a
// sample has the metric's type of value and its attributes, or does not compile.
type Metric struct {
	Name string
	// Counter is true for monotonic sums.
	Counter bool
	// record hands one sample of the device on to the generated builder, which drops
	// it if the metric is disabled.
	record func(mb *builder, ts timestamp, on *Identity, s *Sample)
}

type (
	builder   = metadata.MetricsBuilder
	timestamp = pcommon.Timestamp
)

// kind of a metric: a counter, or the level of something.
type kind bool

const (
	counter kind = true
	level   kind = false // a gauge, or a sum that may go down
)

type (
	value     interface{ int64 | float64 }
	attribute interface{ ~int }
)

func sampleOf[V value](m *Metric, v V) (s Sample) {
	s.Metric = m
	switch v := any(v).(type) {
	case int64:
		s.integer = v
	case float64:
		s.float = v
	}
	return s
}

// valueOf returns a sample's value: of its two fields one is 0.
func valueOf[V value](s *Sample) V { return V(s.integer) + V(s.float) }

// plain is a metric without attributes beside those of the device.
type plain[V value] struct{ *Metric }

func newPlain[V value](
	k kind, name string, record func(mb *builder, ts timestamp, v V, id, device string),
) plain[V] {
	return plain[V]{&Metric{name, bool(k), func(mb *builder, ts timestamp, on *Identity, s *Sample) {
		record(mb, ts, valueOf[V](s), on.ID, on.Name)
	}}}
}

// Of makes a sample.
func (m plain[V]) Of(v V) Sample { return sampleOf(m.Metric, v) }

// with1 is a metric with one enumerated attribute.
type with1[V value, A attribute] struct{ *Metric }

func newWith1[V value, A attribute](
	k kind, name string, record func(mb *builder, ts timestamp, v V, a A, id, device string),
) with1[V, A] {
	return with1[V, A]{&Metric{name, bool(k), func(mb *builder, ts timestamp, on *Identity, s *Sample) {
		record(mb, ts, valueOf[V](s), A(s.attributes[0]), on.ID, on.Name)
	}}}
}

// Of makes a sample.
func (m with1[V, A]) Of(v V, a A) Sample {
	s := sampleOf(m.Metric, v)
	s.attributes[0] = uint8(a)
	return s
}

// with3 is a metric with two or three enumerated attributes; the third may be 0 for none.
type with3[V value, A, B, C attribute] struct{ *Metric }

func newWith3[V value, A, B, C attribute](
	k kind, name string, record func(mb *builder, ts timestamp, v V, a A, b B, c C, id, device string),
) with3[V, A, B, C] {
	return with3[V, A, B, C]{&Metric{name, bool(k), func(mb *builder, ts timestamp, on *Identity, s *Sample) {
		record(mb, ts, valueOf[V](s), A(s.attributes[0]), B(s.attributes[1]), C(s.attributes[2]), on.ID, on.Name)
	}}}
}

func (m with3[V, A, B, C]) of(v V, a A, b B, c C) Sample {
	s := sampleOf(m.Metric, v)
	s.attributes = [...]uint8{uint8(a), uint8(b), uint8(c)}
	return s
}

// withText is a metric with an attribute that is free text, and with an enumerated
// attribute that may be 0 for none.
type withText[V value, A attribute] struct{ *Metric }

func newWithText[V value, A attribute](
	k kind, name string, record func(mb *builder, ts timestamp, v V, text string, a A, id, device string),
) withText[V, A] {
	return withText[V, A]{&Metric{name, bool(k), func(mb *builder, ts timestamp, on *Identity, s *Sample) {
		record(mb, ts, valueOf[V](s), s.Text, A(s.attributes[0]), on.ID, on.Name)
	}}}
}

// Of makes a sample.
func (m withText[V, A]) Of(v V, text string, a A) Sample {
	s := sampleOf(m.Metric, v)
	s.Text, s.attributes[0] = text, uint8(a)
	return s
}

// withProcess is a metric of one process or container, with an enumerated attribute
// that may be 0 for none.
type withProcess[V value, A attribute] struct{ *Metric }

func newWithProcess[V value, A attribute](
	k kind, name string, record func(mb *builder, ts timestamp, v V, p *Process, a A, id, device string),
) withProcess[V, A] {
	return withProcess[V, A]{&Metric{name, bool(k), func(mb *builder, ts timestamp, on *Identity, s *Sample) {
		record(mb, ts, valueOf[V](s), s.process, A(s.attributes[0]), on.ID, on.Name)
	}}}
}

// Of makes a sample.
func (m withProcess[V, A]) Of(v V, p *Process, a A) Sample {
	s := sampleOf(m.Metric, v)
	s.process, s.attributes[0] = p, uint8(a)
	return s
}

// enabledMetrics lists the metrics that are enabled, by the keys of the configuration.
func enabledMetrics(cfg *metadata.MetricsConfig) map[string]bool {
	enabled := map[string]bool{}
	v := reflect.ValueOf(cfg).Elem()
	for i := range v.NumField() {
		if m, ok := v.Field(i).Interface().(metadata.MetricConfig); ok {
			enabled[v.Type().Field(i).Tag.Get("mapstructure")] = m.Enabled
		}
	}
	return enabled
}
