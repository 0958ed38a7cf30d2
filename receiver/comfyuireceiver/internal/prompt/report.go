// SPDX-License-Identifier: Apache-2.0

package prompt

import "time"

// unlock releases the lock after a change of a prompt, and reports what has changed.
func (t *Tracker) unlock(p *Prompt) {
	t.startedNow(p)
	starts := p.known && !p.announced && !p.Started.IsZero() && p.Outcome == ""
	p.announced = p.announced || starts
	var started, moved Execution
	if starts {
		started = Execution{ID: p.ID, Context: p.Context.WithSpanID(p.SpanID(ExecutionSpan, 0)), Start: p.Started}
	}
	moves := p.announced && p.Outcome == "" && p.move(t.observer)
	elsewhere := p.elsewhere
	if moves {
		moved = Execution{ID: p.ID, Context: p.Context.WithSpanID(p.SpanID(ExecutionSpan, 0)), Start: p.seen}
	}
	ends := t.close(p)
	t.mu.Unlock()
	if starts {
		t.observer.ExecutionStarted(started)
	}
	if moves {
		t.observer.ExecutionMoved(moved, elsewhere)
	}
	if ends {
		t.ended(p)
	}
}

// startedNow counts the executions that a prompt waited for, once its own has started. The server
// runs one at a time: what has started before is over, though its end may be known later, by
// another client's socket. The caller holds the lock.
func (t *Tracker) startedNow(p *Prompt) {
	if !p.known || p.counted || p.Started.IsZero() {
		return
	}
	p.counted, p.Ahead = true, t.started-p.executedBefore
	t.started++
}

// ClassesLearned reports the open prompts that run elsewhere, or no longer, by what the
// observer now knows of the classes of nodes: they did so since their last node began.
func (t *Tracker) ClassesLearned() {
	type move struct {
		x         Execution
		elsewhere bool
	}
	var all []move
	t.mu.Lock()
	for _, p := range t.open {
		p.remote = nil
		if !p.announced || p.Outcome != "" || !p.move(t.observer) {
			continue
		}
		x := Execution{ID: p.ID, Context: p.Context.WithSpanID(p.SpanID(ExecutionSpan, 0)), Start: p.lastBegin()}
		all = append(all, move{x, p.elsewhere})
	}
	t.mu.Unlock()
	for _, m := range all {
		t.observer.ExecutionMoved(m.x, m.elsewhere)
	}
}

// lastBegin is when the last of the nodes that run began.
func (p *Prompt) lastBegin() (at time.Time) {
	for i := len(p.Nodes) - 1; i >= max(len(p.Nodes)-maxRunning, 0); i-- {
		if n := p.Nodes[i]; n.End.IsZero() && n.Start.After(at) {
			at = n.Start
		}
	}
	return at
}

func (t *Tracker) ended(p *Prompt) {
	p.settle()
	t.observer.PromptEnded(p)
}
