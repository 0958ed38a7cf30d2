// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// family is one row of the table: one question to a GPU and what its answer is
// recorded as. Reading, switching off what a GPU does not support, counting
// errors and ending series all follow from the row.
type family struct {
	// name stands in logs and in the receiver's own telemetry.
	name string
	// needs is the NVML function that the question takes; alternatives are
	// joined by "|". A library without it has the family switched off.
	needs string
	// status says that hw.status depends on the answer, so that the question is
	// asked even if its metrics are switched off.
	status bool
	// divided says that the MIG devices of a GPU are asked too.
	divided bool
	// sampled says that the sampler makes the answer: without it there is none.
	sampled bool
	// metrics is what the answer is recorded as.
	metrics []metric
	// read asks the GPU and puts the answer on the sheet. The error decides what
	// follows: not supported switches the family off for this GPU, lost ends
	// the scrape of the GPU, others are counted and said once.
	read func(d nvml.Device, out *sheet) error
}

// metric says whether a metric is switched on and how one sample of it is recorded.
type metric struct {
	enabled func(*metadata.MetricsConfig) bool
	record  func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample)
}

// sample is one value that was read. Its series is told apart by the metric, the
// attribute and the text: what is recorded must depend on nothing else.
type sample struct {
	series
	integer int64
	float   float64
}

type series struct {
	metric *metric
	// attribute is an enumerated attribute of the metric, or several packed.
	attribute int
	// text is an attribute that is free text, such as the fan's name.
	text string
	// of is the MIG device that the series belongs to; nil for the GPU itself.
	of *names
	// process is the process or the container that the series tells of, if any.
	process *process
}

// device is whose name stands on the series' points.
func (s *series) device(gpu *names) *names {
	if s.of != nil {
		return s.of
	}
	return gpu
}

// names is how a GPU stands on its points.
type names struct {
	id, name, driver, cuda string
	fans                   []string
	nvml.Identity
	mig
}

// mig is what only a MIG device has.
type mig struct{ parent, profile, gpuInstance, computeInstance string }

// sheet takes the answers of one GPU in one scrape. The worker of the GPU
// writes it, and the scrape reads it when the worker is done.
type sheet struct {
	samples   []sample
	health    health
	names     *names
	row       *family
	fields    []nvml.FieldValue
	values    []nvml.GPMValue
	processes *processTable
	gpu       nvml.Device
	now       time.Time
	instances []*instance

	// What is being asked: the GPU, or one of its MIG devices.
	*target
	instance *instance
}

// target is what is kept from one scrape to the next of the GPU, and of
// each of its MIG devices. Only the GPU's worker touches it.
type target struct {
	window window
	gpm    *nvml.GPM
}

func (s *sheet) int(metric int, attribute int, v int64) {
	s.samples = append(s.samples, sample{series: s.series(metric, attribute), integer: v})
}

func (s *sheet) float(metric int, attribute int, v float64) {
	s.samples = append(s.samples, sample{series: s.series(metric, attribute), float: v})
}

func (s *sheet) series(metric, attribute int) series {
	out := series{metric: &s.row.metrics[metric], attribute: attribute}
	if s.instance != nil {
		out.of = s.instance.names
	}
	return out
}

// fieldValues asks for several field values at once. The slice is valid until
// the next call.
func (s *sheet) fieldValues(d nvml.Device, ids ...uint32) ([]nvml.FieldValue, error) {
	s.fields = s.fields[:0]
	for _, id := range ids {
		s.fields = append(s.fields, nvml.FieldValue{FieldId: id})
	}
	return s.fields, d.FieldValues(s.fields)
}

// percent makes a share of a percentage; what is beyond is no reading.
func (s *sheet) percent(metric int, attribute int, v uint32) {
	if v <= 100 {
		s.float(metric, attribute, float64(v)/100)
	}
}

// table is all that is asked of a GPU, in the order in which it is asked.
func table() []family {
	return slices.Concat(memoryFamilies(), utilizationFamilies(), temperatureFamilies(), powerFamilies(),
		clockFamilies(), throttleFamilies(), fanFamilies(), pcieFamilies(), nvlinkFamilies(), eccFamilies(), repairFamilies(),
		profilingFamilies(), peakFamilies(), processFamilies())
}
