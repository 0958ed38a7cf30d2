//go:build linux && cgo

package nvml

import (
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"
)

// probed is what a slot's worker found out.
type probed struct {
	slot     *slot
	index    int
	device   Device
	identity Identity
	err      error
}

// enumerate asks every index who is there. It returns an error only if the
// enumeration itself failed.
func (s *Session) enumerate() error {
	count, err := s.lib.deviceCount()
	if err != nil {
		return err
	}
	s.fitSlots(count)
	results := make(chan probed, count)
	asked := s.probe(results)
	deadline := time.NewTimer(s.timing.Probe)
	defer deadline.Stop()
	var gone error
	for range asked {
		select {
		case p := <-results:
			if kind := KindOf(p.err); kind == DriverGone || kind == VersionMismatch {
				gone = p.err
			}
			s.takeUp(p)
			continue
		case <-deadline.C:
		case <-s.stop:
		}
		break
	}
	if gone != nil {
		return gone
	}
	s.settle()
	return nil
}

// fitSlots makes as many slots as there are indices.
func (s *Session) fitSlots(count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.slots) < count {
		delete(s.retiring, len(s.slots))
		s.slots = append(s.slots, &slot{worker: s.lib.workers.adopt(len(s.slots))})
	}
	for len(s.slots) > count {
		last := len(s.slots) - 1
		s.retiring[last] = s.slots[last].worker
		s.slots = s.slots[:last]
	}
}

// retire ends the workers of indices that are no more, once the cards that they
// worked for have others: indices move when a card is taken out. The caller holds the
// lock.
func (s *Session) retire() {
	for index, w := range s.retiring {
		used := slices.ContainsFunc(s.snapshot.Cards, func(c *Card) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.err == nil && c.worker == w
		})
		if !used {
			s.lib.workers.release(index)
			delete(s.retiring, index)
		}
	}
}

// probe gives each slot's worker the question who is there. A slot whose worker
// hangs is left alone, so that one card never holds two threads.
func (s *Session) probe(results chan<- probed) (asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sl := range s.slots {
		if sl.probing || sl.worker.busyFor() > s.timing.Probe {
			continue
		}
		known := sl.card
		job := func() {
			p := probed{slot: sl, index: i}
			p.device, p.err = s.lib.device(i)
			if p.err == nil {
				p.identity, p.err = identify(known, p.device, i)
			}
			s.mu.Lock()
			sl.probing = false
			s.mu.Unlock()
			results <- p
		}
		if sl.worker.submit(job) {
			sl.probing = true
			asked++
		}
	}
	return asked
}

// identify reads a card's description, or only its UUID if the card is known.
func identify(known *Card, d Device, index int) (Identity, error) {
	if known != nil && known.Err() == nil {
		id := known.Identity()
		uuid, err := d.UUID()
		if err == nil && uuid == id.UUID {
			id.Index = index
			id.readMIG(d)
			return id, nil
		}
	}
	return describe(d, index)
}

// takeUp puts an answer into the slot and the card it belongs to.
func (s *Session) takeUp(p probed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.err != nil {
		p.slot.lost = KindOf(p.err) == Lost
		if p.slot.card != nil && KindOf(p.err) == Lost {
			p.slot.card.lose(p.err)
		}
		return
	}
	p.slot.lost = false
	s.tellApart(&p)
	card := p.slot.card
	if card == nil || card.Identity().UUID != p.identity.UUID {
		card = s.find(p.identity.UUID)
	}
	isNew := card == nil
	if isNew {
		card = &Card{}
		s.snapshot.Cards = append(s.snapshot.Cards, card)
	}
	card.mu.Lock()
	back := !isNew && card.err != nil
	if isNew || back {
		card.generation++
	}
	card.identity, card.device, card.worker, card.err = p.identity, p.device, p.slot.worker, nil
	card.mu.Unlock()
	p.slot.card = card
	fields := []zap.Field{zap.String("hw.id", p.identity.UUID), zap.Int("index", p.index), zap.String("model", p.identity.Model)}
	switch {
	case isNew:
		s.log.Info("card found", fields...)
	case back:
		s.log.Info("card is back", fields...)
	}
	slices.SortStableFunc(s.snapshot.Cards, func(a, b *Card) int { return a.Identity().Index - b.Identity().Index })
}

// tellApart gives a card whose UUID another one has already its PCI address
// instead: a board that was cloned badly must not hide its neighbour. The caller
// holds the lock.
func (s *Session) tellApart(p *probed) {
	for _, other := range s.slots {
		if other == p.slot || other.card == nil || other.card.Err() != nil {
			continue
		}
		id := other.card.Identity()
		if id.UUID == p.identity.UUID && id.PCIBusID != p.identity.PCIBusID && p.identity.PCIBusID != "" {
			if p.slot.card == nil || p.slot.card.Identity().UUID != p.identity.PCIBusID {
				s.log.Warn("two cards have the same UUID; the second is told by its PCI address", zap.String("hw.id", id.UUID),
					zap.String("first", id.PCIBusID), zap.String("second", p.identity.PCIBusID))
			}
			p.identity.UUID = p.identity.PCIBusID
			return
		}
	}
}

func (s *Session) find(uuid string) *Card {
	for _, c := range s.snapshot.Cards {
		if c.Identity().UUID == uuid {
			return c
		}
	}
	return nil
}

// settle loses the cards that no slot holds any more and counts the slots
// without a card.
func (s *Session) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[*Card]bool{}
	s.snapshot.Unidentified, s.snapshot.LostUnidentified = 0, 0
	for _, sl := range s.slots {
		switch {
		case sl.card != nil:
			held[sl.card] = true
		case sl.lost:
			s.snapshot.LostUnidentified++
		default:
			s.snapshot.Unidentified++
		}
	}
	for _, c := range s.snapshot.Cards {
		if !held[c] && c.Err() == nil {
			c.lose(errRemoved)
		}
	}
	s.snapshot.Enumerated = true
	s.retire()
}

// errRemoved is why a card that was taken out cannot be asked.
var errRemoved = errors.New("the card is not enumerated any more")
