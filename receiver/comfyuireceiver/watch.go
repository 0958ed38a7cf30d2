// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// Pauses between two attempts to connect the receiver's socket.
const (
	minReconnect = 500 * time.Millisecond
	maxReconnect = 10 * time.Second
)

// watch keeps a socket of the receiver's own open. The server sends it what goes to all
// sockets: the length of the queue, and the progress of prompts without a client id
// (these must not be given one, since then their progress would no longer go to all).
func (f *follower) watch(ctx context.Context) {
	pause := minReconnect
	for ctx.Err() == nil {
		connected, err := f.watchOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		if connected {
			pause = minReconnect
			f.unreachable.Store(true)
			f.QueueChanged()
		}
		f.log.Debug("The receiver's socket to ComfyUI has closed; reconnecting", zap.Duration("after", pause), zap.Error(err))
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(pause*2, maxReconnect)
	}
}

// watchOnce reads from one connection until it closes.
func (f *follower) watchOnce(ctx context.Context) (connected bool, err error) {
	address := *f.server.base
	address.Path += "/ws"
	address.RawQuery = "clientId=otelcol-gpu-" + prompt.NewSpanID().String()
	dialing, cancel := context.WithTimeout(ctx, requestTimeout)
	conn, response, err := websocket.Dial(dialing, address.String(), &websocket.DialOptions{HTTPClient: f.server.client, CompressionMode: websocket.CompressionDisabled})
	cancel()
	if response != nil && response.Body != nil {
		_ = response.Body.Close()
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(int64(f.frameBytes))
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
		case m.Kind != protocol.Status:
			f.tracker.Message(f.now(), &m)
		case m.HasRemaining:
			if m.Remaining < remaining { // a prompt has ended
				f.QueueChanged()
			}
			remaining = m.Remaining
		}
	}
}
