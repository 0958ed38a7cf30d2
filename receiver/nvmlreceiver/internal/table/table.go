// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Package table lists what is read of a GPU: one row for each question to NVML, with
// the metrics that its answer becomes. A new metric is one entry in metadata.yaml and
// one definition and row here: [single] if its value is one number.
package table

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// Row is one question to a GPU.
type Row struct {
	// Name identifies the row in logs and in the receiver's own telemetry.
	Name string
	// Status rows are read even if their metrics are disabled: hw.status depends on
	// them.
	Status bool
	// MIG rows are read for each MIG device of the GPU too.
	MIG bool
	// Every is the least time between two questions; between them the last answer is
	// repeated. 0 is each pass.
	Every time.Duration
	// PlainOnly rows are not read by receivers that follow work.
	PlainOnly bool
	// Sampled rows report what the sampler observed; without it they have no answer.
	Sampled bool

	metrics []*Metric
	// pace is how often a receiver that follows work asks; nil is seldom.
	pace *Pace
	// fields are the field values that the row needs; nil if it makes calls of its own. They
	// are asked for in one call with those of other rows.
	fields []uint32
	// throttle rows need those of the throttle counters, which depend on the driver.
	throttle bool
	// read asks the GPU and puts the answer into out. The error decides what follows:
	// not supported, or a function that the library lacks, disables the row for this
	// GPU, lost ends the pass over the GPU, others are counted and logged. What was put
	// before an error is discarded.
	read func(d nvml.Device, out *Output) error
}

// Read asks a device and adds the answer to out: all of it or, with an error, nothing.
func (r *Row) Read(d nvml.Device, out *Output) error {
	before := len(out.Samples)
	err := r.read(d, out)
	if err != nil {
		out.Samples = out.Samples[:before]
	}
	return err
}

// single is the row of one number: ask reads it, and if it is a valid reading, from low
// to high, sample makes a sample of it.
func single[N int | int32 | uint32](
	name string, ask func(nvml.Device) (N, error), low, high N, sample func(N) Sample,
) Row {
	return Row{
		Name: name, metrics: []*Metric{sample(low).Metric},
		read: func(d nvml.Device, out *Output) error {
			n, err := ask(d)
			out.putIf(err == nil && n >= low && n <= high, sample(n))
			return err
		},
	}
}

// asLimit is the row, asked as seldom as those of limits.
func (r Row) asLimit() Row {
	r.Every = limitInterval
	return r
}

// Rows returns what a configuration needs, in the order in which it is read. paced is true
// for a receiver that follows work.
func Rows(cfg *metadata.MetricsConfig, sampler, paced bool) (wanted []*Row) {
	enabled := enabledMetrics(cfg)
	for _, row := range all() {
		if row.Sampled && !sampler || row.PlainOnly && paced {
			continue
		}
		if row.Status && cfg.HwStatus.Enabled || slices.ContainsFunc(row.metrics, func(m *Metric) bool { return enabled[m.Name] }) {
			wanted = append(wanted, &row)
		}
	}
	return wanted
}

func all() []Row {
	return slices.Concat(memoryRows(), utilizationRows(), temperatureRows(), powerRows(), clockRows(), throttleRows(), fanRows(),
		pcieRows(), nvlinkRows(), nvlink5Rows(), fabricRows(), eccRows(), repairRows(), profilingRows(), peakRows(), processRows())
}
