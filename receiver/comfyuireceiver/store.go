// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/extension/xextension/storage"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// store holds what must survive the process: each prompt from before its request is passed
// on until its trace is in the exporters' queue, and the ids of exported prompts. Without a
// storage extension it holds nothing.
//
// A prompt has a slot: a key of its own, so that a change costs the same however many
// prompts are held. The number of slots that were ever used is stored too, since a storage
// client cannot list its keys. A prompt is stored by its request's goroutine; all later
// changes are written by one worker, the newest of each slot.
type store struct {
	client    storage.Client // nil without a storage extension
	maxSlots  int
	log       *zap.Logger
	telemetry *metadata.TelemetryBuilder
	failing   logonce.Tracker

	wake    chan struct{}
	stopped chan struct{}
	worker  sync.WaitGroup
	// flushing is held while changes are written.
	flushing sync.Mutex
	// growing is held while the number of slots is written, so that the highest is the last.
	growing sync.Mutex

	// mu guards everything declared below.
	mu    sync.Mutex
	free  []int // slots that are not in use
	slots int   // that were ever used
	// reserved is the number of slots in the store; it grows in steps.
	reserved int
	// changes are the slots to be written, nil to be deleted.
	changes map[int][]byte
	// exported are the ids to be added to those that are stored, and place is the number
	// of ids that were ever added.
	exported []string
	place    int
	closed   bool
}

const (
	slotsKey = "slots"
	// slotStep is by how much the stored number of slots grows at a time.
	slotStep = 64

	// formerOpenKey holds all open prompts, as earlier versions wrote them.
	formerOpenKey = "open"
)

func slotKey(slot int) string { return "prompt/" + strconv.Itoa(slot) }

// newStore makes a store; client is nil without a storage extension.
func newStore(client storage.Client, maxSlots int, log *zap.Logger, telemetry *metadata.TelemetryBuilder) *store {
	s := &store{
		client: client, maxSlots: maxSlots, log: log, telemetry: telemetry,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), changes: map[int][]byte{},
	}
	if client != nil {
		s.worker.Go(s.run)
	}
	return s
}

// noSlot is the slot of a prompt that is not stored.
const noSlot = 0

// changed stores a prompt again, soon.
func (s *store) changed(p *prompt.Prompt, saved prompt.Saved) {
	if s.client == nil || p.Slot == noSlot {
		return
	}
	raw, err := json.Marshal(saved)
	if err != nil {
		s.failed(err)
		return
	}
	s.change(p.Slot, raw)
}

// remove deletes a prompt, soon.
func (s *store) remove(p *prompt.Prompt) {
	if s.client != nil && p.Slot != noSlot {
		s.change(p.Slot, nil)
	}
}

// exportedPrompt adds the id of a prompt to the exported ones and deletes the prompt, soon and in
// this order: a process that finds neither after a kill would take the server's entry for
// another request with the same content.
func (s *store) exportedPrompt(p *prompt.Prompt) {
	if p.ID != "" {
		s.addExported(p.ID)
	}
	s.remove(p)
}

// change records a change for the worker, or makes it if the worker has stopped.
func (s *store) change(slot int, raw []byte) {
	s.mu.Lock()
	s.changes[slot] = raw
	closed := s.closed
	s.mu.Unlock()
	s.notify(closed)
}

