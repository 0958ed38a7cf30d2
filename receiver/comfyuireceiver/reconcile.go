// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// quiet is how long a prompt whose client listens may be without news before the
// server is asked about it.
const quiet = 10 * time.Second

// reconcileLoop asks the server about prompts that no socket tells of, and lets
// go of sockets that nobody needs.
func (s *service) reconcileLoop(ctx context.Context) {
	ticker := time.NewTicker(s.cfg.PollInterval)
	defer ticker.Stop()
	sweep := time.NewTicker(250 * time.Millisecond)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-sweep.C:
			s.proxy.sockets.sweep(s.now(), s.tracker.OpenOf)
			_, kept := s.proxy.sockets.counts()
			s.telemetry.ReceiverComfyuiSocketsKept.Record(ctx, int64(kept))
			s.store.save(ctx, s.tracker)
			continue
		case <-s.poke:
		case <-ticker.C:
		}
		s.tracker.Expire(s.now())
		s.reconcile(ctx)
	}
}

// reconcile compares the open prompts with the server's queue and history.
func (s *service) reconcile(ctx context.Context) {
	ids := s.tracker.Open(s.now().Add(-quiet))
	if len(ids) == 0 {
		return
	}
	away := s.away.Load()
	queue, err := s.upstream.queue(ctx)
	if err != nil {
		s.away.Store(true) // and comes back without its queue, if it restarts
		return
	}
	_ = s.settle(ctx, ids, &queue, away) // what is left over is asked for at the next look
}

// settle ends the prompts that the server's queue no longer has, as its history tells
// it. away says that the server was not there since the last look.
func (s *service) settle(ctx context.Context, ids []string, queue *protocol.Queue, away bool) error {
	queued := make(map[string]bool, len(queue.Running)+len(queue.Pending))
	for _, list := range [][]protocol.Queued{queue.Running, queue.Pending} {
		for i := range list {
			queued[list[i].ID] = true
		}
	}
	for _, id := range ids {
		if queued[id] {
			continue
		}
		finished, err := s.upstream.finished(ctx, id)
		switch {
		case err == nil:
			s.tracker.Settled(s.now(), &finished)
		case errors.Is(err, errNotInHistory):
			s.tracker.Missing(s.now(), id, away)
		default:
			return err
		}
	}
	s.away.CompareAndSwap(away, false)
	return nil
}

const (
	firstPause   = 500 * time.Millisecond
	longestPause = 10 * time.Second
)

// watch listens on a socket of the receiver's own. The server sends it what goes to
// all: the length of the queue, and the progress of prompts without a client id,
// which must not be given one.
func (s *service) watch(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		connected, err := s.listenOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if connected {
			pause = firstPause
			s.away.Store(true) // the server may have restarted
			s.lookNow()
		}
		s.log.Debug("the receiver's own socket to ComfyUI has ended; trying again", zap.Error(err), zap.Duration("in", pause))
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(pause*2, longestPause)
	}
}

func (s *service) listenOnce(ctx context.Context) (connected bool, err error) {
	address := *s.upstream.base
	address.Path += "/ws"
	address.RawQuery = "clientId=otelcol-gpu-" + prompt.NewSpanID().String()
	dialing, cancel := context.WithTimeout(ctx, askTimeout)
	conn, response, err := websocket.Dial(dialing, address.String(), &websocket.DialOptions{HTTPClient: s.upstream.client, CompressionMode: websocket.CompressionDisabled})
	cancel()
	if response != nil && response.Body != nil {
		_ = response.Body.Close()
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(int64(s.cfg.Limits.FrameBytes))
	remaining := 0
	for {
		kind, text, err := conn.Read(ctx)
		if err != nil {
			return true, err
		}
		if kind != websocket.MessageText {
			continue
		}
		m, ok := protocol.ParseMessage(text)
		switch {
		case !ok:
		case m.Kind == protocol.Status:
			if m.HasRemaining {
				if m.Remaining < remaining {
					s.lookNow() // a prompt has ended
				}
				remaining = m.Remaining
			}
		default:
			s.tracker.Message(s.now(), &m)
		}
	}
}
