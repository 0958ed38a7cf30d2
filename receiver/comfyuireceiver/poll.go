// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// poller follows a server by its queue and history alone. Only its loop uses it.
type poller struct {
	*follower
	// exported are the prompts of the history whose traces were emitted.
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
func (f *follower) poll(ctx context.Context) {
	ids, err := f.store.exported(ctx)
	if err != nil {
		f.log.Warn("Failed to read the ids of exported prompts; the prompts in the history are not exported", zap.Error(err))
	}
	p := &poller{follower: f, exported: prompt.NewRecent(maxExported, ids...), first: ids == nil}
	var failing logonce.Tracker
	every(ctx, f.interval, func() {
		err := p.refresh(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && failing.First("poll"):
			f.log.Warn("Failed to poll ComfyUI; retrying", zap.Error(err))
		case err == nil && failing.Changed("poll", ""):
			f.log.Info("ComfyUI can be polled again")
		}
		f.store.save(ctx, f.tracker)
	})
}

// refresh updates the tracker. The queue is read before the history, so that no prompt
// moves from one to the other unseen.
func (p *poller) refresh(ctx context.Context) error {
	wasUnreachable := p.unreachable.Load()
	queue, err := p.server.queue(ctx)
	if err != nil {
		p.unreachable.Store(true)
		return err
	}
	now := p.now()
	for _, q := range queue.All() {
		p.recover(&q, now)
	}
	if err := p.history(ctx); err != nil {
		return err
	}
	return p.settle(ctx, p.tracker.Open(now), &queue, wasUnreachable)
}

func (p *poller) recover(s *protocol.Submission, received time.Time) {
	p.tracker.Recover(
		p.now(),
		prompt.Discovery{Request: prompt.Request{Submission: *s, Parent: prompt.ParseTraceparent(s.Traceparent)}, Received: received},
	)
}

// history ends the prompts of the history that were not exported yet.
func (p *poller) history(ctx context.Context) error {
	entries, err := p.unexported(ctx)
	if err != nil || len(entries) == 0 && !p.first {
		return err
	}
	for _, f := range entries {
		p.exported.Add(f.PromptID)
		if p.first {
			// it ended before the receiver was first started
			continue
		}
		received := f.Start()
		if received.IsZero() {
			received = p.now()
		}
		p.recover(&f.Submission, received)
		p.tracker.Settled(p.now(), f)
	}
	p.first = false
	return p.store.set(ctx, exportedKey, p.exported.IDs())
}

// unexported reads the entries of the history that were not exported, oldest first.
func (p *poller) unexported(ctx context.Context) (entries []*protocol.Finished, err error) {
	for size := minPage; ; size *= 2 {
		page, err := p.server.history(ctx, "?max_items="+strconv.Itoa(size))
		if err != nil {
			return nil, err
		}
		entries = entries[:0]
		for id, f := range page {
			if !p.exported.Has(id) {
				entries = append(entries, &f)
			}
		}
		if len(page) < size || len(entries) < len(page) || size >= maxPage || p.first {
			break
		}
	}
	slices.SortFunc(entries, func(a, b *protocol.Finished) int {
		return cmp.Or(a.Start().Compare(b.Start()), cmp.Compare(a.PromptID, b.PromptID))
	})
	return entries, nil
}
