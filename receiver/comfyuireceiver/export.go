// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
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

// stopGrace bounds the last exports at shutdown.
const stopGrace = 750 * time.Millisecond

// exporter passes traces and log records to the next consumers. Each signal has a bounded
// queue and a worker of its own: callers never wait, and a refused signal does not delay
// the other.
//
// An error that is not permanent is retried until shutdown. Then each item is tried once
// more. What is dropped (a full queue, a permanent error, shutdown) is counted.
type exporter struct {
	traces consumer.Traces // nil without a pipeline
	logs   consumer.Logs   // nil without a pipeline
	// executionEvents adds a log record for each execution that starts.
	executionEvents bool

	spans       *spans.Builder
	instruments *instruments
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
}

// exportItem makes the data of one trace or log record and passes them to the next
// consumer. It makes them again for each attempt, since the next consumer may have changed
// them.
type exportItem func() error

// start begins to export; queue bounds the items of each signal.
func (e *exporter) start(queue int) {
	e.traceItems, e.logItems = make(chan exportItem, queue), make(chan exportItem, queue)
	e.stopping, e.end = context.WithCancel(context.Background())
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.workers.Go(func() { e.deliverAll("traces", e.traceItems) })
	e.workers.Go(func() { e.deliverAll("logs", e.logItems) })
}

// stop exports what is queued as far as the next consumers accept it within stopGrace,
// and drops the rest.
func (e *exporter) stop(ctx context.Context) {
	e.end()
	grace := time.AfterFunc(stopGrace, e.cancel)
	defer grace.Stop()
	defer context.AfterFunc(ctx, e.cancel)()
	e.workers.Wait()
	e.cancel()
}

// promptEnded queues the trace of a prompt, and its log record if it failed.
func (e *exporter) promptEnded(p *prompt.Prompt) {
	if e.traces != nil {
		e.enqueue("traces", e.traceItems, func() error { return e.traces.ConsumeTraces(e.ctx, e.spans.Trace(p)) })
	}
	if e.logs != nil && spans.Failed(p) {
		now := e.now()
		e.enqueue("logs", e.logItems, func() error { return e.logs.ConsumeLogs(e.ctx, e.spans.Failure(p, now)) })
	}
}

// executionStarted queues the log record of an execution that starts.
func (e *exporter) executionStarted(x prompt.Execution) {
	if e.logs != nil && e.executionEvents {
		now := e.now()
		e.enqueue("logs", e.logItems, func() error { return e.logs.ConsumeLogs(e.ctx, e.spans.Started(x, now)) })
	}
}

func (e *exporter) enqueue(signal string, items chan<- exportItem, item exportItem) {
	select {
	case items <- item:
	default:
		e.instruments.dropped(signal)
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
	for backoff := minBackoff; e.ctx.Err() == nil; backoff = min(2*backoff, maxBackoff) {
		last := e.stopping.Err() != nil
		err := item()
		if err == nil {
			if e.refused.Changed(signal, "") {
				e.log.Info("Next consumer accepts data again", zap.String("signal", signal))
			}
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
	e.instruments.dropped(signal)
}
