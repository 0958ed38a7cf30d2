// SPDX-License-Identifier: Apache-2.0

package prompt

// unlock releases the lock after a change of a prompt, and reports what has changed.
func (t *Tracker) unlock(p *Prompt) {
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

func (t *Tracker) ended(p *Prompt) {
	p.settle()
	t.observer.PromptEnded(p)
}
