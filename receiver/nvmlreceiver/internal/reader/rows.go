// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package reader

import (
	"errors"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// rowStates is what is known of the rows on one device.
type rowStates struct {
	of      []rowState
	failing logonce.Tracker
}

func newRowStates(n int) rowStates { return rowStates{of: make([]rowState, n)} }

// rowState is what is known of one row on one device.
type rowState struct {
	disabled bool
	due      bool // in the present pass
	// asked is when it was last asked.
	asked time.Time
	// samples and health are the last answer, for the passes in which the row is not asked.
	samples []table.Sample
	health  table.Health
	slow    slowness
}

// slowness makes a kind of call that got slow be asked half as often, until it is fast
// again: it keeps the driver's lock from others. The zero value is a fast one.
type slowness struct {
	last, is, skip bool
}

// observe takes how long a call took; true if the kind of call is slow from now on. One slow
// call is not enough: it may have waited for the lock.
func (s *slowness) observe(took, limit time.Duration) (began bool) {
	long := took > limit
	began = long && s.last && !s.is
	s.is = long && (s.last || s.is)
	s.last = long
	return began
}

// skips reports whether the call is left out this time.
func (s *slowness) skips() bool {
	s.skip = s.is && !s.skip
	return s.skip
}

// selectRows decides which rows are asked in this pass, and asks for the field values that
// they need in one call.
func (w *worker) selectRows(device nvml.Device, states *rowStates, mig bool) {
	out := &w.out
	out.BeginFields()
	out.Work.Beside = out.Processes.AreBeside(out.Work.PIDs)
	device.MaxCallTime()
	fieldsSkipped := !mig && w.fields.skips()
	for i, row := range w.Rows {
		s := &states.of[i]
		s.due = !s.disabled && (!mig || row.MIG) && w.isDue(row, s) && !s.slow.skips() && (!fieldsSkipped || !row.NeedsFields())
		if s.due && !mig {
			out.AddFields(device, row)
		}
	}
	if out.ReadFields(device) && w.fields.observe(device.MaxCallTime(), w.SlowCall) {
		w.slowed("field_values")
	}
}

// isDue reports whether a row's time has come.
func (w *worker) isDue(row *table.Row, s *rowState) bool {
	interval := row.Every
	if w.Paced {
		interval = row.DueAfter(&w.out.Work, s.asked)
	}
	return interval >= 0 && (interval == 0 || table.Crossed(s.asked, w.out.Now, interval, w.identity.Index))
}

// answers is how a GPU answered to all rows.
type answers struct {
	failed   int
	answered bool
	last     error
}

// readRows reads every row of the GPU that is due, or those that a MIG device has, until one
// reports that the GPU is gone. Rows that are not due repeat their last answer.
func (w *worker) readRows(device nvml.Device, states *rowStates, mig bool) (a answers) {
	w.selectRows(device, states, mig)
	began := w.Now()
	health := w.out.Health
	for i, row := range w.Rows {
		s := &states.of[i]
		if s.disabled || mig && !row.MIG {
			continue
		}
		before := len(w.out.Samples)
		w.out.At, w.out.Health = time.Time{}, table.Health{}
		err := table.ErrNotDue
		if s.due {
			err = row.Read(device, &w.out)
		}
		if errors.Is(err, table.ErrNotDue) {
			if s.due {
				s.asked = w.out.Now
			}
			w.repeat(s)
			health.Add(&s.health)
			continue
		}
		now := w.Now()
		health.Add(&w.out.Health)
		w.keep(row, s, before, now)
		// What the sampler observed before is not an answer of the GPU now.
		a.answered = a.answered || !row.Sampled && len(w.out.Samples) > before
		if stop := w.judge(&a, i, states, mig, err); stop {
			break
		}
		w.reading.RowTimes[i] += now.Sub(began)
		if s.slow.observe(device.MaxCallTime(), w.SlowCall) {
			w.slowed(row.Name)
		}
		began = now
	}
	w.out.Health = health
	return a
}

// judge draws the conclusions from a row's error; true if no other row is to be read.
func (w *worker) judge(a *answers, i int, states *rowStates, mig bool, err error) (stop bool) {
	row, s := w.Rows[i], &states.of[i]
	switch {
	case isGone(err):
		w.reading.Lost = err
		return true
	case nvml.IsUnsupported(err):
		s.disabled = true
		w.change(Change{Row: row, Err: err, Disabled: true})
		return false
	case mig && nvml.IsNotFound(err):
		return true // the MIG device was destroyed between two calls
	case err != nil:
		a.failed++
		a.last = err
		w.reading.Errors = append(w.reading.Errors, err)
		if !w.Paced {
			s.asked = time.Time{} // it is asked again in the next pass
		}
	}
	if states.failing.ChangedError(row.Name, err) {
		w.change(Change{Row: row, Err: err})
	}
	return false
}

// keep stores the answer of a row for the passes in which it is not asked, with the time at
// which it was read.
func (w *worker) keep(row *table.Row, s *rowState, before int, now time.Time) {
	at := w.out.At
	if at.IsZero() {
		at = now
	}
	s.asked = w.out.Now
	fresh := w.out.Samples[before:]
	for i := range fresh {
		if fresh[i].At == 0 {
			fresh[i].At = at.UnixNano()
		}
	}
	if w.Paced || row.Every > 0 || s.slow.last {
		s.samples, s.health = append(s.samples[:0], fresh...), w.out.Health
	}
}

// repeat adds a row's last answer.
func (w *worker) repeat(s *rowState) {
	for i := range s.samples {
		sample := s.samples[i]
		sample.Repeated = true
		if w.out.Instance != nil {
			sample.On = w.out.Instance.Identity
		}
		w.out.Samples = append(w.out.Samples, sample)
	}
}

// slowed says that a kind of call is asked half as often.
func (w *worker) slowed(family string) { w.slow = append(w.slow, family) }
