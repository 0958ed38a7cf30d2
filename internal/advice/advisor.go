// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// Advisor advises the components of a process. It implements [admission.Advisor]; its methods
// may be called from any goroutine.
type Advisor struct {
	servers *comfyevents.Servers
	now     func() time.Time
	// messages makes what users read; nil for nothing.
	messages Messages

	// changes guards everything declared below: what has changed since the engine was asked last.
	changes sync.Mutex
	// dirty are the servers whose queues have changed, read what samplers have read.
	dirty map[string]bool
	read  map[string]reading

	// mu guards everything declared below. It is not held while a server is asked.
	mu         sync.Mutex
	engine     *Engine
	counts     map[Counted]int64
	classNames *ClassNames
	// dropped are the decisions that are not among counts.
	dropped int64
	// standby counts those who were sent to a standby server.
	standby int
}

// reading is a GPU's memory in use.
type reading struct {
	used int64
	at   time.Time
}

// Messages makes what a user reads whose prompt is not admitted, by language.
type Messages func(r *admission.Request, d *admission.Decision) map[string]string

// Counted is a decision as it is counted.
type Counted struct {
	Server, Class string
	Verdict       admission.Verdict
	Reason        admission.Reason
}

const (
	// maxDirty bounds the servers and GPUs that are noted between two decisions.
	maxDirty = 1024
	// maxCounted bounds the decisions that are counted apart.
	maxCounted = 4096
)

var _ admission.Advisor = (*Advisor)(nil)

// NewAdvisor makes an advisor of the servers that receivers of the process follow.
func NewAdvisor(s Settings, servers *comfyevents.Servers, now func() time.Time, messages Messages) *Advisor {
	return &Advisor{
		servers: servers, now: now, messages: messages, engine: New(s), dirty: map[string]bool{}, read: map[string]reading{}, counts: map[Counted]int64{},
		classNames: NewClassNames(s.Classes),
	}
}

// Follow notes changes of the servers' queues until cancel is called.
func (a *Advisor) Follow() (cancel func()) {
	return a.servers.Changed.Subscribe(func(name string) {
		a.changes.Lock()
		defer a.changes.Unlock()
		if len(a.dirty) < maxDirty {
			a.dirty[name] = true
		}
	})
}

// MemoryRead notes a reading of a GPU's memory. It does not wait for a decision.
func (a *Advisor) MemoryRead(gpu string, used int64, at time.Time) {
	a.changes.Lock()
	defer a.changes.Unlock()
	if _, known := a.read[gpu]; known || len(a.read) < maxDirty {
		a.read[gpu] = reading{used, at}
	}
}

// Refresh records all servers, and what GPUs' samples say. It is called about once a second.
func (a *Advisor) Refresh(gpus []GPU) {
	all := a.servers.All()
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	for _, g := range gpus {
		a.engine.SetGPU(g)
	}
	a.engine.expireSamples(now)
	present := make(map[string]bool, len(all))
	for i := range all {
		present[all[i].Name] = true
		a.engine.SetServer(&all[i], now)
	}
	for _, name := range a.engine.Servers() {
		if !present[name] {
			a.engine.RemoveServer(name)
		}
	}
}

// catchUp records what has changed.
func (a *Advisor) catchUp() {
	var dirty map[string]bool
	var read map[string]reading
	a.changes.Lock()
	if len(a.dirty) > 0 {
		dirty, a.dirty = a.dirty, map[string]bool{}
	}
	if len(a.read) > 0 {
		read, a.read = a.read, map[string]reading{}
	}
	a.changes.Unlock()
	for name := range dirty {
		s, ok := a.servers.Find(name)
		a.mu.Lock()
		if ok {
			a.engine.SetServer(&s, a.now())
		} else {
			a.engine.RemoveServer(name)
		}
		a.mu.Unlock()
	}
	if len(read) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for gpu, r := range read {
		a.engine.MemoryRead(gpu, r.used, r.at)
	}
}

// Advise implements [admission.Advisor]. A caller that claims nothing asks before it uploads, and may be
// sent to another server, unless it says that it stays.
func (a *Advisor) Advise(_ context.Context, r *admission.Request) (admission.Decision, error) {
	a.catchUp()
	a.mu.Lock()
	d := a.decide(r, a.now())
	if r.Claim && (d.Verdict != admission.Hold || r.Observe) { // those that are held are asked about again
		key := Counted{r.Server, a.classNames.Counted(r.Class), d.Verdict, d.Reason}
		if _, known := a.counts[key]; known || len(a.counts) < maxCounted {
			a.counts[key]++
		} else {
			a.dropped++
		}
	}
	a.mu.Unlock()
	if d.Verdict != admission.Admit && a.messages != nil {
		d.Messages = a.messages(r, &d)
	}
	return d, nil
}

// decide decides about a prompt of a server, or finds a server for it. The caller holds mu.
func (a *Advisor) decide(r *admission.Request, now time.Time) admission.Decision {
	d := admission.Decision{Verdict: admission.Admit, Reason: admission.Unknown, Class: r.Class}
	if r.Server != "" {
		if d = a.engine.Advise(r, now); r.Claim || r.Stays || d.Verdict == admission.Admit && a.engine.isReachable(r.Server, now) {
			return d
		}
	}
	best, name := d, ""
	for _, other := range a.engine.ServersOf(r.GPU) {
		if other == r.Server || !a.engine.isReachable(other, now) {
			continue
		}
		there := *r
		there.Server, there.Claim = other, false
		if o := a.engine.Advise(&there, now); name == "" && r.Server == "" || better(&o, &best) {
			best, name = o, other
		}
	}
	switch {
	case name == "":
	case r.Server == "": // any server will do
		d, d.Target = best, name
	case best.Verdict == admission.Admit:
		d.Verdict, d.Target = admission.Redirect, name
	}
	// One after the other: nothing is known of how busy they are.
	if standby := a.engine.settings.Standby; len(standby) > 0 && (d.Verdict == admission.Reject || d.Verdict == admission.Hold) && d.Reason != admission.TooLarge {
		d.Verdict, d.Target = admission.Redirect, standby[a.standby%len(standby)]
		a.standby++
	}
	return d
}

