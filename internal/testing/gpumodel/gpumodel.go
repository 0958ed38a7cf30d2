// SPDX-License-Identifier: Apache-2.0

// Package gpumodel models what a GPU's energy counter and power readings show of the power
// that it draws: in virtual time. Real counters step, lag, sample a part of the time and
// are off by a gain; power readings have an age or are averages.
package gpumodel

import "time"

// Source is the power that a GPU draws.
type Source interface {
	// Joules is the energy drawn from the begin to a time, in J.
	Joules(at int64) float64
}

// Counter is the kind of an energy counter.
type Counter struct {
	// Absent is true on GPUs without a counter: before Volta, and on vGPU.
	Absent bool `yaml:"absent"`
	// Period is the time between two steps; 0 is a continuous counter.
	Period time.Duration `yaml:"period"`
	// Lag is how long after its time a step can be seen.
	Lag time.Duration `yaml:"lag"`
	// Share is the part of each period in which the power is sampled; 0 is all of it.
	Share float64 `yaml:"share"`
	// Gain is the counter divided by the truth; 0 is 1.
	Gain float64 `yaml:"gain"`
}

// Power is the kind of a GPU's power readings.
type Power struct {
	// NoInstant is true on GPUs without an instant reading, NoAverage without an average.
	NoInstant bool `yaml:"no_instant"`
	NoAverage bool `yaml:"no_average"`
	// Period is the time between two instant readings; 0 is a reading of each moment.
	Period time.Duration `yaml:"period"`
	// Window is over what time the average is; 0 is 1 s.
	Window time.Duration `yaml:"window"`
	// Whole is true if the average is that of the last whole window until the next.
	Whole bool `yaml:"whole"`
}

// Model is what one kind of GPU shows.
type Model struct {
	// Origin is what the kind is known from.
	Origin string `yaml:"origin"`
	// Name is hw.model, of GPUs whose class the product knows.
	Name    string  `yaml:"model"`
	Counter Counter `yaml:"counter"`
	Power   Power   `yaml:"power"`
	// Assumed names the values that nobody published.
	Assumed []string `yaml:"assumed"`
}

// Meter reads one GPU in virtual time; its times only go forward.
type Meter struct {
	Model
	source Source
	phase  int64 // of the counter's steps and of the power's
	step   int64 // the last step that was counted
	begun  bool
	joules float64 // up to it
}

// NewMeter returns a meter; phase is when the first step lies.
func NewMeter(m Model, source Source, phase time.Duration) *Meter {
	return &Meter{Model: m, source: source, phase: phase.Nanoseconds()}
}

// floor is the last multiple of a period, from a phase on, that is not after a time.
func floor(at, phase, period int64) int64 {
	n := (at - phase) / period
	if (at-phase)%period < 0 {
		n--
	}
	return phase + n*period
}

func orOne(v float64) float64 {
	if v == 0 {
		return 1
	}
	return v
}

// Energy is the counter at a time, in J.
func (m *Meter) Energy(at int64) (joules float64, ok bool) {
	c := &m.Counter
	if c.Absent {
		return 0, false
	}
	at -= c.Lag.Nanoseconds()
	gain := orOne(c.Gain)
	period := c.Period.Nanoseconds()
	if period == 0 {
		return gain * m.source.Joules(at), true
	}
	step := floor(at, m.phase, period)
	if share := orOne(c.Share); share < 1 {
		if !m.begun {
			m.begun, m.step, m.joules = true, step, m.source.Joules(step)
		}
		sampled := int64(share * float64(period))
		for ; m.step < step; m.step += period { // what was drawn in the sampled part counts for all
			end := m.step + period
			m.joules += (m.source.Joules(end) - m.source.Joules(end-sampled)) / share
		}
		return gain * m.joules, true
	}
	return gain * m.source.Joules(step), true
}

// instant is the shortest time over which power is read.
const instant = int64(time.Millisecond)

// Instant is the instant power at a time, in W.
func (m *Meter) Instant(at int64) (watts float64, ok bool) {
	if m.Power.NoInstant {
		return 0, false
	}
	if period := m.Power.Period.Nanoseconds(); period > 0 {
		at = floor(at, m.phase/2, period)
	}
	return m.mean(at-instant, at), true
}

// Average is the average power at a time, in W.
func (m *Meter) Average(at int64) (watts float64, ok bool) {
	if m.Power.NoAverage {
		return 0, false
	}
	window := m.Power.Window
	if window == 0 {
		window = time.Second
	}
	if m.Power.Whole {
		at = floor(at, m.phase, window.Nanoseconds())
	}
	return m.mean(at-window.Nanoseconds(), at), true
}

func (m *Meter) mean(from, to int64) float64 {
	return (m.source.Joules(to) - m.source.Joules(from)) / (float64(to-from) / 1e9)
}
