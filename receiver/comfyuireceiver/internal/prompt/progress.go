// SPDX-License-Identifier: Apache-2.0

package prompt

import "time"

// Confirm records that a prompt is in the server's queue, and whether it runs. Of a prompt
// whose client has no socket that is all that is known before its end.
func (t *Tracker) Confirm(now time.Time, id string, runs bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.open[id]
	if p == nil {
		return
	}
	p.suspect = false
	if runs && p.listed.IsZero() {
		p.listed = now
	}
}

// step records how many steps of a node were done at a time.
func (n *Node) step(done, all float64, now time.Time) {
	if done > n.StepsDone && all > 1 {
		if n.steps.First.IsZero() {
			n.steps.First, n.steps.FirstDone = now, done
		}
		n.steps.Last, n.steps.LastDone = now, done
	}
	n.Steps, n.StepsDone = max(n.Steps, all), max(n.StepsDone, done)
}

// BeforeFirstStep is how long a node took before its first step began, and when that step was
// done. ok is false for a node with fewer than two steps, and for one that ran out of memory
// before its first.
func (n *Node) BeforeFirstStep() (lasted time.Duration, first time.Time, ok bool) {
	steps := n.steps
	steps.Begin = n.Start
	lasted, ok = steps.BeforeFirst()
	if r := n.Retried; r.Count > 0 && r.first.Before(steps.First) {
		ok = false
	}
	return lasted, steps.First, ok
}

// lastProgress is when something was last known to happen in the execution: its start, a
// node's, or a step. It is zero for a prompt that waits.
func (p *Prompt) lastProgress() time.Time {
	if p.progressed.IsZero() {
		return p.listed
	}
	return p.progressed
}

// OldestWait is for how long the prompt has waited that has waited longest; 0 if none waits.
func (t *Tracker) OldestWait(now time.Time) (wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range t.open {
		for ; p != nil; p = p.next {
			if p.known && !p.cancelled && p.Outcome == "" && p.lastProgress().IsZero() {
				wait = max(wait, now.Sub(p.Answered))
			}
		}
	}
	return wait
}

// ProgressAge is for how long nothing is known to have happened in the prompts that run, by
// their task class: the longest time of each.
func (t *Tracker) ProgressAge(now time.Time) map[string]time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	ages := map[string]time.Duration{}
	for _, p := range t.open {
		if last := p.lastProgress(); p.known && p.Outcome == "" && !last.IsZero() {
			class := p.Sizing.TaskClass
			ages[class] = max(ages[class], now.Sub(last), 0)
		}
	}
	return ages
}
