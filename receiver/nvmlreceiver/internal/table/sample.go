// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// Identity is what the points of a GPU, or of a MIG device, are labelled with. Those of
// MIG devices never change: samples refer to them.
type Identity struct {
	ID, Name, Driver, CUDA string
	nvml.Identity
	// Parent, Profile, GPUInstance and ComputeInstance describe a MIG device; they are
	// empty for a GPU.
	Parent, Profile, GPUInstance, ComputeInstance string
}

// Sample is one value that was read.
type Sample struct {
	Series
	// At is when it was read, in Unix ns.
	At int64
	// Repeated samples are of an earlier reading: the row was not asked in this pass.
	Repeated bool
	// One of these is the value, as the metric's type says; the other is 0.
	integer int64
	float   float64
}

// Series identifies what a sample is of. It can be compared: what is recorded depends
// on nothing else.
type Series struct {
	*Metric
	// On is the MIG device that the series belongs to; nil for the GPU itself.
	On *Identity
	// Text is the attribute that is free text, such as the name of a fan.
	Text       string
	process    *Process
	attributes [3]uint8 // enumerated attributes, in the metric's order
}

// Process is the process, or the container, that the sample is of; nil if it is of a device.
func (s *Series) Process() *Process { return s.process }

// Value is the sample's value, whatever its type.
func (s *Sample) Value() float64 { return float64(s.integer) + s.float }

// Record hands the sample on to the builder, as one of the GPU's or of its MIG device's.
func (s *Sample) Record(mb *metadata.MetricsBuilder, ts timestamp, gpu *Identity) {
	s.record(mb, ts, s.Device(gpu), s)
}

// Device is the MIG device that the series belongs to, or else the GPU.
func (s *Series) Device(gpu *Identity) *Identity {
	if s.On != nil {
		return s.On
	}
	return gpu
}

// OnDevice is the sample as one of a MIG device; nil for the GPU itself.
func (s Sample) OnDevice(on *Identity) Sample {
	s.On = on
	return s
}

// Health holds the readings that determine a GPU's state.
type Health struct {
	// Busy is true from a utilisation of 50 % on: below it, a PCIe link that was slowed
	// down to save power is not a fault.
	Busy bool
	// Throttling holds the reasons as bits, see [ThrottleReasons].
	Throttling uint64
	// SlowedDown is true while the hardware itself holds the clocks down.
	SlowedDown bool
	// Uncorrected and Corrected count ECC errors since the driver was loaded.
	Uncorrected, Corrected uint64
	// BankWorn is true if a bank of the memory has few spare rows left, or none.
	BankWorn bool
	// BeyondRepair is true if the GPU had more uncorrected SRAM errors than NVIDIA tolerates.
	BeyondRepair bool
	// RepairFailed, RepairPending and RecoveryNeeded: see repair.go.
	RepairFailed, RepairPending, RecoveryNeeded bool
	// The PCIe link, now and at most.
	Generation, MaxGeneration, Width, MaxWidth int
}

// Device is what is kept between two passes over a GPU, or over one of its MIG devices.
// It is only ever touched by the GPU's worker.
type Device struct {
	Peaks    Peaks
	gpm      *nvml.GPM
	throttle [maxThrottleCounters]counterCheck
	links    links
	// utilSince is the newest of the driver's samples that was read, in µs of the wall clock;
	// noSamples is true if the driver keeps none.
	utilSince uint64
	noSamples bool
	// noEnergyField is true if the energy counter is not among the field values.
	noEnergyField bool
	// powerAt is when the power was last asked for by a call of its own.
	powerAt time.Time
}

// Relearn forgets what the GPU supports, after it came back.
func (d *Device) Relearn() {
	d.Peaks.Relearn()
	d.throttle = [maxThrottleCounters]counterCheck{}
	d.links = links{}
	d.noSamples, d.noEnergyField = false, false
}

// Free returns what NVML allocated.
func (d *Device) Free() {
	if d.gpm != nil {
		d.gpm.Free()
		d.gpm = nil
	}
}

// Instance is one MIG device of a GPU. It is only ever touched by the GPU's worker.
type Instance struct {
	*nvml.MIGInstance
	Device
	// Identity is replaced when it changes, never changed.
	Identity *Identity
	// SharesInstance is true if other MIG devices are in the same GPU instance.
	SharesInstance bool
}

// Output gathers the answers of one pass over a GPU. It is only ever touched by the
// GPU's worker.
type Output struct {
	Samples []Sample
	Health  Health
	Now     time.Time
	// At is when the present row's answer was read; zero is when the row has returned.
	At time.Time
	// GPU is the whole GPU; ID and Name are its own.
	GPU      nvml.Device
	ID, Name string
	// InstantPower is true if the driver's one figure of power is the present power.
	InstantPower bool
	// Instances are its MIG devices, and Instance is the one that is being read; nil
	// for the GPU itself.
	Instances []*Instance
	Instance  *Instance
	*Device
	Processes *Processes
	// Paced is true in a receiver that follows work, and Work what it knows of it.
	Paced bool
	Work  Work
	// Watts is the instant power, if it was read.
	Watts float64

	fans   []string // the fans' names as fansOf's
	fansOf string
	fields []nvml.FieldValue
	values []nvml.GPMValue
	// batch are the field values of all rows that are due, as of batchAt, or batchErr.
	batch    []nvml.FieldValue
	batchAt  time.Time
	batchErr error
}

// put adds a sample of the device that is being read.
func (o *Output) put(s Sample) {
	if o.Instance != nil {
		s.On = o.Instance.Identity
	}
	o.Samples = append(o.Samples, s)
}

// putIf adds a sample if its value is a valid one.
func (o *Output) putIf(valid bool, s Sample) {
	if valid {
		o.put(s)
	}
}

// fieldValues are several field values: those of the pass's one call if that has them all,
// else they are asked for. The slice is valid until the next call.
func (o *Output) fieldValues(d nvml.Device, ids ...uint32) ([]nvml.FieldValue, error) {
	o.fields = o.fields[:0]
	for _, id := range ids {
		if v := o.fieldOf(id); v != nil {
			o.fields = append(o.fields, *v)
		}
	}
	if len(o.fields) == len(ids) && o.Instance == nil {
		o.At = o.batchAt
		return o.fields, o.batchErr
	}
	o.fields = o.fields[:0]
	for _, id := range ids {
		o.fields = append(o.fields, nvml.FieldValue{FieldId: id})
	}
	return o.fields, d.FieldValues(o.fields)
}

// fieldValue asks for one field value.
func (o *Output) fieldValue(d nvml.Device, id uint32) (float64, error) {
	values, err := o.fieldValues(d, id)
	if err != nil {
		return 0, err
	}
	return nvml.FieldNumber(&values[0])
}

// Flag is the value of a metric that is 1 or 0.
func Flag(set bool) int64 {
	if set {
		return 1
	}
	return 0
}
