// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// maxTracked bounds the conditions that are followed; further ones are not shown.
const maxTracked = 8192

// Condition is something that the reader should know, in no language yet.
type Condition struct {
	Cause *Cause // nil where all is well
	// Severity is the cause's, or what suits the condition better.
	Severity     view.Severity
	GPU, Server  string
	Since        time.Time
	Text, Remedy texts.Message
	// ID distinguishes it from others that hold.
	ID string

	parent string // of a MIG device
}

// View is a condition in a language.
func (c *Condition) View(l texts.Language) view.Condition {
	v := view.Condition{ID: c.ID, Severity: c.Severity, GPU: c.GPU, Server: c.Server, Since: c.Since, Text: c.Text.In(l)}
	if c.Remedy.Key != "" {
		v.Remedy = c.Remedy.In(l)
	}
	if c.Cause != nil {
		v.Cause, v.Alert, v.Runbook = c.Cause.ID, c.Cause.Alert, c.Cause.Runbook()
	}
	return v
}

// Result is what an evaluation found.
type Result struct {
	// Conditions are those that hold, the worst first, of equal ones the oldest.
	Conditions []Condition
	// Verdict is the first of them, or that all is well.
	Verdict Condition

	calm calm
}

// growing is the cause whose text says how long the oldest prompt has waited.
const growing = "comfyui.queue.growing"

// Now is the result where the oldest prompts of servers have waited for numbers of seconds: an evaluation
// is some time ago, and what waits is shown beside the conditions.
func (r *Result) Now(waits map[string]float64) Result {
	now := Result{Conditions: slices.Clone(r.Conditions), calm: r.calm}
	oldest := 0.0
	for _, wait := range waits {
		oldest = max(oldest, wait)
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		if wait := waits[c.Server]; wait > 0 && c.Cause.ID == growing {
			c.Text.Args = maps.Clone(c.Text.Args) // others have it, too
			c.Text.Args["wait"] = duration(wait)
		}
	}
	now.decide(oldest)
	return now
}

// decide sets the verdict, where the oldest prompt has waited for a number of seconds.
func (r *Result) decide(oldest float64) {
	r.Verdict = r.calm.verdict(oldest)
	if len(r.Conditions) > 0 && r.Conditions[0].Severity != view.Fine {
		r.Verdict = r.Conditions[0]
	}
}

// Status is the worst condition of a GPU in a word or two.
func (r *Result) Status(gpu string) (view.Severity, texts.Message) {
	for i := range r.Conditions {
		if c := &r.Conditions[i]; c.GPU == gpu && gpu != "" && c.Severity != view.Fine {
			return c.Severity, texts.Message{Key: "cause." + c.Cause.ID + ".status"}
		}
	}
	return view.Fine, texts.Message{Key: "state.fine"}
}

// key identifies a condition from one evaluation to the next.
type key struct {
	cause               *Cause
	gpu, server, detail string
}

// tracked is a condition that holds, or that is shown and held a moment ago.
type tracked struct {
	begun, held time.Time // when it was found first, and last
	round       int       // in which it was found last
	isShown     bool
	condition   Condition
}

// Engine evaluates the table. It remembers since when each condition holds. It is not safe
// for concurrent use.
type Engine struct {
	tracked map[key]*tracked
	round   int // counts evaluations
	// after replaces the table's, by the ids of causes. It does not change.
	after map[string]time.Duration
}

// NewEngine makes an engine that has seen nothing. after is how long conditions hold before they
// show, by the ids of their causes; those that it lacks are as in the table.
func NewEngine(after map[string]time.Duration) *Engine {
	return &Engine{tracked: map[key]*tracked{}, after: after}
}

// waits is how long a condition holds before it shows.
func (e *Engine) waits(c *Cause) time.Duration {
	if after, ok := e.after[c.ID]; ok {
		return after
	}
	return c.After
}

// Bounds implements [bounds.Registered]. The caller holds the lock of the engine.
func (e *Engine) Bounds() []bounds.Bound {
	return []bounds.Bound{{Name: "causes.Engine.tracked", Max: maxTracked, Size: len(e.tracked)}}
}

