// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// Limits bound what a tracker holds. Prompts beyond them run as usual and are not followed.
type Limits struct {
	// Open is how many prompts are followed at a time, those without an answer included.
	Open int
	// Bytes is about how much memory what is known of them may take.
	Bytes int
	// Nodes is how many runs of nodes are followed of a prompt.
	Nodes int
	// Early is how long messages are kept about prompts that were not submitted here.
	Early time.Duration
}

// Why a prompt is not followed.
const (
	// LimitReached: more prompts are open than Limits allows.
	LimitReached = "limit"
	// NoID: the server accepted the prompt and its answer has no id that can be read.
	NoID = "no_id"
	// LongID: an id is longer than [protocol.MaxID].
	LongID = "long_id"
)

// Observer receives what a tracker finds out. Its methods are called from the goroutine
// of the call that caused them, with no lock held.
type Observer interface {
	// PromptEnded is called once for each prompt, in the order of their ends. It must not
	// block.
	PromptEnded(*Prompt)
	// ExecutionStarted is called once for each prompt whose execution starts, unless it
	// ends at the same time. It must not block.
	ExecutionStarted(Execution)
	// ExecutionMoved is called when a prompt whose start was reported runs elsewhere from a
	// time on, the Start, because all its nodes that run are API nodes, and when it is back. It
	// must not block.
	ExecutionMoved(x Execution, elsewhere bool)
	// RunsElsewhere reports whether nodes of a class use no GPU of the server. It is called
	// with the tracker's lock held, and must not call the tracker.
	RunsElsewhere(class string) bool
	// PromptUnfollowed is called for each prompt that is not followed, with the reason. The
	// prompt is nil if it was not followed from the beginning.
	PromptUnfollowed(p *Prompt, reason string)
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
	// Admission is what the receiver's advisor said of it; nil if there is none.
	Admission *Admission
	// Input is what was found about its images; nil if they are not checked.
	Input *Input
}

// Tracker follows all open prompts of one server. Its methods may be called from
// any goroutine.
type Tracker struct {
	limits   Limits
	sizer    *sizing.Sizer
	observer Observer

	// mu guards everything declared below.
	mu   sync.Mutex
	open map[string]*Prompt
	// ofClient counts the known open prompts by client id.
	ofClient map[string]int
	count    int // open prompts, those sent again under the same id included
	bytes    int
	started  int // prompts whose execution has started
	executed int // those of them whose execution has ended
	inFlight int // requests without an answer
	// inFlightOf counts them by what identifies a prompt before it has an id.
	inFlightOf map[content]int
	// unanswered are the requests that were given up at shutdown.
	unanswered []*Prompt
	finished   *Recent
}

// content identifies a prompt before it has an id.
type content struct {
	clientID string
	hash     uint64
}

func contentOfPrompt(p *Prompt) content { return content{p.Submission.ClientID, p.Submission.Content} }

// maxFinished bounds the ids of ended prompts that are remembered, so that delayed
// messages do not open them again.
const maxFinished = 16384

// NewTracker makes a tracker.
func NewTracker(limits Limits, sizer *sizing.Sizer, observer Observer) *Tracker {
	return &Tracker{
		limits: limits, sizer: sizer, observer: observer,
		open: map[string]*Prompt{}, ofClient: map[string]int{}, inFlightOf: map[content]int{}, finished: NewRecent(maxFinished),
	}
}

// Submit records a request before it is sent to the server, since messages about the
// prompt may arrive before the answer. It returns nil if the prompt is not followed; else
// one Answer must follow.
func (t *Tracker) Submit(now time.Time, r Request) *Prompt {
	p := &Prompt{Request: r, Received: now, Context: newContext(r.Parent), maxNodes: t.limits.Nodes}
	reason := ""
	if r.Submission.HasLongID() {
		reason = LongID
	}
	p.Sizing = t.sizer.Of(&p.Submission)
	p.size = p.Submission.Size()
	t.mu.Lock()
	if reason == "" && !t.fits(p.size) {
		reason = LimitReached
	}
	if reason == "" {
		t.inFlight++
		t.inFlightOf[contentOfPrompt(p)]++
		t.bytes += p.size
	}
	t.mu.Unlock()
	if reason != "" {
		t.observer.PromptUnfollowed(nil, reason)
		return nil
	}
	return p
}

