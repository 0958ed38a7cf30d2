// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// restore takes up the prompts that were open when the last process was killed.
func (s *service) restore(ctx context.Context) {
	open, err := s.store.open(ctx)
	if err != nil {
		s.log.Warn("the open prompts of the last run cannot be read", zap.Error(err))
	}
	for i := range open {
		k := &open[i]
		own, parent := k.Contexts()
		s.tracker.Recover(s.now(), k.ID, k.Submission(), k.Received, own, parent)
	}
	if len(open) > 0 {
		s.log.Info("prompts that were open when the last run ended are followed to their end", zap.Int("prompts", len(open)))
	}
}

// poller is what poll mode knows between two looks.
type poller struct {
	*service
	told  map[string]bool
	order []string // of told, as the history had them
	first bool     // nothing is known of what was told before
}

// firstPage is how many entries of the history are asked for at first; as long as
// all of a page are new, twice as many.
const (
	firstPage   = 64
	largestPage = 16384
)

// poll reads the queue and the history.
func (s *service) poll(ctx context.Context) {
	p := &poller{service: s, told: map[string]bool{}}
	ids, err := s.store.told(ctx)
	if err != nil {
		s.log.Warn("which prompts were told before cannot be read; those in the history are left out", zap.Error(err))
	}
	p.first = ids == nil
	for _, id := range ids {
		p.told[id] = true
	}
	ticker := time.NewTicker(s.cfg.PollInterval)
	defer ticker.Stop()
	said := false
	for {
		err := p.look(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !said:
			s.log.Warn("ComfyUI cannot be polled; trying again", zap.Error(err))
		case err == nil && said:
			s.log.Info("ComfyUI can be polled again")
		}
		said = err != nil
		s.store.save(ctx, s.tracker)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// look brings the tracker up to date with the server. The queue is read before the
// history, so that no prompt falls between the two.
func (p *poller) look(ctx context.Context) error {
	away := p.away.Load()
	queue, err := p.upstream.queue(ctx)
	if err != nil {
		p.away.Store(true)
		return err
	}
	now := p.now()
	for _, list := range [][]protocol.Queued{queue.Running, queue.Pending} {
		for i := range list {
			p.tracker.Recover(now, list[i].ID, list[i].Submission, now, trace.SpanContext{}, parentOf(nil, list[i].Traceparent))
		}
	}
	if err := p.history(ctx); err != nil {
		return err
	}
	return p.settle(ctx, p.tracker.Open(now), &queue, away)
}

// history tells the finished prompts that were not told yet.
func (p *poller) history(ctx context.Context) error {
	var page map[string]protocol.Finished
	for size := firstPage; ; size *= 2 {
		body, err := p.upstream.get(ctx, "/history?max_items="+strconv.Itoa(size))
		if err != nil {
			return err
		}
		if page, err = protocol.ParseHistory(body); err != nil {
			return err
		}
		fresh := 0
		for id := range page {
			if !p.told[id] {
				fresh++
			}
		}
		if len(page) < size || fresh < len(page) || size >= largestPage || p.first {
			break
		}
	}
	entries := make([]*protocol.Finished, 0, len(page))
	for id := range page {
		f := page[id]
		entries = append(entries, &f)
	}
	slices.SortFunc(entries, func(a, b *protocol.Finished) int {
		return cmp.Or(a.Start().Compare(b.Start()), cmp.Compare(a.ID, b.ID))
	})
	changed := p.first
	for _, f := range entries {
		if p.told[f.ID] {
			continue
		}
		p.told[f.ID] = true
		p.order = append(p.order, f.ID)
		changed = true
		if p.first {
			continue // it was there before anybody looked
		}
		received := f.Start()
		if received.IsZero() {
			received = p.now()
		}
		p.tracker.Recover(p.now(), f.ID, f.Submission, received, trace.SpanContext{}, parentOf(nil, f.Traceparent))
		p.tracker.Settled(p.now(), f)
	}
	p.first = false
	if !changed {
		return nil
	}
	for len(p.order) > mostTold {
		delete(p.told, p.order[0])
		p.order = p.order[1:]
	}
	return p.store.saveTold(ctx, p.order)
}

// mostTold bounds what is remembered; the server keeps 10,000 prompts itself.
const mostTold = 20000

func failed(p *prompt.Prompt) bool {
	return p.Outcome == prompt.Error || p.Outcome == prompt.Lost || p.Outcome == prompt.Rejected
}
