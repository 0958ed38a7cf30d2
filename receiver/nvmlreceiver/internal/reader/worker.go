// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package reader

import (
	"errors"
	"fmt"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// worker is what is kept of a GPU between two passes. It is only ever touched by jobs
// of the GPU's worker.
type worker struct {
	Settings
	gpu       *nvml.GPU
	asker     *nvml.Asker
	identity  table.Identity
	device    table.Device
	rows      rowStates
	instances []*instance // its MIG devices
	out       table.Output
	reading   Reading
	// fields is the one call for field values, memory and buffers are the sampler's calls.
	fields, memory, buffers slowness
	// slow are the kinds of calls that became slow since the last reading.
	slow []string
}

// read makes one pass: it reads row after row until one reports that the GPU is gone.
func (w *worker) read(req Request) Reading {
	w.begin(&req)
	out, r := &w.out, &w.reading
	begin := out.Now
	if req.Relearn {
		w.relearn()
	}
	if w.Sampler {
		w.device.Peaks.Sample(out.GPU, out.Now, w.identity.Index, true)
	}
	err := w.findInstances(out.GPU)
	out.Device, out.Instance = &w.device, nil
	asked := w.readRows(out.GPU, &w.rows, false)
	if r.Lost == nil && asked.last == nil && isGone(err) {
		r.Lost = err
	}
	w.readInstances()
	// A receiver that follows work may have made one call.
	if r.Lost == nil && !w.Paced && asked.failed > 0 && !asked.answered { // fallen off the bus, without the error for it
		r.Lost = fmt.Errorf("%w, the last with %w", errEveryCallFails, asked.last)
		r.Changes, r.Errors = r.Changes[:0], r.Errors[:0]
	}
	if r.Lost == nil {
		w.device.Peaks.Reset()
	}
	r.Samples, r.Health, r.DroppedProcesses = out.Samples, out.Health, out.Processes.Dropped
	r.Duration = w.Now().Sub(begin)
	r.Slowed, w.slow = append(r.Slowed, w.slow...), w.slow[:0]
	r.Watts = out.Watts
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
	w.reading = Reading{MIG: into.MIG[:0], Changes: into.Changes[:0], Errors: into.Errors[:0], Slowed: into.Slowed[:0], RowTimes: into.RowTimes}
	out := &w.out
	out.Samples, out.Health = into.Samples[:0], table.Health{}
	identity := w.gpu.Identity()
	out.InstantPower = identity.HasInstantPower()
	out.Now, out.GPU, out.ID, out.Name = w.Now(), w.gpu.DeviceFor(w.asker), w.identity.ID, w.identity.Name
	out.Paced, out.Work, out.Watts = w.Paced, req.Work, 0
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
		w.readRows(inst.MIGInstance.Device, &inst.rows, true)
		inst.Peaks.Reset()
	}
}

// sample reads what the sampler follows.
func (w *worker) sample() {
	d := w.gpu.DeviceFor(w.asker)
	d.MaxCallTime()
	if !w.memory.skips() {
		w.sampleMemory(&w.device, d, w.identity.ID)
		w.observe(&w.memory, "sampler.memory", d.MaxCallTime())
	}
	if !w.buffers.skips() {
		w.device.Peaks.Sample(d, w.Now(), w.identity.Index, false)
		w.observe(&w.buffers, "sampler.utilization", d.MaxCallTime())
	}
	for _, inst := range w.instances {
		w.sampleMemory(&inst.Device, inst.On(d), inst.Identity.ID)
	}
}

// sampleMemory reads a device's memory, and passes it on.
func (w *worker) sampleMemory(of *table.Device, d nvml.Device, id string) {
	if used, ok := of.Peaks.SampleMemory(d); ok && w.Observer != nil && id != "" {
		w.Observer.MemoryRead(id, used, w.Now())
	}
}

func (w *worker) observe(s *slowness, family string, took time.Duration) {
	if s.observe(took, w.SlowCall) && len(w.slow) < maxSlowed {
		w.slowed(family)
	}
}

// maxSlowed bounds the kinds of calls of the sampler that wait for a reading.
const maxSlowed = 64

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
	all := append(w.out.Processes.Bounds(),
		bounds.Bound{Name: "reader.worker.instances", Max: nvml.MaxMIG, Size: len(w.instances)},
		bounds.Bound{Name: "reader.worker.slow", Max: maxSlowed + 2*len(w.Rows), Size: len(w.slow)})
	return append(all, w.rows.failing.Bounds()...)
}
