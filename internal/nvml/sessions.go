// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"fmt"
	"sync"

	"go.uber.org/zap"
)

// Sessions shares one session between all components of a process that name the
// same library. A process can hold one NVML library only, so another path is an
// error.
type Sessions struct {
	mu      sync.Mutex
	path    string // as configured
	lib     *Library
	session *Session
	users   int
	timing  Timing
	// votes are those of the present users, replaced when the last one leaves.
	votes *sleepVotes
}

// NewSessions returns an empty set; zero timing means the defaults.
func NewSessions(timing Timing) *Sessions { return &Sessions{timing: timing, votes: &sleepVotes{}} }

// AllowSleep says, before Acquire, whether the session may be closed while no GPU has a
// process, so that they sleep. It stays open if any user says that it may not.
func (s *Sessions) AllowSleep(allowed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if allowed {
		s.votes.may.Store(true)
	} else {
		s.votes.mustNot.Store(true)
	}
}

// OfProcess are the sessions of this process, for all of its components: there is
// one NVML library in a process, and one worker for each GPU.
var OfProcess = sync.OnceValue(func() *Sessions { return NewSessions(Timing{}) })

// Acquire returns the session of the library at path (empty: [DefaultPath]),
// started if need be. Call [Sessions.Release] once for each Acquire.
func (s *Sessions) Acquire(path string, log *zap.Logger) (*Session, error) {
	if path == "" {
		path = DefaultPath
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lib != nil && s.path != path {
		return nil, fmt.Errorf(
			"library_path: %q is not %q, which this process uses already; set the same library_path for all nvml and comfyui receivers: a process can load one NVML library only",
			path,
			s.path,
		)
	}
	if s.lib == nil {
		s.lib, s.path = newLibrary(path, s.timing.orDefaults().Now), path
	}
	if s.session == nil {
		s.session = newSession(s.lib, s.timing, log, s.votes)
	}
	s.users++
	return s.session, nil
}

// Release gives a session back; the last one to do so ends it. It waits for
// running calls for a second at most: a call that hangs in the driver cannot be
// cancelled and is left behind.
func (s *Sessions) Release(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if s.users > 0 || s.session == nil {
		return
	}
	s.session.close(ctx)
	s.session, s.votes = nil, &sleepVotes{}
}
