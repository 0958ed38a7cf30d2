// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/receiver"
	"go.opentelemetry.io/otel/attribute"
	otelmetric "go.opentelemetry.io/otel/metric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/reader"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// telemetry is the receiver's own telemetry, part of the collector's.
type telemetry struct {
	builder *metadata.TelemetryBuilder
	rows    []*table.Row
	spent   []atomic.Int64 // ns per row
	// options are those of the GPUs by hw.name: every scrape needs them.
	options map[string]otelmetric.MeasurementOption
	inits   int
}

func newTelemetry(settings receiver.Settings, rows []*table.Row) (*telemetry, error) {
	builder, err := metadata.NewTelemetryBuilder(settings.TelemetrySettings)
	if err != nil {
		return nil, err
	}
	t := &telemetry{
		builder: builder, rows: rows, spent: make([]atomic.Int64, len(rows)),
		options: map[string]otelmetric.MeasurementOption{},
	}
	// Initialised to 0, so that the first loss is an increase.
	builder.ReceiverNvmlProcessesDropped.Add(context.Background(), 0)
	builder.ReceiverNvmlEventsDropped.Add(context.Background(), 0)
	err = builder.RegisterReceiverNvmlFamilyTimeCallback(func(_ context.Context, o otelmetric.Float64Observer) error {
		for i, row := range t.rows {
			o.Observe(time.Duration(t.spent[i].Load()).Seconds(), otelmetric.WithAttributes(attribute.String("nvml.family", row.Name)))
		}
		return nil
	})
	return t, err
}

func (t *telemetry) shutdown() { t.builder.Shutdown() }

func (t *telemetry) ofGPU(name string) otelmetric.MeasurementOption {
	o, ok := t.options[name]
	if !ok {
		o = otelmetric.WithAttributeSet(attribute.NewSet(attribute.String(semconv.GPUName, name)))
		t.options[name] = o
		t.builder.ReceiverNvmlCardMisses.Add(context.Background(), 0, o)
	}
	return o
}

// observe records what a GPU's reading cost, and what failed in it.
func (t *telemetry) observe(name string, reading *reader.Reading) {
	t.builder.ReceiverNvmlCardDuration.Record(context.Background(), reading.Duration.Seconds(), t.ofGPU(name))
	for i, d := range reading.RowTimes {
		t.spent[i].Add(int64(d))
	}
	if n := reading.DroppedProcesses; n > 0 {
		t.builder.ReceiverNvmlProcessesDropped.Add(context.Background(), n)
	}
	for _, family := range reading.Slowed {
		t.builder.ReceiverNvmlFamiliesSlowed.Add(context.Background(), 1, otelmetric.WithAttributes(
			attribute.String("nvml.family", family), attribute.String(semconv.GPUName, name)))
	}
	for _, err := range reading.Errors {
		t.callFailed(err)
	}
}

// missed counts a scrape without a reading of the GPU.
func (t *telemetry) missed(name string) {
	t.builder.ReceiverNvmlCardMisses.Add(context.Background(), 1, t.ofGPU(name))
}

// callFailed counts a failed call.
func (t *telemetry) callFailed(err error) {
	var e *nvml.Error
	if errors.As(err, &e) {
		t.builder.ReceiverNvmlCallErrors.Add(context.Background(), 1, otelmetric.WithAttributes(
			attribute.String("nvml.code", e.Code()), attribute.String("nvml.function", e.Function)))
	}
}

// session records the state of the driver.
func (t *telemetry) session(s *nvml.Snapshot) {
	present := int64(0)
	for _, gpu := range s.GPUs {
		if gpu.Err() == nil {
			present++
		}
	}
	ctx := context.Background()
	t.builder.ReceiverNvmlUp.Record(ctx, table.Flag(s.State == nvml.Ready))
	t.builder.ReceiverNvmlCards.Record(ctx, present)
	t.builder.ReceiverNvmlInitializations.Add(ctx, int64(s.Initializations-t.inits))
	t.inits = s.Initializations
}
