// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
)

// follower keeps the tracker up to date with the server: with the messages that the
// sockets relay, and with the server's queue and history for prompts about which no
// messages arrive. It observes the tracker, the proxy and the sockets, and passes on what
// they report: to the instruments and the exporter. What they call is on the path of
// requests and frames, and must not block.
type follower struct {
	*instruments
	export  *exporter
	tracker *prompt.Tracker
	server  *comfyServer
	store   *store
	log     *zap.Logger
	now     func() time.Time

	interval time.Duration
	// changed holds a value if the queue has changed.
	changed chan struct{}
	// remaining is the length of the queue, by the last status.
	remaining atomic.Int64
	// unreachable is true if the server could not be reached since the last comparison: it
	// may have restarted without its queue.
	unreachable atomic.Bool
}

// PromptEnded implements [prompt.Observer].
func (f *follower) PromptEnded(p *prompt.Prompt) {
	f.promptEnded(p)
	f.export.promptEnded(p)
}

// ExecutionStarted implements [prompt.Observer].
func (f *follower) ExecutionStarted(x prompt.Execution) { f.export.executionStarted(x) }

// Text implements [sockets.Observer].
func (f *follower) Text(message []byte) {
	m, ok := protocol.ParseMessage(message)
	switch {
	case ok && m.HasRemaining:
		if n := int64(m.Remaining); n < f.remaining.Swap(n) { // a prompt has ended
			f.QueueChanged()
		}
	case ok:
		f.tracker.Message(f.now(), &m)
	case !json.Valid(message):
		f.Unparsed()
	}
}

// QueueChanged requests a comparison with the server's queue.
func (f *follower) QueueChanged() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// restore follows the prompts that were open when the last process ended.
func (f *follower) restore(ctx context.Context) {
	open, err := f.store.open(ctx)
	if err != nil {
		f.log.Warn("Failed to read the open prompts of the last run; their traces are lost", zap.Error(err))
	}
	for i := range open {
		f.tracker.Recover(f.now(), open[i].Discovery())
	}
	if len(open) > 0 {
		f.log.Info("Following the prompts that were open when the last run ended", zap.Int("prompts", len(open)))
	}
}

// reconcileLoop compares the open prompts with the server every interval, and whenever
// the queue has changed.
func (f *follower) reconcileLoop(ctx context.Context) {
	ticks := time.Tick(f.interval)
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
		case <-ticks:
		}
		f.tracker.Expire(f.now())
		f.reconcile(ctx)
	}
}

// maxSilence is how long a prompt whose client has a socket may go without a message
// before the server is asked about it.
const maxSilence = 10 * time.Second

// reconcile compares the open prompts with the server's queue and history.
func (f *follower) reconcile(ctx context.Context) {
	ids := f.tracker.Open(f.now().Add(-maxSilence))
	if len(ids) == 0 {
		return
	}
	wasUnreachable := f.unreachable.Load()
	queue, err := f.server.queue(ctx)
	if err != nil {
		f.unreachable.Store(true)
		return
	}
	// what fails is repeated in the next round
	_ = f.settle(ctx, ids, &queue, wasUnreachable)
}

// settle ends the prompts that are no longer in the server's queue, by its history.
func (f *follower) settle(ctx context.Context, ids []string, queue *protocol.Queue, wasUnreachable bool) error {
	queued := map[string]bool{}
	for _, q := range queue.All() {
		queued[q.PromptID] = true
	}
	for _, id := range ids {
		if queued[id] {
			continue
		}
		finished, err := f.server.finished(ctx, id)
		switch {
		case err == nil:
			f.tracker.Settled(f.now(), &finished)
		case errors.Is(err, errNotInHistory):
			f.tracker.Missing(f.now(), id, wasUnreachable)
		default:
			return err
		}
	}
	f.unreachable.CompareAndSwap(wasUnreachable, false)
	return nil
}

// Pauses between two attempts to connect the receiver's socket.
const (
	minReconnect = 500 * time.Millisecond
	maxReconnect = 10 * time.Second
)

// watch keeps a socket of the receiver's own open. The server sends it what goes to all
// sockets: the length of the queue, and the progress of prompts without a client id
// (these must not be given one, since then their progress would no longer go to all).
func (f *follower) watch(ctx context.Context, hub *sockets.Hub) {
	for backoff := minReconnect; ; backoff = min(2*backoff, maxReconnect) {
		err := hub.Watch(ctx, "otelcol-gpu-"+prompt.NewSpanID().String())
		if err == nil { // it was connected
			backoff = minReconnect
			f.unreachable.Store(true)
			f.QueueChanged()
		}
		f.log.Debug("The receiver's socket to ComfyUI is closed; reconnecting", zap.Duration("after", backoff), zap.Error(err))
		if !pause(ctx.Done(), backoff) {
			return
		}
	}
}
