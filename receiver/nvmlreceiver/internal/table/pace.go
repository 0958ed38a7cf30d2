// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"errors"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
)

// How often a row is asked. NVML calls wait for one lock of the whole driver, which games
// and ComfyUI wait for too, so that each kind of call has a budget (docs/gpus.md).
const (
	// linkInterval is how often the states and error counters of NVLinks are read, and what
	// else changes seldom: a counter misses nothing.
	linkInterval = time.Minute
	// limitInterval is how often limits and maximum clocks are read.
	limitInterval = 5 * time.Minute
)

// Pace is how often a receiver that follows work asks a row.
type Pace struct {
	// Rest and Work are the least times between two questions while the GPU has no work and
	// while it has; 0 is each pass, negative is never.
	Rest, Work time.Duration
	// AfterWork asks once more after a piece of work ended, at the interval of Work.
	AfterWork bool
	// Several asks only while several servers have work on the GPU, or one that has other GPUs
	// open as well, or beside which another process is listed; and once more after that, for what they did last.
	Several bool
}

// ErrNotDue is returned by a row that has no answer yet: its last one is repeated.
var ErrNotDue = errors.New("not due")

const never = time.Duration(-1)

var (
	eachPass = &Pace{}
	// seldom is the pace of a row that has no other: two of them, temperature and throttle
	// reasons, are read for the traces.
	seldom = &Pace{Rest: 10 * time.Second, Work: time.Second}
	// memoryPace is the sampler's, so that the two share their readings.
	memoryPace      = &Pace{Rest: 100 * time.Millisecond, Work: 100 * time.Millisecond}
	utilizationPace = &Pace{Rest: time.Second, Work: time.Second}
	listPace        = &Pace{Rest: never, Work: 5 * time.Second, AfterWork: true}
	usePace         = &Pace{Rest: never, Work: time.Second, Several: true}
)

// Work is what the receiver knows of a GPU's work in a pass.
type Work struct {
	gpuevents.GPUWork
	// Working is true while the GPU has work, and for a moment after.
	Working bool
	// Beside is true if a process is listed that is not of a server with work.
	Beside bool
}

// DueAfter is the least time between the row's last reading, at last, and the next one, in
// a receiver that follows work; negative is never.
func (r *Row) DueAfter(work *Work, last time.Time) time.Duration {
	p := r.pace
	if p == nil {
		p = seldom
	}
	interval := p.Rest
	switch {
	case p.Several && work.Open < 2 && !work.Spread && !work.Beside && !p.endedSince(work, last):
		return never
	case p.Several, work.Working, p.AfterWork && work.LastEnded.After(last):
		interval = p.Work
	}
	if interval > 0 {
		interval = max(interval, r.Every)
	}
	return interval
}

// endedSince reports whether a piece of work ended after a reading, and soon after it: while the
// row was still read.
func (p *Pace) endedSince(work *Work, last time.Time) bool {
	return work.LastEnded.After(last) && work.LastEnded.Sub(last) < 2*p.Work
}

// gridShift is by how much the grids of two GPUs differ: a multiple of the usual intervals of
// all receivers, so that those still meet.
const gridShift = 200 * time.Millisecond

// Crossed reports whether a moment of a common time grid lies between two times, so that
// receivers that read at the same interval do so at the same time and share the reading.
// GPUs have grids of their own, by their index, so that not all are read at once.
func Crossed(last, now time.Time, interval time.Duration, index int) bool {
	if last.IsZero() || now.Before(last) {
		return true
	}
	shift := time.Duration(0)
	if interval >= time.Second {
		shift = time.Duration(index) * gridShift
	}
	return !last.Add(shift).Truncate(interval).Equal(now.Add(shift).Truncate(interval))
}

// BeginFields begins a pass without field values.
func (o *Output) BeginFields() { o.batch, o.batchErr = o.batch[:0], nil }

// AddFields adds those of a row to the one call.
func (o *Output) AddFields(d nvml.Device, r *Row) {
	for _, id := range r.fields {
		o.batch = append(o.batch, nvml.FieldValue{FieldId: id})
	}
	if !r.throttle {
		return
	}
	for _, c := range throttleCounters(d) {
		if c.field != 0 {
			o.batch = append(o.batch, nvml.FieldValue{FieldId: c.field})
		}
	}
}

// NeedsFields reports whether the row's answer is among the field values of the one call.
func (r *Row) NeedsFields() bool { return len(r.fields) > 0 || r.throttle }

// ReadFields makes the one call, in which the rows find their answers; false if no row needs
// it.
func (o *Output) ReadFields(d nvml.Device) bool {
	if len(o.batch) == 0 {
		return false
	}
	o.batchErr = d.FieldValues(o.batch)
	o.batchAt = time.Now()
	return true
}

// fieldOf is a field value of the one call; nil if it was not asked for.
func (o *Output) fieldOf(id uint32) *nvml.FieldValue {
	for i := range o.batch {
		if o.batch[i].FieldId == id {
			return &o.batch[i]
		}
	}
	return nil
}

// Add adds what another row found.
func (h *Health) Add(o *Health) {
	h.Busy = h.Busy || o.Busy
	h.Throttling |= o.Throttling
	h.SlowedDown = h.SlowedDown || o.SlowedDown
	h.Uncorrected += o.Uncorrected
	h.Corrected += o.Corrected
	h.BankWorn = h.BankWorn || o.BankWorn
	h.BeyondRepair = h.BeyondRepair || o.BeyondRepair
	h.RepairFailed = h.RepairFailed || o.RepairFailed
	h.RepairPending = h.RepairPending || o.RepairPending
	h.RecoveryNeeded = h.RecoveryNeeded || o.RecoveryNeeded
	h.Generation = max(h.Generation, o.Generation)
	h.MaxGeneration = max(h.MaxGeneration, o.MaxGeneration)
	h.Width = max(h.Width, o.Width)
	h.MaxWidth = max(h.MaxWidth, o.MaxWidth)
}
