// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// GPU is one receiver's view of one GPU. A scrape submits its job to the
// GPU's worker and waits for done until the deadline; while a job is pending,
// the worker owns the fields below "worker's", and the scrape keeps off.
type gpu struct {
	shared *nvml.GPU
	rows   []*family
	done   chan struct{}
	job    func()
	look   func() // one look of the sampler
	clock  func() time.Time

	// samplable is set by the scrape while the GPU is healthy; sampling
	// while a look is under way.
	samplable, sampling atomic.Bool

	// The scrape's own.
	pending    bool
	asked      bool
	condition  condition
	corrected  errorRate
	errorsRise bool
	lostSince  time.Time
	byDriver   bool // it went with the driver
	names      names
	recorded   []sample // what has series since the last scrape
	recordedAs names    // and under which names
	// counters is bounded by the counters that a GPU has.
	counters map[series]past
	divided  []*names // its MIG devices as of the last answer

	// The worker's while pending.
	generation int
	anew       bool // the generation is new: begin with everything
	states     []rowState
	sheet      sheet
	own        target
	instances  []*instance // its MIG devices
	samples    bool        // a sampler looks at the GPU
	gone       error
	changes    []rowChange
	duration   time.Duration
	spent      []time.Duration
}

// rowState is what is known of one family on one GPU.
type rowState struct {
	off bool
	err string // as last said; empty while it works
}

// rowChange is a family that began or ceased to fail, to be said once.
type rowChange struct {
	row *family
	// instance is the MIG device's name, where it is one's.
	instance string
	err      error
	off      bool
}

func newGPU(shared *nvml.GPU, rows []*family, samples bool, processes *processTable, now func() time.Time) *gpu {
	c := &gpu{
		samples: samples, shared: shared, rows: rows, clock: now, counters: map[series]past{}, done: make(chan struct{}, 1),
		states: make([]rowState, len(rows)), spent: make([]time.Duration, len(rows)),
	}
	c.sheet.names, c.sheet.processes = &c.names, processes
	c.look = func() {
		c.own.window.take(c.shared.Device(), c.clock(), false)
		for _, inst := range c.instances {
			inst.window.takeMemory(inst.Device)
		}
		c.sampling.Store(false)
	}
	c.job = func() {
		c.read()
		c.done <- struct{}{}
	}
	return c
}

// submit asks the worker for one scrape. It must not be pending.
func (c *gpu) submit(driver, cuda string) bool {
	mig := c.names.MIG
	c.describe(driver, cuda)
	if generation := c.shared.Generation(); generation != c.generation || mig != c.names.MIG {
		// The GPU or the driver came back, or the GPU was divided or put together:
		// what it supports may have changed, so ask everything again.
		c.generation = generation
		c.anew = true
	}
	c.pending = c.shared.Submit(c.job)
	return c.pending
}

// describe brings the names up to date with the GPU's identity.
func (c *gpu) describe(driver, cuda string) {
	id := c.shared.Identity()
	if c.names.Identity == id && c.names.driver == driver && c.names.cuda == cuda {
		return
	}
	c.names = names{id: id.UUID, name: "gpu" + strconv.Itoa(id.Index), driver: driver, cuda: cuda, Identity: id}
}

