// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"slices"
	"time"
)

// maxUnseen is how long an accepted prompt counts that its server has not shown yet.
const maxUnseen = 30 * time.Second

// forget removes a prompt that has ended before its server has shown it.
func (s *server) forget(id string) {
	if j := s.byID[id]; j != nil && !j.shown {
		s.unseen--
		delete(s.byID, id)
		s.unqueue(j)
	}
}

// unqueue removes a prompt from what waits.
func (s *server) unqueue(j *job) {
	s.queue = slices.DeleteFunc(s.queue, func(o *job) bool { return o == j })
}

// Settle ends a claim; see [admission.Advisor].
func (e *Engine) Settle(claim uint64, id string) {
	if j := e.claims.find(claim); j != nil {
		e.settle(j, id)
	}
}

// settle ends a prompt's claim.
func (e *Engine) settle(j *job, id string) {
	e.claims.end(j)
	s := j.server
	if id == "" || s.byID[id] != nil {
		if known := s.byID[id]; known != nil {
			known.predicted, known.deadline, known.class, known.batch, known.room = j.predicted, j.deadline, j.class, j.batch, j.room
			s.gpu.settled(j, known)
		}
		s.unqueue(j)
		return
	}
	if s.unseen >= maxClaims {
		e.Dropped++
		s.unqueue(j)
		return
	}
	s.unseen++
	j.id = id
	s.byID[id] = j
}

// expire ends claims that nobody settled. They last equally long, so the oldest ends first.
func (e *Engine) expire(now time.Time) {
	for j := e.claims.oldest(); j != nil && now.After(j.expires); j = e.claims.oldest() {
		e.settle(j, "")
	}
}

// Claims is how many are not settled.
func (e *Engine) Claims() int { return len(e.claims.byNumber) }