// Sizing is what a submission costs.
func (t *Tracker) Sizing(sub *protocol.Submission) sizing.Sizing { return t.sizer.Of(sub) }

func (t *Tracker) fits(size int) bool {
	return t.count+t.inFlight < t.limits.Open && t.bytes+size <= t.limits.Bytes
}

// Answer records the server's answer to a request; the status is 502 if there was none.
func (t *Tracker) Answer(p *Prompt, now time.Time, status int, a protocol.Answer) {
	p.HTTPStatus, p.Answer, p.Answered = status, a, now
	p.ID = a.PromptID
	t.mu.Lock()
	t.landed(p)
	if status < 300 && p.ID != "" && len(p.ID) <= protocol.MaxID {
		t.accept(p, now)
		return
	}
	t.bytes -= p.size
	t.mu.Unlock()
	switch {
	case p.Admission.Refuses():
		p.end(Refused, now)
	case len(p.ID) > protocol.MaxID:
		t.observer.PromptUnfollowed(p, LongID)
		return
	case status < 300:
		t.observer.PromptUnfollowed(p, NoID)
		return
	case status >= 500 || status == 0:
		// the server failed, or could not be reached
		p.end(Error, now)
	default:
		p.end(Rejected, now)
	}
	p.Failure = a.Error
	t.ended(p)
}

// landed records that a request is no longer in flight. The caller holds the lock.
func (t *Tracker) landed(p *Prompt) {
	t.inFlight--
	key := contentOfPrompt(p)
	if t.inFlightOf[key]--; t.inFlightOf[key] <= 0 {
		delete(t.inFlightOf, key)
	}
}

// Unanswered takes the place of Answer for a request that is given up because the receiver
// shuts down.
func (t *Tracker) Unanswered(p *Prompt) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.landed(p)
	t.bytes -= p.size
	t.unanswered = append(t.unanswered, p)
}

// accept opens a prompt. It releases the lock, which the caller holds.
func (t *Tracker) accept(p *Prompt, now time.Time) {
	p.known, p.seen = true, now
	early := t.open[p.ID]
	switch {
	case early != nil && early.known: // the caller chose an id that is already open
		t.chain(early, p)
		t.opened(p)
		t.mu.Unlock()
		return
	case early != nil: // messages came before the answer
		t.count--
		p.size += early.size
		p.Started, p.Ended, p.Cached, p.Nodes, p.byID, p.isCached = early.Started, early.Ended, early.Cached, early.Nodes, early.byID, early.isCached
		p.Outputs, p.Outcome, p.Failure, p.states, p.Omitted = early.Outputs, early.Outcome, early.Failure, early.states, early.Omitted
		p.progressed = early.progressed
	}
	t.open[p.ID] = p
	t.opened(p)
	t.unlock(p)
}

// chain adds a prompt whose id is open already. It is followed once those before it have ended.
func (t *Tracker) chain(head, p *Prompt) {
	if head.last == nil {
		head.last = head
	}
	head.last.next = p
	head.last = p
}

// opened counts a known prompt that was opened, closed one that is no longer open.
func (t *Tracker) opened(p *Prompt) {
	p.executedBefore = t.executed
	t.count++
	t.ofClient[p.Submission.ClientID]++
	t.startedNow(p)
}

func (t *Tracker) closed(p *Prompt) {
	t.count--
	t.bytes -= p.size
	id := p.Submission.ClientID
	if t.ofClient[id]--; t.ofClient[id] <= 0 {
		delete(t.ofClient, id)
	}
}

// runSize is about how much memory a node's run takes, in bytes.
const runSize = 256

