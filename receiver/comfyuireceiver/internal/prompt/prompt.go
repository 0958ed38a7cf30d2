// SPDX-License-Identifier: Apache-2.0

// Package prompt follows ComfyUI's prompts from the request to the end. It is a state
// machine without I/O and without a clock: its inputs are requests, messages and the
// server's history, each with its time; its output is each prompt, once, when it ends.
package prompt

import (
	"maps"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/loading"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
)

// Outcome is how a prompt ended.
type Outcome string

// Every prompt ends in exactly one of these.
const (
	Success     Outcome = "success"
	Error       Outcome = "error"
	Interrupted Outcome = "interrupted"
	// Cancelled prompts were deleted from the queue before they ran.
	Cancelled Outcome = "cancelled"
	// Rejected prompts failed the server's validation.
	Rejected Outcome = "rejected"
	// Refused prompts were refused by the receiver, since its advisor would have them wait or come
	// again.
	Refused Outcome = "refused"
	// Lost prompts are unknown to the server, which restarted or is unreachable.
	Lost Outcome = "lost"
	// Unfinished prompts were open when the receiver shut down.
	Unfinished Outcome = "unfinished"
)

// Node is one run of a node.
type Node struct {
	ID string
	// Run counts the runs of the node: 0, and more in a loop.
	Run int
	// Blocked is true if the node was blocked on purpose (ExecutionBlocker).
	Blocked bool
	// Parent is the node that expanded into this one; Display is the node of the
	// workflow that represents it.
	Parent, Display string
	Start, End      time.Time
	// Steps is the number of steps that the node announced, StepsDone of those done.
	Steps, StepsDone float64
	// Loading is for how long it loaded models.
	Loading loading.Loaded `json:"loading,omitzero"`
	// FirstSteps is for how long it prepared its first step, after a start of the server.
	FirstSteps time.Duration `json:"first_steps,omitempty"`
	// Retried is what of its work ran out of memory and was tried again.
	Retried Retried `json:"retried,omitzero"`

	// steps is when the first and the last of its steps were done.
	steps loading.Steps
}

// Prompt is one prompt. The tracker owns it until it has ended; then it does not change.
type Prompt struct {
	Request
	ID string
	// Context is the root span's.
	Context trace.SpanContext
	Sizing  sizing.Sizing
	// Claimed is the task class that the request named, if it did not count since the prompt was polled.
	Claimed string
	Answer  protocol.Answer
	// HTTPStatus is 0 for a prompt that was found in the queue or the history.
	HTTPStatus int

	Received, Answered, Started, Ended time.Time
	Cached                             []string
	Nodes                              []*Node // in the order of their starts
	Outputs                            map[string]int
	Outcome                            Outcome
	Failure                            protocol.Error
	// Omitted counts messages about runs of nodes that found no room.
	Omitted int
	// Recovered prompts were found in the queue or the history; their nodes are unknown.
	Recovered bool

	// Found prompts had no answer that was seen, and were found at the server.
	Found bool
	// undated prompts were discovered before it was known when the server accepted them.
	undated bool
	// Ahead is how many executions of prompts that are followed ended while it waited: it is set
	// when its own is known to have started. Of a recovered prompt it is not known.
	Ahead int
	// Loading is for how long its nodes loaded models.
	Loading loading.Loaded
	// FirstSteps is for how long its nodes prepared their first steps, in the first execution of
	// a server that has started.
	FirstSteps time.Duration
	// Retried is what of its nodes' work ran out of memory and was tried again.
	Retried Retried
	// Memory is what was seen of the server's memory while it ran; nil if nothing was.
	Memory *memory.Figures
	// Slot is the prompt's place in the store; the store owns it.
	Slot int

	// known is true if an answer or the queue confirmed that it exists.
	known bool
	// states is true if the server sends progress_state.
	states bool
	// cancelled is true if a client requested its removal.
	cancelled bool
	// suspect is true if the server may have restarted since the prompt was accepted.
	suspect   bool
	announced bool // its start was announced
	elsewhere bool // all its nodes that run are API nodes
	// remote are the nodes of the submission that are API nodes; nil until it was announced.
	remote map[string]bool
	seen   time.Time // when it was mentioned last
	// progressed is when the last message about its execution came, listed since when the
	// server's queue lists it as running; zero if neither was seen.
	progressed, listed time.Time

	// executedBefore is how many executions had ended when it was accepted.
	executedBefore int
	counted        bool // its execution is among those that have started

	failures int // attempts to read its entry of the history
	size     int // bytes of the tracker's budget
	maxNodes int
	// next is the same id, sent again; last is the end of that chain, set at its head.
	next, last *Prompt
	byID       map[string]*Node // of Nodes: the last run of each
	isCached   map[string]bool  // of Cached
}

