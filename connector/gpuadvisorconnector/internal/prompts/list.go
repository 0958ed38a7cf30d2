// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// Query selects prompts. The zero value selects all, the newest first.
type Query struct {
	// ID is the whole id; empty: any.
	ID string
	// Text is part of the id, the trace's id, the workflow, the task class or the model.
	Text string
	// Outcome and Workflow are whole values; empty: any.
	Outcome, Workflow string
	// Slow selects those that took unusually long, Failed those that failed: what clients cancelled
	// and what was refused did not.
	Slow, Failed bool
	// Slowest sorts by duration, the longest first.
	Slowest bool
	// Limit bounds how many are listed; 0: none are.
	Limit int
}

func (q *Query) matches(r *record) bool {
	switch {
	case q.ID != "" && r.id != q.ID,
		q.Outcome != "" && r.outcome.Value() != q.Outcome,
		q.Workflow != "" && r.workflow.Value() != q.Workflow,
		q.Slow && !r.isSlow(), q.Failed && !r.failed():
		return false
	case q.Text == "":
		return true
	}
	for _, in := range []string{r.id, r.workflow.Value(), r.taskClass.Value(), r.model.Value(), r.trace.String()} {
		if strings.Contains(strings.ToLower(in), strings.ToLower(q.Text)) {
			return true
		}
	}
	return false
}

// Newest are the last prompts, the newest first.
func (s *Store) Newest(l texts.Language, limit int) []view.Prompt {
	shown := make([]view.Prompt, 0, min(limit, s.count))
	for r := range s.newest {
		if len(shown) == limit {
			break
		}
		shown = append(shown, r.view(l))
	}
	return shown
}

// List answers a query.
func (s *Store) List(l texts.Language, q Query) view.Prompts {
	var found []*record
	for r := range s.newest {
		if q.matches(r) {
			found = append(found, r)
		}
	}
	v := view.Prompts{Held: s.count, Matched: len(found), Prompts: []view.Prompt{}}
	v.Workflows, v.WorkflowsMatched = workflows(found)
	if q.Slowest {
		slices.SortStableFunc(found, func(a, b *record) int { return cmp.Compare(b.lasted(), a.lasted()) })
	}
	for _, r := range found[:min(len(found), q.Limit)] {
		v.Prompts = append(v.Prompts, r.view(l))
	}
	return v
}

// workflows sums up prompts by workflow, those with the most first. n counts the workflows, of which
// [maxWorkflows] have a summary.
func workflows(all []*record) (summaries []view.Workflow, n int) {
	byName := map[string][]*record{}
	for _, r := range all {
		byName[r.workflow.Value()] = append(byName[r.workflow.Value()], r)
	}
	summaries = make([]view.Workflow, 0, len(byName))
	for workflow, of := range byName {
		summaries = append(summaries, sumUp(workflow, of))
	}
	slices.SortFunc(summaries, func(a, b view.Workflow) int {
		return cmp.Or(cmp.Compare(b.Prompts, a.Prompts), strings.Compare(a.Workflow, b.Workflow))
	})
	return summaries[:min(len(summaries), maxWorkflows)], len(summaries)
}

// maxWorkflows bounds the summaries of an answer.
const maxWorkflows = 50

func sumUp(workflow string, all []*record) view.Workflow {
	v := view.Workflow{Workflow: workflow, Prompts: len(all)}
	var lasted []float64
	var energy float64
	energies := 0
	for _, r := range all {
		switch {
		case r.succeeded():
			lasted = append(lasted, r.lasted().Seconds())
		case r.failed():
			v.Failed++
		}
		if peak := r.bill.memoryPeak; peak >= 0 && (v.MemoryPeak == nil || peak > *v.MemoryPeak) {
			v.MemoryPeak = &peak
		}
		if r.bill.energy >= 0 {
			energy += r.bill.energy
			energies++
		}
	}
	if len(lasted) > 0 {
		slices.Sort(lasted)
		middle := (lasted[(len(lasted)-1)/2] + lasted[len(lasted)/2]) / 2
		v.Median, v.Slowest = &middle, &lasted[len(lasted)-1]
	}
	if energies > 0 {
		mean := energy / float64(energies)
		v.EnergyMean = &mean
	}
	return v
}

// view is a prompt as a row.
func (r *record) view(l texts.Language) view.Prompt {
	v := view.Prompt{
		ID: r.id, TraceID: r.trace.String(), Server: r.server.Value(), GPUs: []string{},
		Received: at(r.received), Ended: at(r.ended), Duration: r.lasted().Seconds(), Waited: r.parts[waiting].Seconds(), Ran: r.ran.Seconds(),
		Workflow: r.workflow.Value(), TaskClass: r.taskClass.Value(), Model: r.model.Value(), Width: r.width, Height: r.height, Side: r.side,
		Outcome: r.outcome.Value(), ErrorType: r.errorType.Value(), ErrorNode: r.errorNode.Value(), Slow: r.isSlow(),
		Bill: r.bill.view(estimateIn(l)),
	}
	for _, id := range r.gpus {
		v.GPUs = append(v.GPUs, id.Value())
	}
	if v.Bill == nil {
		v.NoBill = r.noBill().In(l)
	}
	if reason := r.reason(); reason != nil {
		v.Reason = reason.In(l)
	}
	return v
}

func estimateIn(l texts.Language) func(name) string {
	return func(why name) string { return oneOf("prompt.estimate.", why.Value(), "reason").In(l) }
}

// Ended is a prompt that has ended, as the rules of the conditions see it.
type Ended struct {
	ID, Server, TaskClass, Outcome, ErrorType string
	GPUs                                      []string
	At                                        time.Time
	// Total is from the request to the end.
	Total, Ran, Loading time.Duration
	Side                int64
}

// Since calls visit with the prompts that ended after a time, the newest first by their
// arrival, until it returns false. A trace arrives at most some seconds after the end.
func (s *Store) Since(t time.Time, visit func(Ended) bool) {
	for r := range s.newest {
		if at(r.ended).Before(t.Add(-arrivalSlack)) {
			return
		}
		if at(r.ended).Before(t) {
			continue
		}
		e := Ended{
			ID: r.id, Server: r.server.Value(), TaskClass: r.taskClass.Value(), Outcome: r.outcome.Value(), ErrorType: r.errorType.Value(),
			At: at(r.ended), Total: r.lasted(), Ran: r.ran, Loading: r.parts[loading], Side: r.side,
		}
		for _, id := range r.gpus {
			e.GPUs = append(e.GPUs, id.Value())
		}
		if !visit(e) {
			return
		}
	}
}

// arrivalSlack is by how much traces may arrive in another order than their prompts ended: the
// correlator's default wait, and more.
const arrivalSlack = time.Minute

// Name sets the prompts' ids of the traces that are asked for.
func (s *Store) Name(wanted map[pcommon.TraceID]string) {
	if len(wanted) == 0 {
		return
	}
	for r := range s.newest {
		if _, ok := wanted[r.trace]; ok {
			wanted[r.trace] = r.id
		}
	}
}

// Usual is the median of the last executions of a kind that succeeded; ok is false of too few.
func (s *Store) Usual(workflow, model, sizeClass, gpu string) (ran time.Duration, ok bool) {
	of := s.usual.kinds.Find(kind{named(workflow), named(model), named(sizeClass), named(gpu)})
	if of == nil {
		return 0, false
	}
	u := of.compare(&parts{})
	return u.ran, u.isKnown()
}
