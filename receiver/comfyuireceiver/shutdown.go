// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// Shutdown stops the receiver with the last of its signals. Open requests have
// drain_timeout to end. With storage, open prompts are left to the next process; without,
// they end as unfinished.
func (r *comfyuiReceiver) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
	if r.users > 0 {
		return nil
	}
	if r.made != nil {
		r.made.Forget(r.cfg)
	}
	if r.cancel == nil {
		return nil
	}
	return r.stop(ctx)
}

// stop ends the parts that exist, in the order in which data flows through them.
func (r *comfyuiReceiver) stop(ctx context.Context) (err error) {
	if r.proxy != nil {
		r.proxy.refuseHeld()
	}
	if r.server != nil {
		drain, cancel := context.WithTimeout(ctx, r.cfg.DrainTimeout)
		if r.server.Shutdown(drain) != nil {
			err = r.server.Close()
		}
		cancel()
	}
	if r.cancel != nil {
		r.cancel()
		r.cancel = nil
	}
	if r.hub != nil {
		r.hub.Close()
	}
	if r.proxy != nil {
		r.proxy.serving.close() // their requests have been cancelled
		r.proxy.stopInputs()
	}
	r.work.Wait()
	if r.remote != nil {
		r.remote.Close()
	}
	if r.following != nil {
		r.stopFollowing(ctx)
		r.following.server.client.CloseIdleConnections()
	}
	if r.transport != nil {
		r.transport.CloseIdleConnections()
	}
	if r.store != nil && r.export == nil {
		r.store.stop()
		err = errors.Join(err, r.store.close(ctx))
	}
	if r.telemetry != nil {
		r.telemetry.Shutdown()
	}
	return err
}

// lastHandovers is how long the store stays open after shutdown for traces that a
// connector still holds: it delivers them in its own shutdown.
const lastHandovers = 5 * time.Second

// stopFollowing ends the tracker, the exporter and the store.
func (r *comfyuiReceiver) stopFollowing(ctx context.Context) {
	r.following.work.close()
	unfinished := r.following.tracker.Shutdown(r.now())
	// The next process follows those that are stored.
	unfinished = slices.DeleteFunc(unfinished, func(p *prompt.Prompt) bool { return p.Slot != noSlot })
	for _, p := range unfinished {
		r.following.promptEnded(p)
	}
	r.export.stop(ctx, unfinished)
	r.store.stop()
	last := &lastHandover{r.export.handovers, r.store, r.log, nil}
	last.late = time.AfterFunc(lastHandovers, last.handovers.abandon)
	last.handovers.whenDrained(last)
}

// lastHandover closes the store.
type lastHandover struct {
	handovers *handovers
	store     *store
	log       *zap.Logger
	late      *time.Timer
}

// drained implements [drained].
func (l *lastHandover) drained() {
	l.late.Stop()
	l.handovers.cancel()
	if err := l.store.close(context.Background()); err != nil {
		l.log.Warn("Failed to close the storage", zap.Error(err))
	}
}
