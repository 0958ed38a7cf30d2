// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"

	"go.opentelemetry.io/collector/extension/xextension/storage"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// submitted stores a prompt before its request is passed on, and waits until it is stored.
// A prompt that cannot be stored is followed all the same.
func (s *store) submitted(p *prompt.Prompt) {
	if s.client == nil {
		return
	}
	s.mu.Lock()
	slot := s.allocate()
	s.mu.Unlock()
	if slot == noSlot {
		s.failed(errors.New("too many prompts are stored; raise limits::prompts"))
		return
	}
	raw, err := json.Marshal(p.Save())
	if err == nil {
		err = s.reserve(slot)
	}
	if err == nil {
		err = s.client.Batch(context.Background(), storage.SetOperation(slotKey(slot), raw))
	}
	s.report(err)
	if err != nil {
		s.mu.Lock()
		s.free = append(s.free, slot)
		s.mu.Unlock()
		return
	}
	p.Slot = slot
}

// reserve raises the number of slots in the store if it is below a slot: what is beyond it is
// not read after a kill. Requests end in any order, so one that needs more waits for another
// that is writing the number.
func (s *store) reserve(slot int) error {
	if slot <= s.inStore() {
		return nil
	}
	s.growing.Lock()
	defer s.growing.Unlock()
	reserved := s.inStore()
	if slot <= reserved {
		return nil
	}
	for reserved < slot {
		reserved += slotStep
	}
	if err := s.client.Set(context.Background(), slotsKey, []byte(strconv.Itoa(reserved))); err != nil {
		return err
	}
	s.mu.Lock()
	s.reserved = reserved
	s.mu.Unlock()
	return nil
}

// inStore is the number of slots in the store.
func (s *store) inStore() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reserved
}

// allocate returns a free slot. The caller holds the lock.
func (s *store) allocate() int {
	if n := len(s.free); n > 0 {
		slot := s.free[n-1]
		s.free = s.free[:n-1]
		return slot
	}
	if s.slots >= s.maxSlots {
		return noSlot
	}
	s.slots++
	return s.slots
}
