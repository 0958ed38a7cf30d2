// SPDX-License-Identifier: Apache-2.0

// Package logonce decides when a condition is worth a log line: when it begins, when
// it changes and when it ends, and not at each attempt between.
package logonce

import "sync"

// maxKeys bounds the conditions that one Tracker tells apart. Beyond it, a new key
// replaces all that are known, so that a condition may be logged twice, and none is
// lost.
const maxKeys = 4096

// Tracker holds the last state of each condition. The zero value is ready for use; it
// may be used from any goroutine.
type Tracker struct {
	mu     sync.Mutex
	states map[string]string // guarded by mu
}

// Changed stores the state of a condition and reports whether it differs from the
// last one. A condition that was never stored has the state "": a problem that never
// began does not end either.
func (t *Tracker) Changed(condition, state string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.states[condition] == state {
		return false
	}
	if state == "" {
		delete(t.states, condition)
		return true
	}
	if t.states == nil || len(t.states) >= maxKeys {
		t.states = map[string]string{}
	}
	t.states[condition] = state
	return true
}

// ChangedError is Changed with the text of an error; nil is the state "".
func (t *Tracker) ChangedError(condition string, err error) bool {
	if err == nil {
		return t.Changed(condition, "")
	}
	return t.Changed(condition, err.Error())
}

// First reports whether a condition was not stored before, for what is logged once.
func (t *Tracker) First(condition string) bool { return t.Changed(condition, "logged") }

// Forget removes a condition, so that it is logged again when it returns.
func (t *Tracker) Forget(condition string) { t.Changed(condition, "") }
