// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
)

// follower keeps the tracker up to date with the server: with the messages that the
// sockets relay, and with the server's queue and history for prompts about which no
// messages arrive. It observes the tracker, the proxy and the sockets, and passes on what
// they report: to the instruments, the store and the exporter. What they call is on the path
// of requests and frames, and must not block.
type follower struct {
	*instruments
	export *exporter
	bus    *comfyevents.Bus
	name   string // service.instance.id
	// freed is when the server was last asked to free its memory for a neighbour.
	freed   atomic.Pointer[time.Time]
	tracker *prompt.Tracker
	work    workSignal
	server  *comfyServer
	store   *store
	bounds  protocol.Bounds
	log     *zap.Logger
	now     func() time.Time
	// trustsPolled is true if the task class counts that a request which was polled names.
	trustsPolled bool

	// memory is nil, whose methods do nothing, if the server is not asked for its memory.
	memory    *memoryWatcher
	loading   *loadingTimes
	classes   *apiClasses
	ownSocket *ownSockets
	listener  prompt.Listener // nil in poll mode
	interval  time.Duration
	// changed holds a value if the queue has changed.
	changed chan struct{}
	// remaining is the length of the queue, by the last status.
	remaining atomic.Int64
	// queueRead is whether the server has said what its queue holds.
	queueRead atomic.Bool
	// unanswered are the stored prompts whose answer an earlier process has not seen. Only
	// reconcileLoop uses them.
	unanswered []*prompt.Prompt
	// searched is their number, for any goroutine.
	searched atomic.Int64
	// polling is the loop of poll mode; nil before it begins.
	polling atomic.Pointer[poller]
	// searchedUntil is when the search for them ends.
	searchedUntil time.Time
}

// PromptEnded implements [prompt.Observer].
func (f *follower) PromptEnded(p *prompt.Prompt) {
	defer f.publishChange()
	f.promptEnded(p)
	f.work.ended(f.now())
	f.loading.ended(p)
	f.store.changed(p, p.Save())
	f.export.reportFailure(p)
	if !f.memory.ended(p) {
		f.loaded(p)
		f.export.queueTrace(p)
	}
}

// restarted records that the server may have been restarted.
func (f *follower) restarted() {
	f.memory.restarted()
	f.loading.unloaded(f.now())
}

// publishChange says that the server's queue has changed.
func (f *follower) publishChange() { f.bus.Servers.Changed.Publish(f.name) }

// handedOver implements [settler].
func (f *follower) handedOver(p *prompt.Prompt, accepted bool) {
	if !accepted {
		f.lost()
	}
	f.store.exportedPrompt(p)
}

// ExecutionStarted implements [prompt.Observer].
func (f *follower) ExecutionStarted(x prompt.Execution) {
	defer f.publishChange()
	f.work.begins()
	f.export.executionStarted(x)
}

// ExecutionMoved implements [prompt.Observer].
func (f *follower) ExecutionMoved(x prompt.Execution, elsewhere bool) {
	f.export.executionMoved(x, elsewhere)
}

// RunsElsewhere implements [prompt.Observer].
func (f *follower) RunsElsewhere(class string) bool { return f.classes.IsAPINode(class) }

// PromptUnfollowed implements [prompt.Observer].
func (f *follower) PromptUnfollowed(p *prompt.Prompt, reason string) {
	defer f.publishChange()
	f.unfollowed(reason)
	f.work.update()
	if p != nil {
		f.store.remove(p)
	}
}

// Text implements [sockets.Observer].
func (f *follower) Text(message []byte) {
	m, ok := f.bounds.ParseMessage(message)
	switch {
	case !ok:
		if !json.Valid(message) {
			f.Unparsed()
		}
	case !m.Kind.Known():
		f.unknownEvent(string(m.Kind))
	case m.Kind == protocol.Status:
		if !m.HasRemaining {
			return
		}
		fewer := int64(m.Remaining) < f.remaining.Swap(int64(m.Remaining))
		if f.queueRead.CompareAndSwap(false, true) {
			f.publishChange()
		}
		if fewer { // a prompt has ended
			f.QueueChanged()
		}
	default:
		f.tracker.Message(f.now(), &m)
	}
}

// ClientID implements [sockets.Observer].
func (f *follower) ClientID(message []byte) (id string, ok bool) {
	m, _ := f.bounds.ParseMessage(message)
	if m.SID == "" || len(m.SID) > protocol.MaxID {
		return "", false
	}
	f.ownSocket.opened(m.SID)
	return m.SID, true
}

// QueueChanged requests a comparison with the server's queue.
func (f *follower) QueueChanged() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// exportedBefore are the prompts that earlier processes have exported.
type exportedBefore struct {
	ids []string // the oldest first
	// stored is false if none were ever stored.
	stored bool
	err    error
}

