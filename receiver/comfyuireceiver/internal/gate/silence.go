// SPDX-License-Identifier: Apache-2.0

package gate

import (
	"sync"
	"time"
)

// silence keeps prompts from waiting for an advisor that does not answer, each for the whole timeout: after
// a few that have, the advisor is asked about one prompt a second, and the others are admitted at once. The
// first answer ends that. Advisors that fail at once are always asked: they cost no time.
type silence struct {
	// mu guards everything declared below.
	mu sync.Mutex
	// unanswered counts the questions in a row that timed out, next is when the advisor may
	// be asked again once there are too many.
	unanswered int
	next       time.Time
}

const (
	// maxUnanswered is after how many questions an advisor counts as silent, askSilent how often it is
	// asked then.
	maxUnanswered = 5
	askSilent     = time.Second
)

// mayAsk reports whether the advisor is asked about a prompt, which ends with note.
func (s *silence) mayAsk(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unanswered < maxUnanswered {
		return true
	}
	if now.Before(s.next) {
		return false
	}
	s.next = now.Add(askSilent) // those that come meanwhile do not wait with it
	return true
}

// note notes whether a question was answered before it timed out, be it with an error.
func (s *silence) note(answered bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answered {
		s.unanswered = 0
		return
	}
	if s.unanswered++; s.unanswered == maxUnanswered {
		s.next = now.Add(askSilent)
	}
}
