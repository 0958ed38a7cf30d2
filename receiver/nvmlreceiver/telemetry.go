// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// telemetry is what the receiver tells about itself, through the collector's own
// telemetry.
type telemetry struct {
	builder *metadata.TelemetryBuilder
	rows    []*family
	spent   []atomic.Int64 // ns per row
	// options of GPUs by name, kept because they are made at every scrape
	options map[string]otelmetric.MeasurementOption
	inits   int
}

func newTelemetry(c *collector) (*telemetry, error) {
	builder, err := metadata.NewTelemetryBuilder(c.settings.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	t := &telemetry{builder: builder, rows: c.rows, spent: make([]atomic.Int64, len(c.rows)), options: map[string]otelmetric.MeasurementOption{}}
	err = builder.RegisterReceiverNvmlFamilyTimeCallback(func(_ context.Context, o otelmetric.Float64Observer) error {
		for i, row := range t.rows {
			o.Observe(time.Duration(t.spent[i].Load()).Seconds(), otelmetric.WithAttributes(attribute.String("nvml.family", row.name)))
		}
		return nil
	})
	return t, err
}

func (t *telemetry) shutdown() { t.builder.Shutdown() }

func (t *telemetry) gpu(c *gpu) otelmetric.MeasurementOption {
	o, ok := t.options[c.names.name]
	if !ok {
		o = otelmetric.WithAttributeSet(attribute.NewSet(attribute.String("hw.name", c.names.name)))
		t.options[c.names.name] = o
	}
	return o
}

// took records how long a GPU took; the job must be done.
func (t *telemetry) took(c *gpu) {
	t.builder.ReceiverNvmlCardDuration.Record(context.Background(), c.duration.Seconds(), t.gpu(c))
	for i, d := range c.spent {
		t.spent[i].Add(int64(d))
		c.spent[i] = 0
	}
}

// left counts the processes that were left out of a scrape.
func (t *telemetry) left(c *gpu) {
	if n := c.sheet.processes.dropped; n > 0 {
		t.builder.ReceiverNvmlProcessesDropped.Add(context.Background(), n)
		c.sheet.processes.dropped = 0
	}
}

// missed counts a scrape without an answer of the GPU.
func (t *telemetry) missed(c *gpu) {
	t.builder.ReceiverNvmlCardMisses.Add(context.Background(), 1, t.gpu(c))
}

// failed counts a failed call.
func (t *telemetry) failed(err error) {
	var e *nvml.Error
	if errors.As(err, &e) {
		t.builder.ReceiverNvmlCallErrors.Add(context.Background(), 1, otelmetric.WithAttributes(
			attribute.String("nvml.code", e.Code()), attribute.String("nvml.function", e.Function)))
	}
}

// session records how the driver stands.
func (t *telemetry) session(s *nvml.Snapshot) {
	up := int64(0)
	if s.State == nvml.Ready {
		up = 1
	}
	present := int64(0)
	for _, c := range s.GPUs {
		if c.Err() == nil {
			present++
		}
	}
	ctx := context.Background()
	t.builder.ReceiverNvmlUp.Record(ctx, up)
	t.builder.ReceiverNvmlCards.Record(ctx, present)
	t.builder.ReceiverNvmlInitializations.Add(ctx, int64(s.Initializations-t.inits))
	t.inits = s.Initializations
}