// read runs on the worker: it asks every family in turn, until one says that
// the GPU is gone.
func (c *gpu) read() {
	begin := time.Now()
	out := &c.sheet
	out.samples, out.health = out.samples[:0], health{}
	out.now, out.gpu = c.clock(), c.shared.Device()
	c.gone, c.changes = nil, c.changes[:0]
	if c.anew {
		c.anew = false
		c.forgetAnswers()
	}
	if c.samples {
		c.own.window.take(out.gpu, out.now, true)
	}
	err := c.findInstances(out.gpu)
	out.instances = c.instances
	out.target, out.instance = &c.own, nil
	asked := c.readRows(out.gpu, c.states, false)
	if c.gone == nil && asked.last == nil && isGone(err) {
		c.gone = err
	}
	for _, inst := range c.instances {
		if c.gone != nil {
			break
		}
		out.target, out.instance = &inst.target, inst
		out.samples = append(out.samples, sample{series: series{metric: &infoMetric, of: inst.names}, integer: 1})
		if c.samples {
			inst.window.takeMemory(inst.Device)
		}
		c.readRows(inst.Device, inst.states, true)
		inst.window.reset()
	}
	if c.gone == nil && asked.failed > 0 && !asked.answered { // fallen off the bus without saying so
		c.gone = fmt.Errorf("%w, the last with %w", errEveryCallFails, asked.last)
		c.changes = c.changes[:0]
	}
	if c.gone == nil {
		c.own.window.reset()
	}
	c.duration = time.Since(begin)
}

// forgetAnswers begins with everything, after the GPU or the driver came back or
// the GPU was divided or put together.
func (c *gpu) forgetAnswers() {
	clear(c.states)
	c.own.window.anew()
	c.own.free()
	for _, inst := range c.instances {
		inst.free()
	}
	c.instances = nil
	if t := c.sheet.processes; t != nil {
		t.noUtilization = false
	}
}

// answers is how a GPU answered to all rows.
type answers struct {
	failed   int
	answered bool
	last     error
}

// readRows asks every family of the GPU, or those that a MIG device has, until
// one says that the GPU is gone.
func (c *gpu) readRows(device nvml.Device, states []rowState, divided bool) (a answers) {
	lap := time.Now()
	for i, row := range c.rows {
		if states[i].off || divided && !row.divided {
			continue
		}
		before := len(c.sheet.samples)
		err := c.ask(device, row)
		// What the sampler saw before is no answer of the GPU now.
		a.answered = a.answered || !row.sampled && len(c.sheet.samples) > before
		if isGone(err) {
			c.gone = err
			return a
		}
		if kind := nvml.KindOf(err); err != nil && (kind == nvml.NotSupported || kind == nvml.Missing) {
			states[i].off = true
			c.changes = append(c.changes, rowChange{row: row, instance: c.sheet.instanceName(), err: err, off: true})
			continue
		}
		if divided && nvml.IsNotFound(err) {
			return a // the MIG device went between two calls
		}
		if err != nil {
			a.failed++
			a.last = err
		}
		c.note(&states[i], row, err)
		now := time.Now()
		c.spent[i] += now.Sub(lap)
		lap = now
	}
	return a
}

// isGone reports whether an error says that the GPU or the driver is gone.
func isGone(err error) bool {
	switch nvml.KindOf(err) {
	case nvml.Lost, nvml.DriverGone, nvml.VersionMismatch:
		return true
	}
	return false
}

func (s *sheet) instanceName() string {
	if s.instance == nil {
		return ""
	}
	return s.instance.names.name
}

var errEveryCallFails = errors.New("every call on the GPU fails")

func (c *gpu) ask(device nvml.Device, row *family) error {
	if !device.Has(row.needs) {
		return nvml.ErrMissing(row.needs)
	}
	c.sheet.row = row
	before := len(c.sheet.samples)
	err := row.read(device, &c.sheet)
	if err != nil {
		c.sheet.samples = c.sheet.samples[:before] // half an answer is none
	}
	return err
}

func (c *gpu) note(state *rowState, row *family, err error) {
	word := ""
	if err != nil {
		word = err.Error()
	}
	if word != state.err {
		state.err = word
		c.changes = append(c.changes, rowChange{row: row, instance: c.sheet.instanceName(), err: err})
	} else if err != nil {
		c.changes = append(c.changes, rowChange{row: nil, err: err}) // counted, not said again
	}
}

// poll takes up the end of a pending job without waiting.
func (c *gpu) poll() {
	select {
	case <-c.done:
		c.pending = false
	default:
	}
}