// Message applies a message of the server.
func (t *Tracker) Message(now time.Time, m *protocol.Message) {
	if m.PromptID == "" || len(m.PromptID) > protocol.MaxID {
		return
	}
	t.mu.Lock()
	p := t.open[m.PromptID]
	if p == nil {
		if t.finished.Has(m.PromptID) || t.inFlight == 0 || t.count >= t.limits.Open {
			t.mu.Unlock()
			return
		}
		p = &Prompt{ID: m.PromptID, maxNodes: t.limits.Nodes}
		t.open[p.ID] = p
		t.count++
	}
	if p.Outcome == "" {
		before := len(p.Nodes)
		// no more than there is room for in all
		p.maxNodes = min(t.limits.Nodes, before+max(t.limits.Bytes-t.bytes, 0)/runSize)
		p.observe(m, now)
		grown := (len(p.Nodes) - before) * runSize
		p.size += grown
		t.bytes += grown
	}
	t.unlock(p)
}

// close removes a prompt that is known and has an outcome. The caller holds the lock.
func (t *Tracker) close(p *Prompt) bool {
	if !p.known || p.Outcome == "" || t.open[p.ID] != p {
		return false
	}
	t.closed(p)
	if p.counted {
		t.executed++
	}
	if p.next != nil {
		t.open[p.ID] = p.next
		if p.last != p.next {
			p.next.last = p.last
		}
	} else {
		delete(t.open, p.ID)
		t.finished.Add(p.ID)
	}
	return true
}

// Has reports whether a prompt is open or has ended, by its id. It implements
// [protocol.Known].
func (t *Tracker) Has(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[id]
	return p != nil && p.known || t.finished.Has(id)
}

// Recover begins to follow a prompt that was found in the queue or the history, or was
// stored by another process, unless it is known. It reports whether it does.
func (t *Tracker) Recover(now time.Time, p *Prompt) bool {
	p.Recovered, p.known, p.seen, p.maxNodes = true, true, now, t.limits.Nodes
	if p.Sizing == (sizing.Sizing{}) {
		p.Sizing = t.sizer.Of(&p.Submission)
	}
	p.size = p.Submission.Size()
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recover(p)
}

// Restore follows a prompt that an earlier process has accepted and stored. The limits do not
// apply: it was within them, and what is stored is bounded.
func (t *Tracker) Restore(now time.Time, p *Prompt) {
	p.Recovered, p.known, p.seen, p.maxNodes, p.size = true, true, now, t.limits.Nodes, p.Submission.Size()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes += p.size
	if head := t.open[p.ID]; head != nil { // the caller chose an id that is already open
		t.chain(head, p)
	} else {
		t.open[p.ID] = p
	}
	t.opened(p)
}

// Finished records prompts that have ended in an earlier process.
func (t *Tracker) Finished(ids []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range ids {
		t.finished.Add(id)
	}
}

// IsOpen reports whether a prompt is open.
func (t *Tracker) IsOpen(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[id]
	return p != nil && p.known
}

// RecoverUnanswered is Recover for a prompt whose answer was not seen, and which may be the
// server's prompt with the given id. It is not one that is in flight now.
func (t *Tracker) RecoverUnanswered(now time.Time, p *Prompt, id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inFlightOf[contentOfPrompt(p)] > 0 {
		return false
	}
	before := p.ID
	p.ID, p.Answer.PromptID, p.Found = id, id, true
	p.Recovered, p.known, p.seen, p.maxNodes, p.size = true, true, now, t.limits.Nodes, p.Submission.Size()
	if !t.recover(p) {
		p.ID, p.Answer.PromptID, p.Found = before, before, false
		return false
	}
	return true
}

// recover opens a prompt unless it is known. The caller holds the lock.
func (t *Tracker) recover(p *Prompt) bool {
	if t.open[p.ID] != nil || t.finished.Has(p.ID) || p.ID == "" || !t.fits(p.size) {
		return false
	}
	t.bytes += p.size
	t.open[p.ID] = p
	t.opened(p)
	return true
}
