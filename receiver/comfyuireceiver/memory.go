// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// memoryWatcher asks the server for its memory (/system_stats): while a prompt runs, once
// after its end, and once after a start of the collector or of the server. It asks one
// question at a time, with a client of its own. The trace of a prompt waits for the answer
// after its end.
type memoryWatcher struct {
	*instruments
	server *comfyServer
	device *deviceFinder
	store  *store
	now    func() time.Time
	open   openPrompts
	// loading learns when the server's process is another one.
	loading *loadingTimes
	// export gets the prompts whose figures are complete.
	export *exporter
	wake   chan struct{}

	// mu guards everything declared below. It is not held while the server is asked.
	mu      sync.Mutex
	pace    *memory.Pace
	history memory.History
	outside memory.Outside
	former  memory.Learned // by an earlier process of the collector, or since
	needs   *memory.Needs
	ending  []endingPrompt
	asked   time.Time // the last question
	planned time.Time // the next one while a prompt is open; zero while none is
	lastEnd time.Time // of a prompt
	failed  time.Time // when the last question was asked that had no answer
	// starts is true if the server has not been asked since its start, or the collector's.
	starts bool
	// last is the last answer, before the one before; nil before they are there. unmatched
	// is one that has not been compared with a list of processes.
	last, before, unmatched *memoryAnswer
	// compared is when one was, listed when the list was last read for that.
	compared, listed time.Time
	// retries are the newest in the server's log, which is read if retriesOn is true: at most
	// protocol.MaxRetries.
	retries   []protocol.Retry
	retriesOn bool
	// elasticOf are the attributes of the elastic memory in the last scrape.
	elasticOf attribute.Set
	// without is true if the server uses no GPU, by its last answer.
	without, closed bool
}

// openPrompts counts the prompts that the server has accepted and not finished. While there is
// one, one runs.
type openPrompts interface{ OpenCount() int }

// The results of questions.
const (
	memoryAnswered = "answered"
	memoryLate     = "late"
	memoryFailed   = "failed"
	memorySkipped  = "skipped"
)

// memoryAsked counts a question, or one that was not asked.
func (m *instruments) memoryAsked(result string) {
	m.telemetry.ReceiverComfyuiMemoryRequests.Add(context.Background(), 1, metric.WithAttributes(attribute.String("result", result)))
}

type memoryAnswer struct {
	protocol.Stats
	asked, at time.Time
	// rests is true if the server's queue was empty, fresh if it had not run a prompt either.
	rests, fresh bool
}

type endingPrompt struct {
	prompt   *prompt.Prompt
	deadline time.Time
}

const (
	// memoryTimeout bounds each question.
	memoryTimeout = time.Second
	// maxEnding bounds how long a trace waits for the answer after its end, and
	// maxEndingPrompts how many wait.
	maxEnding        = 2 * time.Second
	maxEndingPrompts = 256
	// minQuestions is the shortest time between two questions.
	minQuestions = 100 * time.Millisecond
	// maxNeedClasses bounds the classes of prompts whose need is remembered.
	maxNeedClasses = 500
	// startRetry is how often a server that does not answer is asked after its start.
	startRetry = 5 * time.Second

	memoryKey = "memory"
)

// begin reads what an earlier process of the collector has learned.
func (m *memoryWatcher) begin(ctx context.Context) {
	if m.store.client != nil {
		_ = m.store.get(ctx, memoryKey, &m.former) // what is damaged is learned again
	}
}

// restarted records that the server may have been restarted.
func (m *memoryWatcher) restarted() {
	if m == nil {
		return
	}
	m.mu.Lock()
	m.history.Restarted()
	m.before, m.unmatched, m.starts, m.without, m.asked = nil, nil, true, false, time.Time{}
	m.server.withoutLog.Store(false)
	m.mu.Unlock()
	m.notify()
}

// ended records that a prompt has ended. It reports whether the prompt's trace waits.
func (m *memoryWatcher) ended(p *prompt.Prompt) (waits bool) {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.notify()
	defer m.mu.Unlock()
	m.lastEnd = m.now()
	if m.closed || m.without || p.Started.IsZero() || len(m.ending) == maxEndingPrompts {
		return false
	}
	m.ending = append(m.ending, endingPrompt{p, m.now().Add(maxEnding)})
	return true
}

