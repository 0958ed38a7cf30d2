//go:build linux && cgo

package nvmlreceiver

import (
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvmllib"
)

// card is one receiver's view of one card. A collection submits its job to the
// card's worker and waits for done until the deadline; while a job is pending,
// the worker owns the fields below "worker's", and the collection keeps off.
type card struct {
	shared *nvmllib.Card
	rows   []*family
	done   chan struct{}
	job    func()
	look   func() // one look of the sampler

	// samplable is set by the collection while the card is healthy; sampling
	// while a look is under way.
	samplable, sampling atomic.Bool

	// The collection's own.
	pending    bool
	asked      bool
	condition  condition
	lostSince  time.Time
	names      names
	recorded   []sample // what has series since the last collection
	recordedAs names    // and under which names

	// The worker's while pending.
	generation int
	anew       bool // the generation is new: begin with everything
	states     []rowState
	sheet      sheet
	window     window
	samples    bool // a sampler looks at the card
	gone       error
	changes    []rowChange
	duration   time.Duration
	spent      []time.Duration
}

// rowState is what is known of one family on one card.
type rowState struct {
	off bool
	err string // as last said; empty while it works
}

// rowChange is a family that began or ceased to fail, to be said once.
type rowChange struct {
	row *family
	err error
	off bool
}

func newCard(shared *nvmllib.Card, rows []*family, samples bool) *card {
	c := &card{samples: samples, shared: shared, rows: rows, done: make(chan struct{}, 1), states: make([]rowState, len(rows)), spent: make([]time.Duration, len(rows))}
	c.sheet.names, c.sheet.window = &c.names, &c.window
	c.look = func() {
		c.window.take(c.shared.Device(), time.Now(), false)
		c.sampling.Store(false)
	}
	c.job = func() {
		c.read()
		c.done <- struct{}{}
	}
	return c
}

// submit asks the worker for one collection. It must not be pending.
func (c *card) submit(driver, cuda string) bool {
	mig := c.names.MIG
	c.describe(driver, cuda)
	if generation := c.shared.Generation(); generation != c.generation || mig != c.names.MIG {
		// The card or the driver came back, or the card was divided or put together:
		// what it supports may have changed, so ask everything anew.
		c.generation = generation
		clear(c.states)
		c.anew = true
	}
	c.pending = c.shared.Submit(c.job)
	return c.pending
}

// describe brings the names up to date with the card's identity.
func (c *card) describe(driver, cuda string) {
	id := c.shared.Identity()
	if c.names.Identity == id && c.names.driver == driver && c.names.cuda == cuda {
		return
	}
	c.names = names{id: id.UUID, name: "gpu" + strconv.Itoa(id.Index), driver: driver, cuda: cuda, Identity: id}
}

// read runs on the worker: it asks every family in turn, until one says that
// the card is gone.
func (c *card) read() {
	begin := time.Now()
	c.sheet.samples, c.sheet.health = c.sheet.samples[:0], health{}
	c.gone, c.changes = nil, c.changes[:0]
	if c.anew {
		c.anew = false
		for i := range c.window.engines {
			e := &c.window.engines[i]
			e.polled, e.off, e.last = false, false, 0
		}
	}
	device := c.shared.Device()
	if c.samples {
		c.window.take(device, begin, true)
	}
	failed, answered := 0, false
	var last error
	lap := begin
	for i, row := range c.rows {
		if c.states[i].off {
			continue
		}
		before := len(c.sheet.samples)
		err := c.ask(device, row)
		// What the sampler saw before is no answer of the card now.
		answered = answered || !row.sampled && len(c.sheet.samples) > before
		switch nvmllib.KindOf(err) {
		case nvmllib.Lost, nvmllib.DriverGone, nvmllib.VersionMismatch:
			c.gone = err
			c.duration = time.Since(begin)
			return
		case nvmllib.NotSupported, nvmllib.Missing:
			if err != nil {
				c.states[i].off = true
				c.changes = append(c.changes, rowChange{row: row, err: err, off: true})
				continue
			}
		}
		if err != nil {
			failed++
			last = err
		}
		c.note(i, row, err)
		now := time.Now()
		c.spent[i] += now.Sub(lap)
		lap = now
	}
	if failed > 0 && !answered { // fallen off the bus without saying so
		c.gone = fmt.Errorf("%w, the last with %w", errEveryCallFails, last)
		c.changes = c.changes[:0]
	}
	c.window.reset()
	c.duration = time.Since(begin)
}

var errEveryCallFails = errors.New("every call on the card fails")

func (c *card) ask(device nvmllib.Device, row *family) error {
	if !device.Has(row.needs) {
		return nvmllib.ErrMissing(row.needs)
	}
	c.sheet.row = row
	before := len(c.sheet.samples)
	err := row.read(device, &c.sheet)
	if err != nil {
		c.sheet.samples = c.sheet.samples[:before] // half an answer is none
	}
	return err
}

func (c *card) note(i int, row *family, err error) {
	word := ""
	if err != nil {
		word = err.Error()
	}
	if word != c.states[i].err {
		c.states[i].err = word
		c.changes = append(c.changes, rowChange{row: row, err: err})
	} else if err != nil {
		c.changes = append(c.changes, rowChange{row: nil, err: err}) // counted, not said again
	}
}

// poll takes up the end of a pending job without waiting.
func (c *card) poll() {
	select {
	case <-c.done:
		c.pending = false
	default:
	}
}
