// SPDX-License-Identifier: Apache-2.0

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
	if s.omitted = max(count-MaxGPUs, 0); s.omitted > 0 && s.once.First("too many GPUs") {
		s.log.Warn("NVML enumerates more GPUs than are supported; the rest is counted as unresponsive", zap.Int("gpus", count), zap.Int("supported", MaxGPUs))
	}
	count -= s.omitted
	if !s.probesDue(count) {
		return nil
	}
	s.resizeSlots(count)
	results := make(chan probed, count)
	asked := s.probe(results)
	deadline := time.After(s.timing.Probe)
	var gone error
	for range asked {
		select {
		case p := <-results:
			if IsDriverGone(p.err) {
				gone = p.err
			}
			s.adopt(p)
			continue
		case <-deadline:
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

// probeEvery is how many inspections there are for each that asks every GPU who it is, as
// long as all answer and their number stays: each question takes the driver's lock.
const probeEvery = 6

// probesDue reports whether the GPUs have to be asked who they are. Only the keeper calls it.
func (s *Session) probesDue(count int) bool {
	woken := s.woken.Swap(false)
	s.inspections++
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.snapshot.Enumerated && len(s.slots) == count && len(s.retiring) == 0
	for _, sl := range s.slots {
		known = known && !sl.probing && sl.gpu != nil && sl.gpu.Err() == nil
	}
	if known && !woken && s.inspections < probeEvery {
		return false
	}
	s.inspections = 0
	return true
}

// resizeSlots makes as many slots as there are indices.
func (s *Session) resizeSlots(count int) {
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

// retire ends the workers of indices that no longer exist, once their GPUs have other
// workers: indices move when a GPU is removed. The caller holds mu.
func (s *Session) retire() {
	for index, w := range s.retiring {
		used := slices.ContainsFunc(s.snapshot.GPUs, func(c *GPU) bool {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.err == nil && (c.worker == w || c.next == w)
		})
		if !used {
			s.lib.workers.release(index)
			delete(s.retiring, index)
		}
	}
}

// probe asks each slot's worker for the GPU's identity. A slot whose worker hangs is
// skipped, so that one GPU never occupies two threads.
func (s *Session) probe(results chan<- probed) (asked int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, sl := range s.slots {
		if sl.probing || sl.worker.busyFor(s.timing.Now()) > s.timing.Probe {
			continue
		}
		known := sl.gpu
		ask := func() {
			p := probed{slot: sl, index: i}
			sl.worker.calls.begin("nvmlDeviceGetHandleByIndex_v2")
			p.device, p.err = s.lib.device(i)
			sl.worker.calls.end()
			if p.err == nil {
				p.identity, p.err = identify(known, p.device.calledBy(sl.worker), i)
			}
			s.mu.Lock()
			sl.probing = false
			s.mu.Unlock()
			results <- p
		}
		if sl.worker.submit(job{run: ask}) {
			sl.probing = true
			asked++
		}
	}
	return asked
}

// identify reads a GPU's description, or only its UUID if the GPU is known.
func identify(known *GPU, d Device, index int) (Identity, error) {
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

// adopt stores the answer of a probe in its slot and its GPU.
func (s *Session) adopt(p probed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.err != nil {
		p.slot.lost = KindOf(p.err) == Lost
		if p.slot.gpu != nil && KindOf(p.err) == Lost {
			p.slot.gpu.lose(p.err)
		}
		return
	}
	p.slot.lost = false
	s.distinguish(&p)
	gpu := p.slot.gpu
	if gpu == nil || gpu.Identity().UUID != p.identity.UUID {
		gpu = s.find(p.identity.UUID)
	}
	isNew := gpu == nil
	if isNew {
		s.makeRoom(p.slot)
		gpu = &GPU{}
		s.snapshot.GPUs = append(s.snapshot.GPUs, gpu)
	}
	gpu.mu.Lock()
	back := !isNew && gpu.err != nil
	if isNew || back {
		gpu.generation++
	}
	gpu.identity, gpu.device, gpu.err = p.identity, p.device, nil
	gpu.moveTo(p.slot.worker)
	gpu.mu.Unlock()
	p.slot.gpu = gpu
	fields := []zap.Field{zap.String("hw.id", p.identity.UUID), zap.Int("index", p.index), zap.String("model", p.identity.Model)}
	switch {
	case isNew:
		s.log.Info("GPU found", fields...)
	case back:
		s.log.Info("GPU is back", fields...)
	}
	slices.SortStableFunc(s.snapshot.GPUs, func(a, b *GPU) int { return a.Identity().Index - b.Identity().Index })
}

// makeRoom forgets a GPU that no other slot holds, and so was lost or is replaced, if there
// are as many as may be. The caller holds mu.
func (s *Session) makeRoom(of *slot) {
	if len(s.snapshot.GPUs) < MaxGPUs {
		return
	}
	held := map[*GPU]bool{}
	for _, other := range s.slots {
		if other != of {
			held[other.gpu] = true
		}
	}
	i := slices.IndexFunc(s.snapshot.GPUs, func(c *GPU) bool { return !held[c] }) // there are more than other slots
	forgotten := s.snapshot.GPUs[i]
	forgotten.lose(errRemoved)
	s.snapshot.GPUs = slices.Delete(s.snapshot.GPUs, i, i+1)
	delete(s.covered, forgotten)
}

// distinguish gives a GPU whose UUID another one has already its PCI address
// instead: a board that was cloned badly must not hide its neighbour. The caller holds
// mu.
func (s *Session) distinguish(p *probed) {
	for _, other := range s.slots {
		if other == p.slot || other.gpu == nil || other.gpu.Err() != nil {
			continue
		}
		id := other.gpu.Identity()
		if id.UUID == p.identity.UUID && id.PCIBusID != p.identity.PCIBusID && p.identity.PCIBusID != "" {
			if p.slot.gpu == nil || p.slot.gpu.Identity().UUID != p.identity.PCIBusID {
				s.log.Warn("Two GPUs have the same UUID; the second one is identified by its PCI address", zap.String("hw.id", id.UUID),
					zap.String("first", id.PCIBusID), zap.String("second", p.identity.PCIBusID))
			}
			p.identity.UUID = p.identity.PCIBusID
			return
		}
	}
}

func (s *Session) find(uuid string) *GPU {
	for _, c := range s.snapshot.GPUs {
		if c.Identity().UUID == uuid {
			return c
		}
	}
	return nil
}

// settle loses the GPUs that no slot holds any more and counts the slots
// without a GPU.
func (s *Session) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := map[*GPU]bool{}
	s.snapshot.Unidentified, s.snapshot.LostUnidentified = s.omitted, 0
	for _, sl := range s.slots {
		switch {
		case sl.gpu != nil:
			held[sl.gpu] = true
		case sl.lost:
			s.snapshot.LostUnidentified++
		default:
			s.snapshot.Unidentified++
		}
	}
	for _, c := range s.snapshot.GPUs {
		if !held[c] && c.Err() == nil {
			c.lose(errRemoved)
		}
	}
	s.snapshot.Enumerated = true
	s.retire()
}

// errRemoved is why a GPU that was removed cannot be read.
var errRemoved = errors.New("the GPU is no longer enumerated")

// errAsleep is why a GPU that may sleep cannot be read.
var errAsleep = errors.New("NVML is closed so that the GPU can sleep")