// Evaluate finds what holds now. It is called about once a second, whether anybody looks or
// not: since when a condition holds is known no more precisely than that.
func (e *Engine) Evaluate(m *machine.Machine, prompts Prompts, now time.Time) Result {
	e.round++
	f := newFacts(m, prompts, now)
	for i := range Table {
		cause := &Table[i]
		cause.rule.find(f, func(found finding) { e.track(cause, &found, now) })
	}
	var all []Condition
	for k, t := range e.tracked {
		holds := t.round == e.round
		if age := now.Sub(t.held); !holds && (!t.isShown || age >= k.cause.Hold || age < 0) {
			delete(e.tracked, k)
			continue
		}
		t.isShown = t.isShown || now.Sub(t.begun) >= e.waits(k.cause)
		if t.isShown {
			all = append(all, t.condition)
		}
	}
	slices.SortFunc(all, compare)
	all = silence(all)
	r := Result{Conditions: all, calm: f.calm()}
	r.decide(f.oldestWait())
	return r
}

// track adds what a rule found.
func (e *Engine) track(cause *Cause, found *finding, now time.Time) {
	k := key{cause: cause, server: found.server, detail: found.detail}
	c := Condition{Cause: cause, Severity: cmp.Or(found.severity, cause.Severity), Server: found.server, Text: found.text, Remedy: found.remedy}
	if found.args == nil {
		found.args = texts.Args{}
	}
	if found.gpu != nil {
		k.gpu, c.GPU, c.parent = found.gpu.ID, found.gpu.ID, found.gpu.Parent
		found.args["gpu"] = found.gpu.Label()
	}
	if found.server != "" {
		found.args["server"] = found.server
	}
	c.ID = strings.Join([]string{cause.ID, k.gpu, k.server, k.detail}, "/")
	c.Text.Key = cmp.Or(c.Text.Key, "cause."+cause.ID)
	c.Text.Args = found.args
	if c.Remedy.Key == "" {
		c.Remedy = texts.Message{Key: "cause." + cause.ID + ".remedy", Args: found.args}
	}
	t := e.tracked[k]
	if t == nil {
		if len(e.tracked) >= maxTracked {
			return
		}
		t = &tracked{begun: now}
		e.tracked[k] = t
	}
	if t.begun.After(now) { // the clock was set back
		t.begun = now
	}
	c.Since = t.begun
	if !found.since.IsZero() && found.since.Before(now) {
		c.Since = found.since
	}
	if found.args["age"] == nil { // the rule knows no better
		found.args["age"] = since(c.Since, now)
	}
	t.held, t.round, t.condition = now, e.round, c
}

// rank orders severities, the worst first.
func rank(s view.Severity) int {
	return slices.Index([]view.Severity{view.Broken, view.Warning, view.Fine}, s)
}

// compare orders conditions: the worst first, of equal ones the oldest, and so that their
// order does not change from one evaluation to the next.
func compare(a, b Condition) int {
	return cmp.Or(
		cmp.Compare(rank(a.Severity), rank(b.Severity)), a.Since.Compare(b.Since), cmp.Compare(index(a.Cause), index(b.Cause)),
		cmp.Compare(a.GPU, b.GPU), cmp.Compare(a.Server, b.Server), cmp.Compare(a.Text.In(texts.English), b.Text.In(texts.English)),
	)
}

// index is the place of a cause in the table.
func index(c *Cause) int { return slices.IndexFunc(Table, func(x Cause) bool { return x.ID == c.ID }) }

// silence removes conditions that say nothing beside others.
func silence(all []Condition) []Condition {
	type of struct{ cause, gpu, server string }
	silent, broken := map[of]bool{}, map[string]int{} // GPUs by the first cause that silences them
	for i := range all {
		c := &all[i]
		for _, other := range c.Cause.Silences {
			silent[of{other, c.GPU, c.Server}] = true
		}
		if place, known := broken[c.GPU]; c.Cause.SilencesGPU && (!known || index(c.Cause) < place) {
			broken[c.GPU] = index(c.Cause)
		}
	}
	return slices.DeleteFunc(all, func(c Condition) bool {
		if silent[of{c.Cause.ID, c.GPU, c.Server}] {
			return true
		}
		for _, gpu := range [...]string{c.GPU, c.parent} {
			if place, known := broken[gpu]; known && gpu != "" && index(c.Cause) != place {
				return true
			}
		}
		return false
	})
}

// IDs lists the causes.
func IDs() []string {
	all := map[string]bool{}
	for i := range Table {
		all[Table[i].ID] = true
	}
	return slices.Sorted(maps.Keys(all))
}