// restore follows the prompts that were open when the last process ended. It returns those
// that had ended, and whose traces are to be exported, and those that were exported.
func (f *follower) restore(ctx context.Context) (ended []*prompt.Prompt, exported exportedBefore) {
	all, err := f.store.restore(ctx)
	if err != nil {
		f.log.Warn("Failed to read stored prompts; their traces are lost", zap.Error(err))
	}
	// A prompt that has ended is not one without an answer, though its content is the same.
	exported.ids, exported.stored, exported.err = f.store.exportedIDs(ctx)
	if exported.err != nil {
		f.log.Warn("Failed to read the ids of exported prompts", zap.Error(exported.err))
	}
	f.tracker.Finished(exported.ids)
	open := 0
	var endedIDs []string
	for _, p := range all {
		switch {
		case p.Outcome != "":
			ended = append(ended, p)
			endedIDs = append(endedIDs, p.ID)
		case p.HTTPStatus == 0 && !p.Found:
			f.unanswered = append(f.unanswered, p)
			open++
		default:
			f.tracker.Restore(f.now(), p)
			open++
		}
	}
	f.tracker.Finished(endedIDs)
	f.searched.Store(int64(len(f.unanswered)))
	f.tracker.Suspect() // the server may have restarted, too
	if len(all) > 0 {
		f.log.Info("Following the prompts that were open when the last run ended",
			zap.Int("prompts", open), zap.Int("without_answer", len(f.unanswered)), zap.Int("ended", len(ended)))
	}
	return ended, exported
}

// reconcileLoop compares the open prompts with the server every interval, and whenever
// the queue has changed.
func (f *follower) reconcileLoop(ctx context.Context) {
	ticks := time.Tick(f.interval)
	for {
		begin := f.now()
		if len(f.unanswered) > 0 {
			f.searchUnanswered(ctx)
			f.searched.Store(int64(len(f.unanswered)))
		}
		f.reconcile(ctx)
		if !pause(ctx.Done(), f.rest(f.now().Sub(begin))) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-f.changed:
		case <-ticks:
		}
		f.tracker.Expire(f.now())
		f.learnClasses(ctx)
	}
}

// maxRest bounds the rest after a comparison, in intervals.
const maxRest = 10

// rest is how long to wait after a comparison before the next one: comparisons take a tenth of
// the time, unless one lasts longer than an interval, since a server that lists a queue of
// large prompts does nothing else meanwhile.
func (f *follower) rest(lasted time.Duration) time.Duration { return min(9*lasted, maxRest*f.interval) }

// maxSilence is how long a prompt whose client has a socket may go without a message
// before the server is asked about it.
const maxSilence = 10 * time.Second

// reconcile compares the open prompts with the server's queue and history.
func (f *follower) reconcile(ctx context.Context) {
	ids := f.tracker.Open(f.now().Add(-maxSilence), f.listener)
	if len(ids) == 0 {
		if !f.server.unreachable().IsZero() { // whether it is back
			_, _ = f.server.length(ctx)
		}
		return
	}
	queued, err := f.server.queued(ctx)
	if err != nil {
		if !errors.Is(err, errAnswered) {
			f.tracker.Suspect()
		}
		return
	}
	f.settle(ctx, ids, queued)
}

// settle ends the prompts that are no longer in the server's queue, by its history. What
// fails is repeated in the next round: it stops none of the others.
func (f *follower) settle(ctx context.Context, ids []string, queued map[string]protocol.Place) {
	for _, id := range ids {
		if place := queued[id]; place != protocol.NotQueued {
			f.tracker.Confirm(f.now(), id, place == protocol.Running)
			continue
		}
		finished, err := f.server.finished(ctx, id)
		switch {
		case err == nil:
			f.tracker.Settled(f.now(), finished)
		case errors.Is(err, errNotInHistory):
			f.tracker.Missing(f.now(), id)
		case errors.Is(err, errAnswered):
			f.tracker.Unreadable(f.now(), id)
		default: // the server cannot be reached
			f.tracker.Suspect()
			return
		}
	}
}

// maxForgotten bounds the entries that are read before a client deletes them, and
// maxForgetting the time that this takes of the client's.
const (
	maxForgotten  = 256
	maxForgetting = 2 * time.Second
)

// openOnly is a [protocol.Known] that reads the open prompts of a tracker.
type openOnly struct{ *prompt.Tracker }

// Has implements [protocol.Known].
func (o openOnly) Has(id string) bool { return !o.IsOpen(id) }

// beforeForgetting ends the open prompts whose entries of the history a client is about to
// delete, by those entries.
func (f *follower) beforeForgetting(ctx context.Context, r protocol.Removal) {
	ctx, cancel := context.WithTimeout(ctx, maxForgetting)
	defer cancel()
	if r.Clear && f.tracker.OpenCount() > 0 {
		history, err := f.server.history(ctx, "", openOnly{f.tracker})
		if err == nil {
			for _, finished := range history.Finished {
				f.tracker.Settled(f.now(), finished)
			}
		}
	}
	ids := f.tracker.Among(r.Delete)
	for _, id := range ids[:min(len(ids), maxForgotten)] {
		finished, err := f.server.finished(ctx, id)
		switch {
		case err == nil:
			f.tracker.Settled(f.now(), finished)
		case !errors.Is(err, errNotInHistory) && !errors.Is(err, errAnswered):
			return
		}
	}
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
			f.tracker.Suspect()
			f.server.withoutJobs.Store(false)
			f.restarted()
			f.QueueChanged()
		}
		f.log.Debug("The receiver's socket to ComfyUI is closed; reconnecting", zap.Duration("after", backoff), zap.Error(err))
		if !pause(ctx.Done(), backoff) {
			return
		}
	}
}
