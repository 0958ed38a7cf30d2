// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// Pauses between two attempts to export what the next consumer refused.
const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// stopGrace bounds the last exports at shutdown; abandonAfter is how long a next consumer
// that does not return is waited for after that.
const (
	stopGrace    = 500 * time.Millisecond
	abandonAfter = 250 * time.Millisecond
)

// exporter passes traces and log records to the next consumers. Each signal has a bounded
// queue and a worker of its own: callers never wait, and a refused signal does not delay
// the other.
//
// An error that is not permanent is retried until shutdown. Then each item is tried once
// more. What is dropped (a full queue, a permanent error, shutdown) is counted, unless it
// stays in the store.
type exporter struct {
	traces consumer.Traces // nil without a pipeline
	logs   consumer.Logs   // nil without a pipeline
	// executionEvents adds a log record for each execution that starts.
	executionEvents bool

	spans       *spans.Builder
	instruments *instruments
	handovers   *handovers
	log         *zap.Logger
	now         func() time.Time

	traceItems, logItems chan exportItem

	refused logonce.Tracker

	stopping context.Context // ends when stop begins
	// ctx ends with the last call of a next consumer.
	ctx     context.Context
	end     context.CancelFunc
	cancel  context.CancelFunc
	workers sync.WaitGroup
	// grace is for how long the last exports may go on at shutdown.
	grace time.Duration
}

// exportItem is one trace or log record.
type exportItem interface {
	// send makes the data and passes them to the next consumer. It makes them again for each
	// attempt, since the next consumer may have changed them.
	send() error
	// done is called once, with the error of the last attempt, or errLeft.
	done(err error)
	// isKept reports whether it is stored for the next process.
	isKept() bool
}

// traceItem is the trace of a prompt.
type traceItem struct {
	*exporter
	prompt *prompt.Prompt
}

func (i traceItem) send() error    { return i.traces.ConsumeTraces(i.ctx, i.spans.Trace(i.prompt)) }
func (i traceItem) done(err error) { i.handovers.passed(i.prompt, err) }
func (i traceItem) isKept() bool   { return i.prompt.Slot != noSlot }

// failureItem is the log record of a prompt that failed.
type failureItem struct {
	*exporter
	prompt *prompt.Prompt
	at     time.Time
}

func (i failureItem) send() error { return i.logs.ConsumeLogs(i.ctx, i.spans.Failure(i.prompt, i.at)) }
func (failureItem) done(error)    {}
func (failureItem) isKept() bool  { return false }

// admissionItem is the log record of a prompt that its advisor did not admit.
type admissionItem struct {
	*exporter
	prompt *prompt.Prompt
	at     time.Time
}

func (i admissionItem) send() error {
	return i.logs.ConsumeLogs(i.ctx, i.spans.Admission(i.prompt, i.at))
}
func (admissionItem) done(error)   {}
func (admissionItem) isKept() bool { return false }

// inputItem is the log record of a prompt with poor input.
type inputItem struct {
	*exporter
	prompt *prompt.Prompt
	at     time.Time
}

func (i inputItem) send() error { return i.logs.ConsumeLogs(i.ctx, i.spans.Input(i.prompt, i.at)) }
func (inputItem) done(error)    {}
func (inputItem) isKept() bool  { return false }

// startItem is the log record of an execution that starts.
type startItem struct {
	*exporter
	execution prompt.Execution
	at        time.Time
}

func (i startItem) send() error { return i.logs.ConsumeLogs(i.ctx, i.spans.Started(i.execution, i.at)) }
func (startItem) done(error)    {}
func (startItem) isKept() bool  { return false }

// moveItem is the log record of an execution that runs elsewhere from then on, or is back.
type moveItem struct {
	*exporter
	execution prompt.Execution
	elsewhere bool
	at        time.Time
}

func (i moveItem) send() error {
	return i.logs.ConsumeLogs(i.ctx, i.spans.Moved(i.execution, i.elsewhere, i.at))
}
func (moveItem) done(error)   {}
func (moveItem) isKept() bool { return false }

var errNotSent = errors.New("not sent before shutdown")

// start begins to export; queue bounds the items of each signal.
func (e *exporter) start(queue int) {
	e.traceItems, e.logItems = make(chan exportItem, queue), make(chan exportItem, queue)
	e.stopping, e.end = context.WithCancel(context.Background())
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.workers.Go(func() { e.deliverAll("traces", e.traceItems) })
	e.workers.Go(func() { e.deliverAll("logs", e.logItems) })
}

// stop exports what is queued, and then the unfinished prompts, as far as the next
// consumers accept them within stopGrace, and drops the rest. A next consumer that does not
// return is abandoned.
func (e *exporter) stop(ctx context.Context, unfinished []*prompt.Prompt) {
	e.end()
	grace := time.AfterFunc(e.grace, e.cancel)
	defer grace.Stop()
	defer context.AfterFunc(ctx, e.cancel)()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		e.workers.Wait()
		e.deliverUnfinished(unfinished)
	}()
	select {
	case <-ended:
	case <-e.ctx.Done():
		if pause(ended, abandonAfter) {
			e.log.Error("Next consumer does not return; shutting down without it")
		}
	}
	e.cancel()
}

