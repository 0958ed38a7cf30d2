// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Limits bound what a tracker holds.
type Limits struct {
	// Open bounds the prompts that are followed at a time. Beyond, prompts are made
	// as ever and not followed.
	Open int
	// Early is how long messages about a prompt that nobody submitted here are kept.
	Early time.Duration
}

// Tracker follows all open prompts of one server. Its methods may be called from
// any goroutine.
type Tracker struct {
	limits  Limits
	ended   func(*Prompt)
	dropped func() // a prompt is not followed, because Open are
	// Began is told of each prompt whose execution begins, if set; with no lock held.
	Began func(Begun)

	// version changes with the set of open prompts.
	version atomic.Uint64

	mu       sync.Mutex
	open     map[string]*Prompt
	inFlight int // requests that have no answer yet
	finished *recent
}

// mostFinished bounds the ids of prompts that have ended lately, whose late
// messages must not begin them again.
const maxFinished = 16384

// NewTracker makes a tracker. ended is called once for each prompt, in order of
// their ends, without any lock held.
func NewTracker(limits Limits, ended func(*Prompt), dropped func()) *Tracker {
	return &Tracker{limits: limits, ended: ended, dropped: dropped, open: map[string]*Prompt{}, finished: newRecent(maxFinished)}
}

// Submit notes a request for a prompt before it goes to the server, since
// messages about it may come before the answer.
func (t *Tracker) Submit(now time.Time, s protocol.Submission, path, client string, parent trace.SpanContext) *Prompt {
	t.mu.Lock()
	t.inFlight++
	t.mu.Unlock()
	return &Prompt{Submission: s, Received: now, Path: path, Client: client, Parent: parent, Context: newContext(parent), Execution: NewSpanID()}
}

// Answer notes the server's answer to a request.
func (t *Tracker) Answer(p *Prompt, now time.Time, status int, a protocol.Answer) {
	p.HTTPStatus, p.Answer, p.Answered = status, a, now
	p.ID = a.PromptID
	t.mu.Lock()
	t.inFlight--
	if status >= 300 || p.ID == "" {
		t.mu.Unlock()
		p.Outcome, p.Ended = Rejected, now
		if status >= 500 || status == 0 {
			p.Outcome = Error // the server failed, or could not be reached
		}
		p.Failure = protocol.Error{Type: a.ErrorType, Message: a.ErrorMessage}
		p.settle()
		t.ended(p)
		return
	}
	early := t.open[p.ID]
	switch {
	case early == nil && len(t.open) >= t.limits.Open:
		t.mu.Unlock()
		t.dropped()
		return
	case early != nil && early.known: // the caller chose an id that is open already
		for early.next != nil {
			early = early.next
		}
		p.known, p.seen = true, now
		early.next = p
		t.mu.Unlock()
		return
	case early != nil: // messages came before the answer
		p.Started, p.Ended, p.Cached, p.Nodes, p.byID = early.Started, early.Ended, early.Cached, early.Nodes, early.byID
		p.Outputs, p.Outcome, p.Failure, p.states = early.Outputs, early.Outcome, early.Failure, early.states
	}
	p.known, p.seen = true, now
	t.open[p.ID] = p
	t.version.Add(1)
	done, begun := t.close(p), t.begun(p)
	t.mu.Unlock()
	t.announce(begun)
	t.deliver(done)
}

// Message notes a message of the server.
func (t *Tracker) Message(now time.Time, m *protocol.Message) {
	if m.PromptID == "" {
		return
	}
	t.mu.Lock()
	p := t.open[m.PromptID]
	if p == nil {
		if t.finished.has(m.PromptID) || t.inFlight == 0 || len(t.open) >= t.limits.Open {
			t.mu.Unlock()
			return
		}
		p = &Prompt{ID: m.PromptID}
		t.open[p.ID] = p
	}
	if p.Outcome == "" {
		p.observe(m, now)
	}
	done, begun := t.close(p), t.begun(p)
	t.mu.Unlock()
	t.announce(begun)
	t.deliver(done)
}

// Begun is the beginning of a prompt's execution.
type Begun struct {
	ID        string
	Context   trace.SpanContext // of the root
	Execution trace.SpanID
	At        time.Time
}

// begun is the beginning of a prompt's execution, once. The caller holds the lock.
func (t *Tracker) begun(p *Prompt) *Begun {
	if t.Began == nil || p.announced || !p.known || p.Started.IsZero() || p.Outcome != "" {
		return nil
	}
	p.announced = true
	return &Begun{ID: p.ID, Context: p.Context, Execution: p.Execution, At: p.Started}
}

func (t *Tracker) announce(b *Begun) {
	if b != nil {
		t.Began(*b)
	}
}

