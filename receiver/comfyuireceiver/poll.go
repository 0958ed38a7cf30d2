// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// poller follows a server by its queue and history alone. Only its loop uses it.
type poller struct {
	*follower
	failing logonce.Tracker

	mu sync.Mutex
	// exported are the prompts of the history whose traces were exported; guarded by mu.
	exported *prompt.Recent
	// first is true if nothing was stored: the history is from before the first run.
	first bool
}

// Bounds of the history's pages, in entries. A page is doubled while all of it is new.
const (
	minPage = 64
	maxPage = 16384
)

// maxExported bounds the prompts that are remembered. The server's history holds 10,000.
const maxExported = 20000

// poll reads the queue and the history every interval.
func (f *follower) poll(ctx context.Context, before exportedBefore) {
	if before.err != nil {
		f.log.Warn("Failed to read the ids of exported prompts; the prompts in the history are not exported", zap.Error(before.err))
	}
	p := &poller{follower: f, exported: prompt.NewRecent(maxExported, before.ids...), first: !before.stored}
	f.polling.Store(p)
	every(ctx, f.interval, func() {
		err := p.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && p.failing.First("poll"):
			f.log.Warn("Failed to poll ComfyUI; retrying", zap.Error(err))
		case err == nil && p.failing.Changed("poll", ""):
			f.log.Info("ComfyUI can be polled again")
			f.restarted()
		}
	})
}

// refresh updates the tracker. The queue is read before the history, so that no prompt
// moves from one to the other unseen.
func (p *poller) refresh(ctx context.Context) error {
	queue, err := p.server.queue(ctx, p.tracker)
	if err != nil {
		p.tracker.Suspect()
		return err
	}
	now := p.now()
	for i := range queue.Prompts {
		q := &queue.Prompts[i]
		p.recover(q, acceptedAt(q, now), now)
	}
	p.memory.notify()
	if err := p.history(ctx); err != nil {
		return err
	}
	p.settle(ctx, p.tracker.Open(now, nil), queue.IDs)
	p.queueRead.Store(true)
	return nil
}

// acceptedAt is when the server accepted a prompt; zero if that is unknown, or is in the
// future by this host's clock.
func acceptedAt(s *protocol.Submission, now time.Time) time.Time {
	if s.Created.After(now) {
		return time.Time{}
	}
	return s.Created
}

// recover follows a prompt that the server accepted at a time, or if that is zero, at about
// another. It reports whether the prompt is followed, or was.
func (p *poller) recover(s *protocol.Submission, accepted, about time.Time) bool {
	if s.HasLongID() {
		p.PromptUnfollowed(nil, prompt.LongID)
		return true
	}
	found := prompt.Discovered(s, cmp.Or(accepted, about), !accepted.IsZero())
	if !p.trustsPolled { // an advisor here would count it as more urgent than it is
		found.Distrust()
	}
	return p.tracker.Recover(p.now(), found) || p.tracker.Has(s.PromptID)
}

// Has implements [protocol.Known] for the history.
func (p *poller) Has(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exported.Has(id)
}

func (p *poller) add(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exported.Add(id)
}

// history ends the prompts of the history that were not exported yet.
func (p *poller) history(ctx context.Context) error {
	entries, err := p.unexported(ctx)
	if err != nil {
		return err
	}
	for _, f := range entries {
		if p.first {
			// it ended before the receiver was first started
			p.add(f.PromptID)
			p.store.addExported(f.PromptID)
			continue
		}
		if !p.recover(&f.Submission, acceptedAt(&f.Submission, p.now()), cmp.Or(f.Start(), p.now())) {
			continue // too many are open: the next round tries again
		}
		p.add(f.PromptID)
		p.tracker.Settled(p.now(), f)
	}
	if !p.first {
		return nil
	}
	p.first = false
	return p.store.beginExported(ctx)
}

// unexported reads the entries of the history that were not exported, oldest first.
func (p *poller) unexported(ctx context.Context) ([]*protocol.Finished, error) {
	var page protocol.History
	for size := minPage; ; size *= 2 {
		var err error
		if page, err = p.server.history(ctx, "?max_items="+strconv.Itoa(size), p); err != nil {
			return nil, err
		}
		if page.Entries < size || len(page.Finished) < page.Entries || size >= maxPage || p.first {
			break
		}
	}
	return slices.SortedFunc(maps.Values(page.Finished), func(a, b *protocol.Finished) int {
		return cmp.Or(a.Start().Compare(b.Start()), cmp.Compare(a.PromptID, b.PromptID))
	}), nil
}