// maxMerged bounds the prompts whose traces are exported at a time at shutdown.
const maxMerged = 256

// deliverUnfinished exports the traces of prompts that were open at shutdown, many at a
// time.
func (e *exporter) deliverUnfinished(unfinished []*prompt.Prompt) {
	if e.traces == nil {
		return
	}
	for len(unfinished) > 0 {
		n := min(len(unfinished), maxMerged)
		td := ptrace.NewTraces()
		for _, p := range unfinished[:n] {
			e.spans.Trace(p).ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
		}
		if e.ctx.Err() != nil || e.traces.ConsumeTraces(e.ctx, td) != nil {
			e.instruments.dropped("traces", n)
		}
		unfinished = unfinished[n:]
	}
}

// reportFailure queues the log records of a prompt that failed, of one that its advisor did not
// admit, and of one with poor input.
func (e *exporter) reportFailure(p *prompt.Prompt) {
	if e.logs == nil {
		return
	}
	if spans.NotAdmitted(p) {
		e.enqueue("logs", e.logItems, admissionItem{e, p, e.now()})
	}
	if spans.PoorInput(p) {
		e.enqueue("logs", e.logItems, inputItem{e, p, e.now()})
	}
	if spans.Failed(p) {
		e.enqueue("logs", e.logItems, failureItem{e, p, e.now()})
	}
}

// queueTrace queues the trace of a prompt.
func (e *exporter) queueTrace(p *prompt.Prompt) {
	if !e.handovers.begin(p) {
		e.instruments.beyondLimit("handover", 1)
	}
	if e.traces == nil {
		e.handovers.passed(p, nil)
		return
	}
	e.enqueue("traces", e.traceItems, traceItem{e, p})
}

// exportRestored exports the traces that an earlier process has stored, as fast as the next
// consumer accepts them. What is left at shutdown stays in the store.
func (e *exporter) exportRestored(ctx context.Context, restored []*prompt.Prompt) {
	for _, p := range restored {
		if !e.handovers.begin(p) {
			continue
		}
		if e.traces == nil {
			e.handovers.passed(p, nil)
			continue
		}
		select {
		case e.traceItems <- traceItem{e, p}:
		case <-ctx.Done():
			e.handovers.passed(p, errLeft)
			return
		}
	}
}

// executionStarted queues the log record of an execution that starts.
func (e *exporter) executionStarted(x prompt.Execution) {
	if e.logs != nil && e.executionEvents {
		e.enqueue("logs", e.logItems, startItem{e, x, e.now()})
	}
}

// executionMoved queues the log record of an execution that runs elsewhere from then on.
func (e *exporter) executionMoved(x prompt.Execution, elsewhere bool) {
	if e.logs != nil && e.executionEvents {
		e.enqueue("logs", e.logItems, moveItem{e, x, elsewhere, e.now()})
	}
}

// errLeft: the trace is left to the next process.
var errLeft = errors.New("left in the store")

var errQueueFull = errors.New("the receiver's queue is full")

func (e *exporter) enqueue(signal string, items chan<- exportItem, item exportItem) {
	select {
	case items <- item:
	default:
		e.drop(signal, item, errQueueFull)
	}
}

// deliverAll delivers items until stop begins, and then those that are left.
func (e *exporter) deliverAll(signal string, items <-chan exportItem) {
	for {
		select {
		case item := <-items:
			e.deliver(signal, item)
		case <-e.stopping.Done():
			for range len(items) {
				e.deliver(signal, <-items)
			}
			return
		}
	}
}

// deliver tries an item until it succeeds, fails permanently, or the exporter stops.
func (e *exporter) deliver(signal string, item exportItem) {
	err := errNotSent
	for backoff := minBackoff; e.ctx.Err() == nil; backoff = min(2*backoff, maxBackoff) {
		last := e.stopping.Err() != nil
		err = item.send()
		if err == nil {
			if e.refused.Changed(signal, "") {
				e.log.Info("Next consumer accepts data again", zap.String("signal", signal))
			}
			item.done(nil)
			return
		}
		if consumererror.IsPermanent(err) {
			if e.refused.Changed(signal, "permanent") {
				e.log.Error("Next consumer returned a permanent error; its data are dropped", zap.String("signal", signal), zap.Error(err))
			}
			break
		}
		if e.refused.Changed(signal, "retryable") {
			e.log.Warn("Next consumer returned a retryable error; retrying", zap.String("signal", signal), zap.Error(err))
		}
		if last {
			break
		}
		pause(e.stopping.Done(), backoff)
	}
	e.drop(signal, item, err)
}

// drop gives an item up. At shutdown, a prompt that is stored is left to the next process.
func (e *exporter) drop(signal string, item exportItem, err error) {
	if item.isKept() && e.stopping.Err() != nil && !consumererror.IsPermanent(err) {
		item.done(errLeft)
		return
	}
	e.instruments.dropped(signal, 1)
	item.done(err)
}
