// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// errWorks is the error of a server that has work: it would free nothing before that ends, and
// then load its models again.
var errWorks = errors.New("the server has work")

// Free implements [comfyevents.Freer]: it has the server unload its models and forget what its
// nodes hold. It does nothing if that was asked for within [comfyevents.FreeInterval].
func (l *liveServer) Free(ctx context.Context) error {
	f := l.following
	if f.tracker.Busy() || f.remaining.Load() > 0 {
		return errWorks
	}
	now, last := f.now(), f.freed.Load()
	if last != nil && now.Sub(*last) < comfyevents.FreeInterval || !f.freed.CompareAndSwap(last, &now) {
		return nil
	}
	if err := f.server.free(ctx); err != nil {
		return err
	}
	f.loading.unloaded(f.now())
	f.log.Info("Asked the server to free its memory for another server on the same GPU", zap.String("server", f.name))
	return nil
}