// Covered reports whether the request had a client id, so that the server sends the
// messages about its nodes to that client.
func (p *Prompt) Covered() bool { return p.Submission.ClientID != "" }

// begin returns a node's last run, which starts at the given time if it is new. It is
// not part of the prompt if there are too many.
func (p *Prompt) begin(id string, at time.Time) *Node {
	if n := p.byID[id]; n != nil {
		return n
	}
	return p.add(&Node{ID: id, Start: at})
}

func (p *Prompt) add(n *Node) *Node {
	if len(p.Nodes) >= p.maxNodes {
		p.Omitted++
		return n
	}
	if p.byID == nil {
		p.byID = map[string]*Node{}
	}
	p.byID[n.ID] = n
	p.Nodes = append(p.Nodes, n)
	return n
}

// start sets the start of the execution, unless it is set.
func (p *Prompt) start(at time.Time) {
	if p.Started.IsZero() {
		p.Started = at
	}
}

// observe applies a message to the prompt.
func (p *Prompt) observe(m *protocol.Message, now time.Time) {
	p.seen, p.progressed = now, now
	at := m.At
	if at.IsZero() || at.After(now) || at.Before(p.Received.Add(-clockSlack)) {
		// no time, or the time of another clock
		at = now
	}
	switch m.Kind {
	case protocol.ExecutionStart:
		p.start(at)
	case protocol.ExecutionCached:
		p.start(at)
		p.Cached, p.isCached = m.Nodes, make(map[string]bool, len(m.Nodes))
		for _, id := range m.Nodes {
			p.isCached[id] = true
		}
	case protocol.ProgressState:
		p.start(now)
		p.observeStates(m, now)
	case protocol.Executing:
		// ends a prompt; only old servers send no execution_success before it
		if m.NoNode {
			if !p.Started.IsZero() {
				p.end(Success, now)
			}
			return
		}
		p.observeExecuting(m, now)
	case protocol.Progress:
		p.start(now)
		if m.Node != "" {
			n := p.begin(m.Node, now)
			n.step(m.Value, m.Max, now)
		}
	case protocol.Executed:
		if p.Outputs == nil {
			p.Outputs = map[string]int{}
		}
		for kind, count := range m.Outputs {
			if _, known := p.Outputs[kind]; known || len(p.Outputs) < maxOutputs {
				p.Outputs[kind] += count
			}
		}
	case protocol.ExecutionSuccess:
		p.end(Success, at)
	case protocol.ExecutionError:
		if m.Error.Type == protocol.Blocked {
			// the other branches of the workflow go on
			p.start(now)
			p.begin(m.Node, now).Blocked = true
			return
		}
		p.Failure = m.Error
		p.end(Error, at)
	case protocol.ExecutionInterrupted:
		p.Failure = m.Error
		p.end(Interrupted, at)
	}
}

// maxOutputs bounds the kinds of outputs of a prompt ("images", "text", …).
const maxOutputs = 64

// clockSlack is how far the server's clock may lag before its times are ignored.
const clockSlack = time.Second

func (p *Prompt) observeStates(m *protocol.Message, now time.Time) {
	p.states = true
	for _, id := range slices.Sorted(maps.Keys(m.States)) { // in a fixed order
		s := m.States[id]
		// an output that is cached is reported as finished
		if s.State == "pending" || p.isCached[id] {
			continue
		}
		n := p.begin(id, now)
		if s.State == "running" && !n.End.IsZero() && p.Covered() {
			// A loop. Messages without a client id come by several sockets, in any order.
			n = p.add(&Node{ID: id, Run: n.Run + 1, Start: now})
		}
		n.Parent, n.Display = s.Parent, s.Display
		if s.Max > 1 || s.Value > 0 {
			n.step(s.Value, s.Max, now)
		}
		if s.State == "finished" && n.End.IsZero() {
			n.End = now
		}
	}
}

