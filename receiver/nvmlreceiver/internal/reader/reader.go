// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Package reader is the worker's side of one GPU: a pass over the table's rows, the
// GPU's MIG devices, and the sampler. A [Request] goes to the worker and a [Reading]
// comes back, both by value; what the worker keeps is a type of its own.
package reader

import (
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// Request asks for one pass over a GPU.
type Request struct {
	Identity table.Identity
	// Relearn makes the pass begin with all rows: what the GPU supports may have changed.
	Relearn bool
	// Work is what is known of the GPU's work, for a receiver that follows it.
	Work table.Work
	// Into is an earlier reading that is no longer used: its slices are filled again.
	Into Reading
}

// Reading is the answer of one pass.
type Reading struct {
	Samples []table.Sample
	Health  table.Health
	// MIG are the GPU's MIG devices.
	MIG []*table.Identity
	// Changes are the rows that began or ceased to fail, Errors all that failed.
	Changes []Change
	Errors  []error
	// Lost is why the GPU is gone; nil if it is there.
	Lost             error
	DroppedProcesses int64
	// Slowed are the kinds of calls that became slow, and are made half as often.
	Slowed []string
	// Watts is the instant power, 0 if it was not read.
	Watts    float64
	Duration time.Duration
	RowTimes []time.Duration // by the row's place
}

// Change is a row that began or ceased to fail on a device.
type Change struct {
	Row *table.Row
	// Instance is the hw.name of a MIG device; empty for the GPU itself.
	Instance string
	Err      error // nil: it works again
	// Disabled is true if the device does not support the row: it is not read again.
	Disabled bool
}

// Settings are those of all readers of a receiver.
type Settings struct {
	Rows []*table.Row
	// Sampler is true if a [Sampler] runs between the passes.
	Sampler bool
	// Paced is true for a receiver that follows work: rows have a pace, and are left out
	// between two questions.
	Paced bool
	// SlowCall is how long a call may take before its kind is made half as often.
	SlowCall time.Duration
	Now      func() time.Time
	// Observer receives what the sampler reads; nil if nobody does.
	Observer Observer
}

// Observer receives what the sampler reads between the passes. It is called from the GPUs'
// workers, and must not block.
type Observer interface {
	// MemoryRead is called with the memory in use, in bytes, of a GPU or MIG device (hw.id).
	MemoryRead(id string, used uint64, at time.Time)
}

// SlowCall is the default of [Settings.SlowCall].
const SlowCall = 10 * time.Millisecond

// Reader hands requests to a GPU's worker. Its methods may be called from any goroutine,
// and none waits for the driver.
type Reader struct {
	gpu      *nvml.GPU
	requests chan Request
	readings chan Reading
	// canSample is set while the GPU is healthy, samplePending while a sample is queued
	// or under way.
	canSample, samplePending atomic.Bool
	worker                   worker
	// held is what the worker held after its last pass: nobody waits for a worker, which may
	// hang.
	held atomic.Pointer[[]bounds.Bound]
}

// New makes the reader of one GPU.
func New(gpu *nvml.GPU, set Settings, processes *table.Processes) *Reader {
	r := &Reader{gpu: gpu, requests: make(chan Request, 1), readings: make(chan Reading, 1)}
	r.worker = worker{Settings: set, gpu: gpu, asker: &nvml.Asker{}, out: table.Output{Processes: processes}, rows: newRowStates(len(set.Rows))}
	return r
}

// Ask queues a pass; false if the GPU's queue is full. The reading comes when the jobs
// before it have ended, which may be never if one hangs. Do not ask again before it came.
func (r *Reader) Ask(req Request) bool {
	r.requests <- req
	if r.gpu.Submit(r.read) {
		return true
	}
	<-r.requests
	return false
}

// Readings delivers the reading of each request.
func (r *Reader) Readings() <-chan Reading { return r.readings }

// AllowSampling sets whether the sampler may read the GPU: not while it is unresponsive.
func (r *Reader) AllowSampling(allowed bool) { r.canSample.Store(allowed) }

// Free queues the return of what NVML allocated for the GPU.
func (r *Reader) Free() { r.gpu.Submit(r.worker.free) }

func (r *Reader) read() {
	reading := r.worker.read(<-r.requests)
	held := r.worker.Bounds()
	r.held.Store(&held)
	r.readings <- reading
}

// Bounds implements [bounds.Registered].
func (r *Reader) Bounds() []bounds.Bound {
	all := []bounds.Bound{
		{Name: "reader.Reader.requests", Max: cap(r.requests), Size: len(r.requests)},
		{Name: "reader.Reader.readings", Max: cap(r.readings), Size: len(r.readings)},
	}
	if held := r.held.Load(); held != nil {
		all = append(all, *held...)
	}
	return all
}

func (r *Reader) sample() {
	r.worker.sample()
	r.samplePending.Store(false)
}

// queueSample queues one sample, unless the last one has not ended.
func (r *Reader) queueSample() {
	if r.canSample.Load() && r.samplePending.CompareAndSwap(false, true) && !r.gpu.Submit(r.sample) {
		r.samplePending.Store(false)
	}
}
