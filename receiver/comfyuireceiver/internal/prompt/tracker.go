// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// Limits bound what a tracker holds.
type Limits struct {
	// Open is how many prompts are followed at a time. Prompts beyond it run as usual and
	// are not followed.
	Open int
	// Early is how long messages are kept about prompts that were not submitted here.
	Early time.Duration
}

// Observer receives what a tracker finds out. Its methods are called from the goroutine
// of the call that caused them, with no lock held, and must not block.
type Observer interface {
	// PromptEnded is called once for each prompt, in the order of their ends.
	PromptEnded(*Prompt)
	// ExecutionStarted is called once for each prompt whose execution starts, unless it
	// ends at the same time.
	ExecutionStarted(Execution)
	// PromptUnfollowed is called for each prompt beyond Limits.Open.
	PromptUnfollowed()
}

// Execution is the start of a prompt's execution.
type Execution struct {
	ID      string
	Context trace.SpanContext // of the execution's span
	Start   time.Time
}

// Request is a request for a prompt.
type Request struct {
	Submission protocol.Submission
	// Path and Client, an address, are empty if the prompt was discovered.
	Path, Client string
	// Parent is the caller's span, if it sent one.
	Parent trace.SpanContext
}

// Discovery is a prompt that was found in the queue, the history or the storage.
type Discovery struct {
	Request  // with the submission's PromptID
	Received time.Time
	// Context is the root span's context if it is known.
	Context trace.SpanContext
}

// Tracker follows all open prompts of one server. Its methods may be called from
// any goroutine.
type Tracker struct {
	limits   Limits
	sizer    *sizing.Sizer
	observer Observer

	// version changes with the set of open prompts.
	version atomic.Uint64

	// mu guards everything declared below.
	mu       sync.Mutex
	open     map[string]*Prompt
	inFlight int // requests without an answer
	finished *Recent
}

// maxFinished bounds the ids of ended prompts that are remembered, so that delayed
// messages do not open them again.
const maxFinished = 16384

// NewTracker makes a tracker.
func NewTracker(limits Limits, sizer *sizing.Sizer, observer Observer) *Tracker {
	return &Tracker{limits: limits, sizer: sizer, observer: observer, open: map[string]*Prompt{}, finished: NewRecent(maxFinished)}
}

// Submit records a request before it is sent to the server, since messages about the
// prompt may arrive before the answer. Each Submit must be followed by one Answer.
func (t *Tracker) Submit(now time.Time, r Request) *Prompt {
	t.mu.Lock()
	t.inFlight++
	t.mu.Unlock()
	p := &Prompt{Request: r, Received: now, Context: newContext(r.Parent), Execution: NewSpanID()}
	p.Sizing = t.sizer.Of(&p.Submission)
	return p
}

// Answer records the server's answer to a request; the status is 502 if there was none.
func (t *Tracker) Answer(p *Prompt, now time.Time, status int, a protocol.Answer) {
	p.HTTPStatus, p.Answer, p.Answered = status, a, now
	p.ID = a.PromptID
	t.mu.Lock()
	t.inFlight--
	if status >= 300 || p.ID == "" {
		t.mu.Unlock()
		p.Outcome, p.Ended = Rejected, now
		if status >= 500 || status == 0 {
			// the server failed, or could not be reached
			p.Outcome = Error
		}
		p.Failure = a.Error
		t.ended(p)
		return
	}
	early := t.open[p.ID]
	switch {
	case early == nil && len(t.open) >= t.limits.Open:
		t.mu.Unlock()
		t.observer.PromptUnfollowed()
		return
	case early != nil && early.known: // the caller chose an id that is already open
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
	t.unlock(p)
}

// Message applies a message of the server.
func (t *Tracker) Message(now time.Time, m *protocol.Message) {
	if m.PromptID == "" {
		return
	}
	t.mu.Lock()
	p := t.open[m.PromptID]
	if p == nil {
		if t.finished.Has(m.PromptID) || t.inFlight == 0 || len(t.open) >= t.limits.Open {
			t.mu.Unlock()
			return
		}
		p = &Prompt{ID: m.PromptID}
		t.open[p.ID] = p
	}
	if p.Outcome == "" {
		p.observe(m, now)
	}
	t.unlock(p)
}

// unlock releases the lock after a change of a prompt, and reports what has changed.
func (t *Tracker) unlock(p *Prompt) {
	starts := p.known && !p.announced && !p.Started.IsZero() && p.Outcome == ""
	p.announced = p.announced || starts
	started := Execution{ID: p.ID, Context: p.Context.WithSpanID(p.Execution), Start: p.Started}
	ends := t.close(p)
	t.mu.Unlock()
	if starts {
		t.observer.ExecutionStarted(started)
	}
	if ends {
		t.ended(p)
	}
}

func (t *Tracker) ended(p *Prompt) {
	p.settle()
	t.observer.PromptEnded(p)
}

// close removes a prompt that is known and has an outcome. The caller holds the lock.
func (t *Tracker) close(p *Prompt) bool {
	if !p.known || p.Outcome == "" || t.open[p.ID] != p {
		return false
	}
	t.version.Add(1)
	if p.next != nil {
		t.open[p.ID] = p.next
	} else {
		delete(t.open, p.ID)
		t.finished.Add(p.ID)
	}
	return true
}

// Recover begins to follow a prompt that was discovered, unless it is known.
func (t *Tracker) Recover(now time.Time, d Discovery) {
	t.mu.Lock()
	defer t.mu.Unlock()
	id := d.Submission.PromptID
	if t.open[id] != nil || t.finished.Has(id) || len(t.open) >= t.limits.Open {
		return
	}
	if !d.Context.IsValid() {
		d.Context = newContext(d.Parent)
	}
	t.version.Add(1)
	t.open[id] = &Prompt{
		ID: id, Request: d.Request, Sizing: t.sizer.Of(&d.Submission), Received: d.Received, Answered: d.Received,
		Context: d.Context, Execution: NewSpanID(), Recovered: true, known: true, seen: now,
	}
}

// Remove records a client's request to remove prompts from the queue.
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

// Open lists the known prompts that the server must be asked about: no message has
// mentioned them since a time, or none will.
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

// Save returns all open prompts, to be stored.
func (t *Tracker) Save() (all []Saved) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		if p.known {
			all = append(all, saved(p))
		}
	}
	return all
}

// Settled ends a prompt by its entry in the server's history. Times are the server's.
func (t *Tracker) Settled(now time.Time, f *protocol.Finished) {
	t.end(f.PromptID, func(p *Prompt) { p.settleBy(f, now) })
}

// Missing ends a prompt that is neither in the server's queue nor in its history. A
// prompt that had not started is taken to be removed from the queue, unless the server
// was unreachable in between.
func (t *Tracker) Missing(now time.Time, id string, wasUnreachable bool) {
	t.end(id, func(p *Prompt) {
		if !p.cancelled && (wasUnreachable || !p.Started.IsZero()) {
			p.end(Lost, now)
		} else {
			p.end(Cancelled, now)
		}
	})
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
		t.finished.Add(id)
	}
	t.version.Add(1)
	t.mu.Unlock()
	for _, p := range all {
		t.ended(p)
	}
}