// better reports whether a decision is the better one of two: it admits, and ends sooner. Servers of
// which nothing is known come last, and before them those where it is not known when the prompt would end.
func better(a, b *admission.Decision) bool {
	if (a.Verdict == admission.Admit) != (b.Verdict == admission.Admit) {
		return a.Verdict == admission.Admit
	}
	return a.Verdict == admission.Admit &&
		cmp.Or(cmp.Compare(certainty(b), certainty(a)), cmp.Compare(a.Completion, b.Completion), cmp.Compare(a.Wait, b.Wait)) < 0
}

// certainty is how well founded the decision to admit a prompt is.
func certainty(d *admission.Decision) int {
	switch {
	case d.Completion > 0:
		return 2
	case d.Memory.Room > 0: // the server and its GPU are known
		return 1
	}
	return 0
}

// Settle implements [admission.Advisor].
func (a *Advisor) Settle(claim uint64, id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.engine.Settle(claim, id)
}

// Traces learns from prompts that have ended.
func (a *Advisor) Traces(td ptrace.Traces) {
	executions := executionsIn(td)
	if len(executions) == 0 {
		return
	}
	a.catchUp()
	a.mu.Lock()
	defer a.mu.Unlock()
	for i := range executions {
		a.engine.Executed(&executions[i])
	}
}

// Loads are the levels of GPUs now, and what they are based on.
func (a *Advisor) Loads(gpus []string) map[string]Load {
	a.catchUp()
	a.mu.Lock()
	defer a.mu.Unlock()
	now, all := a.now(), make(map[string]Load, len(gpus))
	for _, id := range gpus {
		all[id] = a.engine.Load(id, now)
	}
	return all
}

// What prompts cost.
const (
	CostTime   = "time"
	CostMemory = "memory"
)

// Learned is a model of what prompts of a kind cost.
type Learned struct {
	Kind Kind
	// Cost is CostTime or CostMemory.
	Cost    string
	Samples int
	// Error is the median of the relative errors on executions that the model was not made from.
	Error float64
	Form  fit.Form
	A, B  float64
}

// maxLearned bounds the models that are listed.
const maxLearned = 200

// Learned are the models, at most maxLearned: those with the most samples.
func (a *Advisor) Learned() (all []Learned) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for of, k := range a.engine.kinds.All() {
		for _, c := range []struct {
			name string
			*costs
		}{{CostTime, &k.time}, {CostMemory, &k.memory}} {
			if m := c.model; c.learned() {
				all = append(all, Learned{of, c.name, len(c.samples), m.Error, m.Form, m.A, m.B})
			}
		}
	}
	slices.SortFunc(all, func(x, y Learned) int {
		return cmp.Or(cmp.Compare(y.Samples, x.Samples), cmp.Compare(x.Kind.Workflow, y.Kind.Workflow), cmp.Compare(x.Kind.Model, y.Kind.Model), cmp.Compare(x.Cost, y.Cost))
	})
	return all[:min(len(all), maxLearned)]
}

// Coverage is how well completions and needs of memory of each class are predicted, of those that
// were predicted.
func (a *Advisor) Coverage() []Coverage {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.engine.coverage()
}

// Counts are the decisions about prompts, since the start.
func (a *Advisor) Counts() map[Counted]int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.counts)
}

// Dropped is how many servers, GPUs, claims and decisions found no room.
func (a *Advisor) Dropped() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.engine.Dropped + a.dropped
}

// Bounds implements [bounds.Registered].
func (a *Advisor) Bounds() []bounds.Bound {
	a.changes.Lock()
	all := []bounds.Bound{
		{Name: "advice.Advisor.dirty", Max: maxDirty, Size: len(a.dirty)},
		{Name: "advice.Advisor.read", Max: maxDirty, Size: len(a.read)},
	}
	a.changes.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	all = append(all, bounds.Bound{Name: "advice.Advisor.counts", Max: maxCounted, Size: len(a.counts)})
	all = append(all, a.classNames.Bounds()...)
	return append(all, a.engine.Bounds()...)
}

// Load reads what an advisor before this one had learned: kinds by where they are saved, and what
// [Advisor.Unsaved] returns with them. The errors are of what is left out.
func (a *Advisor) Load(kinds map[int][]byte, rest []byte) (loaded map[int]Kind, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	loaded = make(map[int]Kind, len(kinds))
	for at, raw := range kinds {
		of, failed := a.engine.LoadKind(raw, now)
		if failed == nil {
			loaded[at] = of
		}
		err = errors.Join(err, failed)
	}
	if len(rest) > 0 {
		err = errors.Join(err, a.engine.LoadRest(rest, now))
	}
	return loaded, err
}

// Unsaved returns the kinds about which something was learned since it was called last, which kinds
// there are, and the rest of what was learned.
func (a *Advisor) Unsaved() (changed []Saved, all map[Kind]bool, rest []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	changed, all = a.engine.Unsaved()
	return changed, all, a.engine.SaveRest(a.now())
}
