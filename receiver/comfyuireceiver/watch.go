// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
)

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
