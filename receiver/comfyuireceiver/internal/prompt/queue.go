// SPDX-License-Identifier: Apache-2.0

package prompt

import (
	"cmp"
	"slices"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// Queue lists the open prompts in the order of the queue: those that run, then those that
// wait, by the server's number, which is negative for those that were put in front. There
// are count in all; at most limit are listed.
func (t *Tracker) Queue(limit int) (listed []comfyevents.OpenPrompt, count int) {
	type place struct {
		waits  bool
		number float64
		shown  comfyevents.OpenPrompt
	}
	var all []place
	t.mu.Lock()
	for _, p := range t.open {
		for ; p != nil; p = p.next {
			if p.known && !p.cancelled && p.Outcome == "" {
				all = append(all, place{p.lastProgress().IsZero(), p.Answer.Number, p.shown()})
			}
		}
	}
	t.mu.Unlock()
	slices.SortFunc(all, func(a, b place) int {
		if a.waits != b.waits {
			if b.waits {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.number, b.number), a.shown.Accepted.Compare(b.shown.Accepted), cmp.Compare(a.shown.ID, b.shown.ID))
	})
	listed = make([]comfyevents.OpenPrompt, 0, min(len(all), limit))
	for _, p := range all[:min(len(all), limit)] {
		listed = append(listed, p.shown)
	}
	return listed, len(all)
}

// shown is what is known of an open prompt. The caller holds the tracker's lock.
func (p *Prompt) shown() comfyevents.OpenPrompt {
	s := comfyevents.OpenPrompt{
		ID: p.ID, Workflow: p.Submission.Workflow, TaskClass: p.Sizing.TaskClass, Model: p.Sizing.Model, Side: int(p.Sizing.Side()),
		Batch: max(int(p.Sizing.Batch), 1), Steps: int(p.Sizing.Steps), Number: p.Answer.Number, Accepted: p.Answered, Started: p.Started,
	}
	if s.Started.IsZero() {
		s.Started = p.listed
	}
	if n := p.running(); n != nil {
		s.Node = comfyevents.Node{
			ID: n.ID, Class: p.classOf(n.ID), Number: len(p.Nodes), Of: max(len(p.Submission.Nodes)-len(p.Cached), len(p.Nodes)),
			Step: int(n.StepsDone), Steps: int(n.Steps),
		}
	}
	return s
}

// running is the node that began last and has not ended; nil if there is none.
func (p *Prompt) running() *Node {
	for _, n := range slices.Backward(p.Nodes) {
		if n.End.IsZero() && !n.Blocked {
			return n
		}
	}
	return nil
}

// classOf is the class of a node of the submission; empty if it is not one of them.
func (p *Prompt) classOf(id string) string {
	for _, n := range p.Submission.Nodes {
		if n.ID == id {
			return n.Class
		}
	}
	return ""
}
