// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"strconv"
	"time"
)

// A GPU that is 95 % full may be in good health or about to fail. These two make one of each:
// by its memory in use they look alike.

// KeepFull keeps a share of the GPU's memory in use, as Dynamic VRAM does in good health: with
// weights of models that were used before, which make room when the memory is wanted, and
// are loaded again once a prompt has ended. The service has to be a ComfyUI of the newer
// version; after /free it is empty until then.
func (s *Service) KeepFull(share float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Dynamic, s.full = true, share
	s.fill()
}

// fill loads weights. The caller holds the lock.
func (s *Service) fill() {
	for i := 1; s.fullness() < s.full && s.free()*mib >= page; {
		name := "filler-" + strconv.Itoa(i) + ".safetensors"
		if done, _ := s.loadMore(s.model(name), weightsOf(name)); done {
			i++
		}
	}
	s.remember()
	s.show(time.Now())
}

// Fullness is the share of the GPU's memory that is in use, without the driver's reserve.
func (c *GPU) Fullness() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fullness()
}

// fullness is [GPU.Fullness]. The caller holds the lock.
func (c *GPU) fullness() float64 {
	total := c.profile.Values["memory_total"]
	return float64(total-c.profile.Values["memory_reserved"]-c.free()) / float64(total)
}

// Occupy has another program, with a process id, hold memory until so large a share of the
// GPU's is in use. It gives none of it back: a ComfyUI on the GPU that needs more than what
// is left runs out of memory. The returned function ends the program.
func (c *GPU) Occupy(pid int, share float64) (end func()) {
	other := &worker{pid: pid}
	c.join(other)
	c.growTo(other, share)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		other.held = 0 // it has no memory, and so is not listed
		c.show(time.Now())
	}
}

// growTo has a process hold more, until a share of the GPU's memory is in use.
func (c *GPU) growTo(other *worker, share float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if missing := share - c.fullness(); missing > 0 {
		other.held += min(int64(missing*float64(c.profile.Values["memory_total"]))+1, c.free())
		c.show(time.Now())
	}
}

// KeepOccupied is [GPU.Occupy] until the context ends, by a program that also takes what a
// ComfyUI gives back meanwhile: the GPU stays as full.
func (c *GPU) KeepOccupied(ctx context.Context, pid int, share float64) {
	other := &worker{pid: pid}
	c.join(other)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for ctx.Err() == nil {
		c.growTo(other, share)
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	other.held = 0
	c.show(time.Now())
}