// notify has the watcher find out what is due: prompts may have been accepted or ended.
func (m *memoryWatcher) notify() {
	if m == nil {
		return
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func newMemoryWatcher(interval time.Duration, server *comfyServer, f *follower, device *deviceFinder, export *exporter) *memoryWatcher {
	return &memoryWatcher{
		instruments: f.instruments, server: server, device: device, store: f.store, now: f.now, open: f.tracker, loading: f.loading, export: export, wake: make(chan struct{}, 1),
		pace: memory.NewPace(interval, rand.Uint64()), needs: memory.NewNeeds(maxNeedClasses), starts: true,
	}
}

// watchMemory begins to ask the server for its memory, with a client for that alone.
func (r *comfyuiReceiver) watchMemory(ctx context.Context, host component.Host, running context.Context) error {
	if r.cfg.Memory.Interval == 0 {
		return nil
	}
	client, err := r.client(ctx, host)
	if err != nil {
		return err
	}
	of := r.following.server
	server := &comfyServer{base: of.base, client: client, telemetry: of.telemetry, bounds: of.bounds}
	m := newMemoryWatcher(r.cfg.Memory.Interval, server, r.following, r.device, r.export)
	m.retriesOn = r.cfg.Memory.Retries
	m.begin(ctx)
	r.following.memory = m
	r.work.Go(func() {
		defer client.CloseIdleConnections()
		m.run(running)
	})
	return nil
}

// run asks until ctx ends, and then exports what waits.
func (m *memoryWatcher) run(ctx context.Context) {
	defer m.close()
	for {
		timer := time.NewTimer(m.step(ctx))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-m.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (m *memoryWatcher) close() {
	m.mu.Lock()
	m.closed = true
	complete := m.complete(m.now(), true)
	m.mu.Unlock()
	m.pass(complete)
}

// step does what is due, and returns the time until something is.
func (m *memoryWatcher) step(ctx context.Context) time.Duration {
	process := m.device.process()
	m.mu.Lock()
	now := m.now()
	m.is(process)
	learned := m.match(now)
	if learned {
		m.former = m.outside.Learned()
	}
	former := m.former
	m.plan(now)
	due, skipped := m.due(now)
	if skipped {
		m.memoryAsked(memorySkipped)
		m.hasAsked(now)
	}
	m.mu.Unlock()
	if learned {
		m.save(ctx, former)
	}
	if due {
		m.ask(ctx)
	}
	m.mu.Lock()
	now = m.now()
	complete, wait := m.complete(now, skipped), m.wait(now)
	m.mu.Unlock()
	m.pass(complete)
	return wait
}

func (m *memoryWatcher) pass(complete []*prompt.Prompt) {
	for _, p := range complete {
		m.loaded(p)
		m.export.queueTrace(p)
	}
}

// plan decides when the server is asked first of the prompts that are open. The caller holds
// the lock.
func (m *memoryWatcher) plan(now time.Time) {
	switch open := m.open.OpenCount() > 0; {
	case !open:
		m.planned = time.Time{}
	case m.planned.IsZero():
		m.planned = now.Add(m.pace.First())
	}
}

// hasAsked records when a question was asked, or would have been. The caller holds the lock.
func (m *memoryWatcher) hasAsked(now time.Time) {
	m.asked = now
	if !m.planned.IsZero() {
		m.planned = now.Add(m.pace.Next())
	}
}

// dueAt is when the next question is due; ok is false if none is. The caller holds the lock.
func (m *memoryWatcher) dueAt() (at time.Time, ok bool) {
	switch {
	case m.without: // until the server starts again
	case !m.planned.IsZero():
		return m.planned, true
	case len(m.ending) > 0:
		return m.asked.Add(minQuestions), true
	case m.starts:
		return m.asked.Add(startRetry), true
	}
	return time.Time{}, false
}

// due reports whether a question is to be asked, or would be if there had not been too many.
// The caller holds the lock.
func (m *memoryWatcher) due(now time.Time) (due, skipped bool) {
	at, ok := m.dueAt()
	if !ok || now.Before(at) {
		return false, false
	}
	allowed := m.pace.Allows(now)
	return allowed, !allowed
}

// wait is the time until something is due. The caller holds the lock.
func (m *memoryWatcher) wait(now time.Time) time.Duration {
	wait := time.Hour
	if at, ok := m.dueAt(); ok {
		wait = min(wait, at.Sub(now))
	}
	for i := range m.ending {
		wait = min(wait, m.ending[i].deadline.Sub(now))
	}
	wait = min(wait, m.device.verified())
	if m.unmatched != nil {
		wait = min(wait, m.unmatched.at.Add(memory.MaxSkew).Sub(now))
	}
	return max(wait, 0)
}

// complete removes the prompts that have what they waited for, or wait no longer. With all,
// no prompt waits if none runs. The caller holds the lock.
func (m *memoryWatcher) complete(now time.Time, all bool) (complete []*prompt.Prompt) {
	all = all && (m.closed || m.open.OpenCount() == 0)
	m.ending = slices.DeleteFunc(m.ending, func(e endingPrompt) bool {
		if !all && now.Before(e.deadline) && !m.history.Has(e.prompt.Ended) && m.failed.Before(e.prompt.Ended) {
			return false
		}
		m.figures(e.prompt)
		complete = append(complete, e.prompt)
		return true
	})
	return complete
}

// figures sets what was seen while a prompt ran. The caller holds the lock.
func (m *memoryWatcher) figures(p *prompt.Prompt) {
	p.SetRetries(m.retries)
	m.loading.grew(p, &m.history)
	f := memory.Figures{Use: m.history.Use(p.Started, p.Ended)}
	if f.Samples == 0 && f.ReservedPeak == nil {
		return
	}
	if f.ActivePeak != nil {
		f.Need, f.Executions = m.needs.Add(memory.Class{
			Workflow: m.label(m.workflows, p.Submission.Workflow, true), Model: m.label(m.models, p.Sizing.Model, true),
			SizeClass: spans.SizeClass(p.Sizing.Side()), GPU: m.device.Device().ID,
		}, *f.ActivePeak)
	}
	f.Context, _ = m.outside.Context()
	p.Memory = &f
}