// close takes a prompt out that is known and has an outcome. The caller holds the lock.
func (t *Tracker) close(p *Prompt) *Prompt {
	if !p.known || p.Outcome == "" || t.open[p.ID] != p {
		return nil
	}
	t.version.Add(1)
	if p.next != nil {
		t.open[p.ID] = p.next
	} else {
		delete(t.open, p.ID)
		t.finished.add(p.ID)
	}
	return p
}

func (t *Tracker) deliver(p *Prompt) {
	if p != nil {
		p.settle()
		t.ended(p)
	}
}

// Recover takes up a prompt that was found in the queue, unless it is known.
func (t *Tracker) Recover(now time.Time, id string, s protocol.Submission, received time.Time, context, parent trace.SpanContext) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open[id] != nil || t.finished.has(id) || len(t.open) >= t.limits.Open {
		return
	}
	if !context.IsValid() {
		context = newContext(parent)
	}
	t.version.Add(1)
	t.open[id] = &Prompt{ID: id, Submission: s, Received: received, Answered: received, Context: context, Parent: parent, Execution: NewSpanID(), Recovered: true, known: true, seen: now}
}

// Remove notes that clients asked to take prompts out of the queue.
func (t *Tracker) Remove(r protocol.Removal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if r.Clear {
		for _, p := range t.open {
			p.cancelled = p.cancelled || p.Started.IsZero()
		}
	}
	for _, id := range r.Delete {
		if p := t.open[id]; p != nil && p.Started.IsZero() {
			p.cancelled = true
		}
	}
}

// Open lists the ids of known prompts that nothing was heard of since before a time.
func (t *Tracker) Open(quietSince time.Time) (ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.open {
		if p.known && (!p.seen.After(quietSince) || !p.Covered() || p.cancelled) {
			ids = append(ids, id)
		}
	}
	return ids
}

// OpenCount counts the prompts that are followed.
func (t *Tracker) OpenCount() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.open)
}

// OpenOf counts the open prompts of a client id.
func (t *Tracker) OpenOf(clientID string) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		if p.Submission.ClientID == clientID && p.Outcome == "" {
			n++
		}
	}
	return n
}

// Version changes whenever a prompt is opened or ends.
func (t *Tracker) Version() uint64 { return t.version.Load() }

// Known lists all open prompts, for keeping.
func (t *Tracker) Known() (all []Saved) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		if p.known {
			all = append(all, keep(p))
		}
	}
	return all
}

// Settled notes what the server's history says of a prompt. Times are the server's.
func (t *Tracker) Settled(now time.Time, f *protocol.Finished) {
	t.mu.Lock()
	p := t.open[f.ID]
	if p == nil || !p.known || p.Outcome != "" {
		t.mu.Unlock()
		return
	}
	if start := f.Start(); !start.IsZero() && (p.Started.IsZero() || !p.Covered()) {
		p.Started = start
	}
	if p.Cached == nil {
		for _, m := range f.Messages {
			if m.Kind == protocol.ExecutionCached {
				p.Cached = m.Nodes
			}
		}
	}
	if p.Outputs == nil {
		p.Outputs = f.Outputs
	}
	if m, ok := f.End(); ok {
		p.start(now)
		p.observe(&m, now)
	} else {
		outcome := Success
		if f.Status == "error" {
			outcome = Error
		}
		p.start(now)
		p.end(outcome, now)
	}
	done := t.close(p)
	t.mu.Unlock()
	t.deliver(done)
}

// Gone notes that the server knows a prompt no more: it is neither in the queue
// nor in the history. One that had not begun was taken out of the queue, as far
// as anybody can tell, unless the server was away meanwhile.
func (t *Tracker) Missing(now time.Time, id string, serverWasAway bool) {
	t.mu.Lock()
	p := t.open[id]
	if p == nil || !p.known || p.Outcome != "" {
		t.mu.Unlock()
		return
	}
	switch {
	case p.cancelled:
		p.end(Cancelled, now)
	case serverWasAway || !p.Started.IsZero():
		p.end(Lost, now)
	default:
		p.end(Cancelled, now)
	}
	done := t.close(p)
	t.mu.Unlock()
	t.deliver(done)
}

// Expire forgets messages about prompts that nobody submitted here.
func (t *Tracker) Expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, p := range t.open {
		if !p.known && now.Sub(p.seen) > t.limits.Early {
			delete(t.open, id)
		}
	}
}

// Shutdown ends all open prompts as unfinished.
func (t *Tracker) Shutdown(now time.Time) {
	t.mu.Lock()
	var all []*Prompt
	for id, p := range t.open {
		for ; p != nil; p = p.next {
			if p.known {
				p.end(Unfinished, now)
				all = append(all, p)
			}
		}
		delete(t.open, id)
		t.finished.add(id)
	}
	t.version.Add(1)
	t.mu.Unlock()
	for _, p := range all {
		t.deliver(p)
	}
}
