// SPDX-License-Identifier: Apache-2.0

// Package state is what a page shows of one host: what its GPUs and ComfyUI servers do now, the
// prompts that have ended, and the conditions that hold. It has no goroutines: telemetry and
// readings come in, and what it is asked for goes out in the reader's language.
package state

import (
	"iter"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/causes"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/page"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/prompts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// Settings are what a store needs.
type Settings struct {
	Machine machine.Limits
	Prompts prompts.Limits
	// Host is the name of the host as long as no sample says it.
	Host string
	// Servers are the ComfyUI servers that receivers of this process follow.
	Servers *comfyevents.Servers
	// Alerts are those that fire.
	Alerts Alerts
	// Links lead from a prompt to its trace in other programs: their URLs have the placeholders
	// {trace_id} and {prompt_id}.
	Links []view.Link
	// After is how long conditions hold before they show, by the ids of their causes; the others
	// are as in the table of causes.
	After map[string]time.Duration
	// BusyFor is for how long a GPU's mean utilisation is high when it is busy.
	BusyFor time.Duration
	// Rush is a URL that receives a POST for a rush; empty where there is none.
	Rush string
	// Now is the clock.
	Now func() time.Time
}

// Alerts are the alerts that fire; nil where nobody is asked.
type Alerts interface {
	View(l texts.Language) *view.Alerts
}

// Store implements [page.Source]. Its methods may be called from any goroutine.
type Store struct {
	settings Settings

	// sampled has a lock of its own.
	sampled sampled

	// mu guards everything declared below.
	mu      sync.Mutex
	machine *machine.Machine
	prompts *prompts.Store
	engine  *causes.Engine
	result  causes.Result
}

var _ page.Source = (*Store)(nil)

// New makes a store of which nothing is known. It fails if the product's own catalogue of XIDs
// is damaged.
func New(settings Settings) (*Store, error) {
	m, err := machine.New(settings.Machine)
	if err != nil {
		return nil, err
	}
	return &Store{settings: settings, machine: m, prompts: prompts.NewStore(settings.Prompts), engine: causes.NewEngine(settings.After)}, nil
}

// Metrics adds a scrape.
func (st *Store) Metrics(md pmetric.Metrics) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.machine.Metrics(md, st.settings.Now())
}

// Traces adds the prompts that have ended.
func (st *Store) Traces(td ptrace.Traces) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.prompts.Add(td)
}

// Logs adds events of GPUs.
func (st *Store) Logs(ld plog.Logs) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.machine.Logs(ld, st.settings.Now())
}

// MemoryRead adds a reading of a GPU's memory in use, in bytes, between two scrapes. It does not
// wait while a page is made.
func (st *Store) MemoryRead(gpu string, used int64, at time.Time) {
	st.sampled.add(gpu, reading{used, at})
}

// Evaluate finds which conditions hold. It is called about once a second, whether anybody looks
// or not: since when a condition holds is known no more precisely.
func (st *Store) Evaluate() {
	servers := st.settings.Servers.All() // before the lock: it locks those of others
	st.mu.Lock()
	defer st.mu.Unlock()
	st.catchUp()
	now := st.settings.Now()
	for i := range servers {
		s := &servers[i]
		st.machine.ServerProcess(s.Name, int64(s.PID))
		st.machine.Waiting(s.Name, oldestWait(s, now), now)
	}
	st.result = st.engine.Evaluate(st.machine, ended{st.prompts}, now)
}

// catchUp adds what the samplers have read. The caller holds mu.
func (st *Store) catchUp() {
	st.sampled.drain(func(gpu string, r reading) { st.machine.MemoryRead(gpu, r.used, r.at) })
}

// Summary is what a store knows without words.
type Summary struct {
	// Host is that of the samples; empty while there are none.
	Host       string
	Simulated  bool
	Conditions []causes.Condition
	// Prompts is how many are held.
	Prompts int
}

// Summary returns what is known now. Its conditions are shared: they are not to be changed.
func (st *Store) Summary() Summary {
	st.mu.Lock()
	defer st.mu.Unlock()
	return Summary{Host: st.machine.Host(), Simulated: st.machine.Simulated(), Conditions: st.result.Conditions, Prompts: st.prompts.Len()}
}

// Dropped counts what the limits dropped, by what it was.
func (st *Store) Dropped() map[string]int64 {
	st.mu.Lock()
	defer st.mu.Unlock()
	dropped := st.machine.Dropped()
	dropped["prompts"], dropped["traces"] = st.prompts.Losses()
	return dropped
}

// Bounds implements [bounds.Registered].
func (st *Store) Bounds() []bounds.Bound {
	all := st.sampled.Bounds()
	st.mu.Lock()
	defer st.mu.Unlock()
	all = append(all, st.machine.Bounds()...)
	return append(append(all, st.prompts.Bounds()...), st.engine.Bounds()...)
}

// ended gives the rules of the conditions the prompts that have ended.
type ended struct{ *prompts.Store }

// Ended implements [causes.Prompts].
func (e ended) Ended(after time.Time) iter.Seq[causes.Prompt] {
	return func(yield func(causes.Prompt) bool) {
		e.Since(after, func(p prompts.Ended) bool {
			return yield(causes.Prompt{
				Server: p.Server, GPUs: p.GPUs, Ended: p.At, Total: p.Total, Ran: p.Ran, Loading: p.Loading,
				Outcome: p.Outcome, ErrorType: p.ErrorType, TaskClass: p.TaskClass, Side: p.Side,
			})
		})
	}
}
