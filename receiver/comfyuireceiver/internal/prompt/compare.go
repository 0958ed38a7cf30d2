// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Remove records a client's request to remove prompts from the queue, before it is sent to the
// server: a comparison with the queue may come between the removal and its answer. It returns
// those that it concerns, for Retain.
func (t *Tracker) Remove(r protocol.Removal) (removed []*Prompt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	remove := func(p *Prompt) {
		if p != nil && p.Started.IsZero() && !p.cancelled {
			p.cancelled = true
			removed = append(removed, p)
		}
	}
	if r.Clear {
		for _, p := range t.open {
			remove(p)
		}
	}
	for _, id := range r.Delete {
		remove(t.open[id])
	}
	return removed
}

// Retain takes back a removal that the server has refused.
func (t *Tracker) Retain(removed []*Prompt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range removed {
		p.cancelled = false
	}
}

// Suspect records that the server may have restarted without its queue: of the prompts
// that are open now, those that it no longer knows are lost.
func (t *Tracker) Suspect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		for ; p != nil; p = p.next {
			p.suspect = true
		}
	}
}

// Listener reports for which client ids messages of the server are received.
type Listener interface{ HasSocket(clientID string) bool }

// Open lists the known prompts that the server must be asked about: no message has
// mentioned them since a time, or none will. A nil listener receives no messages.
func (t *Tracker) Open(quietSince time.Time, l Listener) (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.open {
		heard := p.Covered() && p.seen.After(quietSince) && !p.cancelled && !p.suspect
		if p.known && (!heard || l == nil || !l.HasSocket(p.Submission.ClientID)) {
			ids = append(ids, id)
		}
	}
	return ids
}

// Among lists those of the ids that are open.
func (t *Tracker) Among(ids []string) (open []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		if p := t.open[id]; p != nil && p.known {
			open = append(open, id)
		}
	}
	return open
}

// ClientOf is the client id of an open prompt; empty if it is unknown.
func (t *Tracker) ClientOf(id string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.open[id]; p != nil {
		return p.Submission.ClientID
	}
	return ""
}

// OpenCount counts the prompts that are followed.
func (t *Tracker) OpenCount() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// Busy reports whether a prompt is open, or a request for one has no answer yet.
func (t *Tracker) Busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count > 0 || t.inFlight > 0
}

// OpenOf counts the open prompts of a client id.
func (t *Tracker) OpenOf(clientID string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ofClient[clientID]
}

// Settled ends a prompt by its entry in the server's history. Times are the server's.
func (t *Tracker) Settled(now time.Time, f *protocol.Finished) {
	t.end(f.PromptID, func(p *Prompt) { p.settleBy(f, now) })
}

// Missing ends a prompt that is neither in the server's queue nor in its history. A
// prompt that had not started is taken to be removed from the queue, unless the server may
// have restarted.
func (t *Tracker) Missing(now time.Time, id string) {
	t.end(id, func(p *Prompt) {
		if !p.cancelled && (p.suspect || !p.Started.IsZero()) {
			p.end(Lost, now)
		} else {
			p.end(Cancelled, now)
		}
	})
}

// maxFailures is how often a prompt's entry of the history is read before the prompt is
// given up.
const maxFailures = 5

// Unreadable records that a prompt's entry of the history could not be read, while the
// server answered. After a few times the prompt ends as lost.
func (t *Tracker) Unreadable(now time.Time, id string) {
	t.mu.Lock()
	p := t.open[id]
	if p != nil {
		p.failures++
	}
	givenUp := p != nil && p.failures >= maxFailures
	t.mu.Unlock()
	if givenUp {
		t.end(id, func(p *Prompt) {
			p.Failure.Message = "ComfyUI's history of the prompt cannot be read"
			p.end(Lost, now)
		})
	}
}

// end ends a prompt that is known and open.
func (t *Tracker) end(id string, apply func(*Prompt)) {
	t.mu.Lock()
	p := t.open[id]
	if p == nil || !p.known || p.Outcome != "" {
		t.mu.Unlock()
		return
	}
	apply(p)
	t.unlock(p)
}

// Expire drops messages about prompts that were not submitted here.
func (t *Tracker) Expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.open {
		if !p.known && now.Sub(p.seen) > t.limits.Early {
			delete(t.open, id)
			t.count--
			t.bytes -= p.size
		}
	}
}

// Shutdown stops following all prompts. It returns those that are open, as unfinished.
func (t *Tracker) Shutdown(now time.Time) (all []*Prompt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.open {
		for ; p != nil; p = p.next {
			if p.known {
				t.closed(p)
				p.end(Unfinished, now)
				p.settle()
				all = append(all, p)
			} else {
				t.count--
				t.bytes -= p.size
			}
		}
		delete(t.open, id)
		t.finished.Add(id)
	}
	for _, p := range t.unanswered {
		p.end(Unfinished, now)
		p.settle()
		all = append(all, p)
	}
	t.unanswered = nil
	return all
}