// observeExecuting starts a node. Servers without progress_state do not report ends:
// a node is taken to end when the next one starts.
func (p *Prompt) observeExecuting(m *protocol.Message, now time.Time) {
	if m.Node == "" {
		return
	}
	p.start(now)
	known := p.byID[m.Node]
	again := known != nil && p.onlyAsked(known)
	if !p.states && (known == nil || again) {
		for i := len(p.Nodes) - 1; i >= 0 && p.Nodes[i].End.IsZero(); i-- { // the nodes before it end
			p.Nodes[i].End = now
		}
	}
	if again {
		known.Start, known.End = now, time.Time{}
		p.Nodes = append(slices.DeleteFunc(p.Nodes, func(n *Node) bool { return n == known }), known)
	}
	n := p.begin(m.Node, now)
	if n.Display == "" {
		n.Display = m.DisplayNode
	}
}

// onlyAsked reports whether a node that is announced again has only been asked for its
// inputs. A node with lazy inputs is announced twice: when the server asks it which
// inputs it needs, and when they are available. The time between belongs to the inputs.
func (p *Prompt) onlyAsked(n *Node) bool {
	if p.states && !n.End.IsZero() {
		return false // a delayed frame
	}
	later := p.Nodes[slices.Index(p.Nodes, n)+1:]
	return slices.ContainsFunc(later, func(o *Node) bool { return o.Parent != n.ID })
}

// maxRunning bounds the nodes among which those that run are searched for.
const maxRunning = 64

// move finds out whether the prompt runs elsewhere, and reports whether that changed.
func (p *Prompt) move(o Observer) bool {
	if p.remote == nil {
		p.remote = map[string]bool{}
		for i := range p.Submission.Nodes {
			if n := &p.Submission.Nodes[i]; len(p.remote) < maxRunning && o.RunsElsewhere(n.Class) {
				p.remote[n.ID] = true
			}
		}
	}
	if len(p.remote) == 0 {
		return false
	}
	before, running := p.elsewhere, 0
	p.elsewhere = true
	for i := len(p.Nodes) - 1; i >= max(len(p.Nodes)-maxRunning, 0); i-- {
		if n := p.Nodes[i]; n.End.IsZero() {
			running++
			p.elsewhere = p.elsewhere && p.remote[n.ID]
		}
	}
	p.elsewhere = p.elsewhere && running > 0
	return p.elsewhere != before
}

func (p *Prompt) end(o Outcome, at time.Time) { p.Outcome, p.Ended = o, at }

// settleBy ends the prompt by its entry in the server's history.
func (p *Prompt) settleBy(f *protocol.Finished, now time.Time) {
	if start := f.Start(); !start.IsZero() && (p.Started.IsZero() || !p.Covered()) {
		p.Started = start
	}
	p.start(now)
	if start := f.Start(); p.undated && !start.IsZero() {
		p.Context = contextOf(p.Parent, p.ID, start) // as after a restart
	}
	if m, ok := f.Find(protocol.ExecutionCached); ok && p.Cached == nil {
		p.Cached = m.Nodes
	}
	if p.Outputs == nil {
		p.Outputs = f.Outputs
	}
	switch m, ok := f.End(); {
	case ok:
		p.observe(&m, now)
	case f.Status == "error":
		p.end(Error, now)
	default:
		p.end(Success, now)
	}
}

// settle orders all times: nothing ends before it starts, and parts lie within the whole.
// Messages without a time of their own arrive late, and the server's clock has a
// resolution of a millisecond.
func (p *Prompt) settle() {
	if p.Answered.Before(p.Received) {
		p.Answered = p.Received
	}
	if p.Ended.Before(p.Received) {
		p.Ended = p.Received
	}
	if p.Started.IsZero() {
		p.Nodes = nil
		return
	}
	p.Started = within(p.Started, p.Received, p.Ended)
	for _, n := range p.Nodes {
		if n.End.IsZero() {
			n.End = p.Ended
		}
		n.Start = within(n.Start, p.Started, p.Ended)
		n.End = within(n.End, n.Start, p.Ended)
	}
	// expanded nodes lie within their parent
	for _, n := range p.Nodes {
		if parent := p.byID[n.Parent]; parent != nil && parent != n {
			n.Start = within(n.Start, parent.Start, parent.End)
			n.End = within(n.End, n.Start, parent.End)
		}
	}
}

func within(t, from, to time.Time) time.Time {
	switch {
	case t.Before(from):
		return from
	case t.After(to):
		return to
	}
	return t
}