func (s *store) notify(closed bool) {
	if closed {
		s.flush()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// retryInterval is the pause after changes that could not be written.
const retryInterval = time.Second

// run writes changes until the store stops.
func (s *store) run() {
	for {
		select {
		case <-s.stopped:
			return
		case <-s.wake:
		}
		if !s.flush() && pause(s.stopped, retryInterval) {
			s.notify(false)
		}
	}
}

// maxBatch bounds the changes that are written at a time.
const maxBatch = 256

// flush writes all changes. After an error the rest is kept for the next call.
func (s *store) flush() bool {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	for {
		changes, ids, place := s.pending()
		if len(changes) == 0 && len(ids) == 0 {
			return true
		}
		operations := make([]*storage.Operation, 0, len(changes)+2)
		for slot, raw := range changes {
			if raw == nil {
				operations = append(operations, storage.DeleteOperation(slotKey(slot)))
			} else {
				operations = append(operations, storage.SetOperation(slotKey(slot), raw))
			}
		}
		err := s.addPages(&operations, ids, place)
		if err == nil {
			err = s.client.Batch(context.Background(), operations...)
		}
		s.report(err)
		s.written(changes, ids, err == nil)
		if err != nil {
			return false
		}
	}
}

// pending takes the ids for one page, and if there are no others, changes to be written: the ids
// of the prompts that are deleted are among them, or are stored.
func (s *store) pending() (changes map[int][]byte, ids []string, place int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	changes = map[int][]byte{}
	n := min(len(s.exported), pageSize-s.place%pageSize)
	if n < len(s.exported) {
		return changes, s.exported[:n:n], s.place
	}
	for slot, raw := range s.changes {
		if len(changes) == maxBatch {
			break
		}
		changes[slot] = raw
		delete(s.changes, slot)
	}
	if len(s.changes) == 0 {
		s.changes = map[int][]byte{} // a map stays as large as it ever was, and is searched at each call
	}
	return changes, s.exported[:n:n], s.place
}

// written frees the slots that were deleted, or takes back what was not written.
func (s *store) written(changes map[int][]byte, ids []string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot, raw := range changes {
		_, newer := s.changes[slot]
		switch {
		case !ok && !newer:
			s.changes[slot] = raw
		case ok && raw == nil && !newer:
			s.free = append(s.free, slot)
		}
	}
	if ok {
		s.exported, s.place = s.exported[len(ids):], s.place+len(ids)
	}
}

// report counts and logs an error.
func (s *store) report(err error) {
	switch {
	case err != nil:
		s.failed(err)
	case s.failing.Changed("store", ""):
		s.log.Info("The storage accepts data again")
	}
}

func (s *store) failed(err error) {
	s.telemetry.ReceiverComfyuiStoreErrors.Add(context.Background(), 1)
	if s.failing.First("store") {
		s.log.Warn("Failed to store prompts; those that are open are lost if the collector is killed", zap.Error(err))
	}
}

// restore reads the prompts that an earlier process has stored, and takes their slots into
// use.
func (s *store) restore(ctx context.Context) (all []*prompt.Prompt, err error) {
	if s.client == nil {
		return nil, nil
	}
	if err := s.get(ctx, slotsKey, &s.slots); err != nil {
		return nil, err
	}
	reserved := min(max(s.slots, 0), s.maxSlots)
	s.slots = 0 // the last one in use
	damaged := 0
	for first := 1; first <= reserved; first += maxBatch {
		operations := make([]*storage.Operation, 0, maxBatch)
		for slot := first; slot < first+maxBatch && slot <= reserved; slot++ {
			operations = append(operations, storage.GetOperation(slotKey(slot)))
		}
		if err := s.client.Batch(ctx, operations...); err != nil {
			return all, err
		}
		for i, o := range operations {
			var saved prompt.Saved
			if o.Value == nil || json.Unmarshal(o.Value, &saved) != nil {
				if o.Value != nil {
					damaged++
				}
				continue
			}
			p := saved.Prompt()
			p.Slot = first + i
			for unused := s.slots + 1; unused < p.Slot; unused++ {
				s.free = append(s.free, unused)
			}
			s.slots = p.Slot
			all = append(all, p)
		}
	}
	s.reserved = s.slots + slotStep
	if err := s.client.Set(ctx, slotsKey, []byte(strconv.Itoa(s.reserved))); err != nil {
		return all, err
	}
	all = append(all, s.restoreFormer(ctx)...)
	if damaged > 0 {
		return all, fmt.Errorf("%d stored prompts are damaged", damaged)
	}
	return all, nil
}

// restoreFormer reads the prompts that an earlier version has stored, once.
func (s *store) restoreFormer(ctx context.Context) (all []*prompt.Prompt) {
	var former []prompt.Saved
	if s.get(ctx, formerOpenKey, &former) != nil || len(former) == 0 {
		return nil
	}
	for i := range former {
		former[i].Status = http.StatusOK // only accepted prompts were stored
		p := former[i].Prompt()
		s.submitted(p)
		all = append(all, p)
	}
	_ = s.client.Delete(ctx, formerOpenKey)
	return all
}

func (s *store) get(ctx context.Context, key string, into any) error {
	raw, err := s.client.Get(ctx, key)
	if err != nil || raw == nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("the stored value is damaged: %w", err)
	}
	return nil
}

// stop ends the worker and writes what it has left. From then on, changes are written at
// once, until close.
func (s *store) stop() {
	if s.client == nil {
		return
	}
	close(s.stopped)
	s.worker.Wait()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.flush()
}

// close closes the storage.
func (s *store) close(ctx context.Context) error {
	if s.client == nil {
		return nil
	}
	return s.client.Close(ctx)
}
