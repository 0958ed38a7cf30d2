// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package reader

import (
	"errors"
	"fmt"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// worker is what is kept of a GPU between two passes. It is only ever touched by jobs
// of the GPU's worker.
type worker struct {
	Settings
	gpu       *nvml.GPU
	identity  table.Identity
	device    table.Device
	rows      rowStates
	instances []*instance // its MIG devices
	out       table.Output
	reading   Reading
}

// rowStates is what is known of the rows on one device.
type rowStates struct {
	disabled []bool
	failing  logonce.Tracker
}

func newRowStates(n int) rowStates { return rowStates{disabled: make([]bool, n)} }

// read makes one pass: it reads row after row until one reports that the GPU is gone.
func (w *worker) read(req Request) Reading {
	w.begin(&req)
	out, r := &w.out, &w.reading
	begin := out.Now
	if req.Relearn {
		w.relearn()
	}
	if w.Sampler {
		w.device.Peaks.Sample(out.GPU, out.Now, true)
	}
	err := w.findInstances(out.GPU)
	out.Device, out.Instance = &w.device, nil
	asked := w.readRows(out.GPU, &w.rows, false)
	if r.Lost == nil && asked.last == nil && isGone(err) {
		r.Lost = err
	}
	w.readInstances()
	if r.Lost == nil && asked.failed > 0 && !asked.answered { // fallen off the bus, without the error for it
		r.Lost = fmt.Errorf("%w, the last with %w", errEveryCallFails, asked.last)
		r.Changes, r.Errors = r.Changes[:0], r.Errors[:0]
	}
	if r.Lost == nil {
		w.device.Peaks.Reset()
	}
	r.Samples, r.Health, r.DroppedProcesses = out.Samples, out.Health, out.Processes.Dropped
	r.Duration = w.Now().Sub(begin)
	reading := w.reading
	w.reading, out.Samples = Reading{}, nil // the receiver's from here on
	return reading
}

func (w *worker) begin(req *Request) {
	w.identity = req.Identity
	into := &req.Into
	if into.RowTimes == nil {
		into.RowTimes = make([]time.Duration, len(w.Rows))
	}
	clear(into.RowTimes)
	w.reading = Reading{MIG: into.MIG[:0], Changes: into.Changes[:0], Errors: into.Errors[:0], RowTimes: into.RowTimes}
	out := &w.out
	out.Samples, out.Health = into.Samples[:0], table.Health{}
	out.Now, out.GPU, out.ID, out.Name = w.Now(), w.gpu.Device(), w.identity.ID, w.identity.Name
	out.Processes.Dropped = 0
}

// readInstances reads the MIG devices.
func (w *worker) readInstances() {
	out := &w.out
	for _, inst := range w.instances {
		if w.reading.Lost != nil {
			return
		}
		w.reading.MIG = append(w.reading.MIG, inst.Identity)
		out.Device, out.Instance = &inst.Device, &inst.Instance
		out.Samples = append(out.Samples, table.Info.Of(1).OnDevice(inst.Identity))
		if w.Sampler {
			inst.Peaks.SampleMemory(inst.MIGInstance.Device)
		}
		w.readRows(inst.MIGInstance.Device, &inst.rows, true)
		inst.Peaks.Reset()
	}
}

// sample reads what the sampler follows.
func (w *worker) sample() {
	w.device.Peaks.Sample(w.gpu.Device(), w.Now(), false)
	for _, inst := range w.instances {
		inst.Peaks.SampleMemory(inst.MIGInstance.Device)
	}
}

// relearn forgets what the GPU supports, after it or the driver came back, or its MIG
// mode changed.
func (w *worker) relearn() {
	w.rows = newRowStates(len(w.Rows))
	w.device.Relearn()
	w.free()
	w.instances = nil
	w.out.Processes.Relearn()
}

// free returns what NVML allocated.
func (w *worker) free() {
	w.device.Free()
	for _, inst := range w.instances {
		inst.Free()
	}
}

// answers is how a GPU answered to all rows.
type answers struct {
	failed   int
	answered bool
	last     error
}

// readRows reads every row of the GPU, or those that a MIG device has, until one reports
// that the GPU is gone.
func (w *worker) readRows(device nvml.Device, states *rowStates, mig bool) (a answers) {
	began := w.Now()
	for i, row := range w.Rows {
		if states.disabled[i] || mig && !row.MIG {
			continue
		}
		before := len(w.out.Samples)
		err := row.Read(device, &w.out)
		// What the sampler observed before is not an answer of the GPU now.
		a.answered = a.answered || !row.Sampled && len(w.out.Samples) > before
		switch {
		case isGone(err):
			w.reading.Lost = err
			return a
		case nvml.IsUnsupported(err):
			states.disabled[i] = true
			w.change(Change{Row: row, Err: err, Disabled: true})
			continue
		case mig && nvml.IsNotFound(err):
			return a // the MIG device was destroyed between two calls
		case err != nil:
			a.failed++
			a.last = err
			w.reading.Errors = append(w.reading.Errors, err)
		}
		if states.failing.ChangedError(row.Name, err) {
			w.change(Change{Row: row, Err: err})
		}
		now := w.Now()
		w.reading.RowTimes[i] += now.Sub(began)
		began = now
	}
	return a
}

func (w *worker) change(c Change) {
	if w.out.Instance != nil {
		c.Instance = w.out.Instance.Identity.Name
	}
	w.reading.Changes = append(w.reading.Changes, c)
}

// isGone reports whether an error means that the GPU or the driver is gone.
func isGone(err error) bool {
	return nvml.KindOf(err) == nvml.Lost || nvml.IsDriverGone(err)
}

var errEveryCallFails = errors.New("every call on the GPU fails")

// Bounds lists what the worker holds. Like the other methods, it belongs to the GPU's worker.
func (w *worker) Bounds() []bounds.Bound {
	all := append(w.out.Processes.Bounds(), bounds.Bound{Name: "reader.worker.instances", Max: nvml.MaxMIG, Size: len(w.instances)})
	return append(all, w.rows.failing.Bounds()...)
}
