// SPDX-License-Identifier: Apache-2.0

package simulation

import "slices"

// The sizes of PyTorch's caching allocator (c10/cuda/CUDACachingAllocator), in bytes.
const (
	blockUnit      = 512       // sizes are rounded up to it
	smallBlock     = 1 << 20   // up to it a block is small
	smallSegment   = 2 << 20   // that small blocks are cut from
	mediumSegment  = 20 << 20  // that blocks below largeFrom are cut from
	largeFrom      = 10 << 20  // from it on a block has a segment of its own size
	segmentUnit    = 2 << 20   // rounded up to it
	smallRemainder = blockUnit // what is left of a small block stays a block from here on
	largeRemainder = smallBlock
)

// driver gives memory to an allocator, and takes it back.
type driver interface {
	// grab takes bytes from the GPU; false if it has no room.
	grab(bytes int64) bool
	giveBack(bytes int64)
}

// allocator is a model of PyTorch's caching allocator: it cuts blocks from segments of the
// driver, keeps what is freed, and gives whole segments back only when it is emptied or the
// GPU has no room.
type allocator struct {
	driver   driver
	segments []*memorySegment
	// active is what blocks in use hold, reserved what segments hold, in bytes.
	active, reserved int64
}

// memorySegment is a piece of the driver's memory.
type memorySegment struct {
	bytes  int64
	small  bool
	blocks []*block // all of it, in order
}

// block is a part of a segment.
type block struct {
	of    *memorySegment
	bytes int64
	used  bool
}

// allocate cuts a block for a tensor of so many bytes; nil if the GPU has no room.
func (a *allocator) allocate(bytes int64) *block {
	bytes = max(roundUp(bytes, blockUnit), blockUnit)
	small := bytes <= smallBlock
	b := a.bestFit(bytes, small)
	if b == nil {
		if b = a.newSegment(bytes, small); b == nil {
			return nil
		}
	}
	remainder := int64(largeRemainder) + 1
	if small {
		remainder = smallRemainder
	}
	if rest := b.bytes - bytes; rest >= remainder {
		i := slices.Index(b.of.blocks, b)
		b.of.blocks = slices.Insert(b.of.blocks, i+1, &block{of: b.of, bytes: rest})
		b.bytes = bytes
	}
	b.used = true
	a.active += b.bytes
	return b
}

// bestFit finds the smallest unused block that is large enough.
func (a *allocator) bestFit(bytes int64, small bool) (best *block) {
	for _, s := range a.segments {
		if s.small != small {
			continue
		}
		for _, b := range s.blocks {
			if !b.used && b.bytes >= bytes && (best == nil || b.bytes < best.bytes) {
				best = b
			}
		}
	}
	return best
}

// newSegment asks the driver for a segment, and once more after it has given back all that
// is unused.
func (a *allocator) newSegment(bytes int64, small bool) *block {
	size := roundUp(bytes, segmentUnit)
	switch {
	case small:
		size = smallSegment
	case bytes < largeFrom:
		size = mediumSegment
	}
	if !a.driver.grab(size) {
		if a.empty(); !a.driver.grab(size) {
			return nil
		}
	}
	s := &memorySegment{bytes: size, small: small}
	b := &block{of: s, bytes: size}
	s.blocks = []*block{b}
	a.segments = append(a.segments, s)
	a.reserved += size
	return b
}

// free keeps a block's memory for the next tensor. Neighbours that are unused become one
// block.
func (a *allocator) free(b *block) {
	b.used = false
	a.active -= b.bytes
	s := b.of
	i := slices.Index(s.blocks, b)
	if i+1 < len(s.blocks) && !s.blocks[i+1].used {
		b.bytes += s.blocks[i+1].bytes
		s.blocks = slices.Delete(s.blocks, i+1, i+2)
	}
	if i > 0 && !s.blocks[i-1].used {
		s.blocks[i-1].bytes += b.bytes
		s.blocks = slices.Delete(s.blocks, i, i+1)
	}
}

// empty gives the segments back in which nothing is used (torch.cuda.empty_cache).
func (a *allocator) empty() {
	a.segments = slices.DeleteFunc(a.segments, func(s *memorySegment) bool {
		unused := len(s.blocks) == 1 && !s.blocks[0].used
		if unused {
			a.reserved -= s.bytes
			a.driver.giveBack(s.bytes)
		}
		return unused
	})
}

func roundUp(v, unit int64) int64 { return (v + unit - 1) / unit * unit }

// tensors are those of one piece of work.
type tensors struct {
	of     *allocator
	blocks []*block
	bytes  int64 // as the work asked for them
	sizes  []int64
}

// resize allocates or frees tensors until they are about so many bytes, each at most most;
// false if the GPU has no room.
func (t *tensors) resize(bytes, most int64) bool {
	for n := len(t.blocks); n > 0 && t.bytes-t.sizes[n-1] >= bytes; n = len(t.blocks) {
		t.of.free(t.blocks[n-1])
		t.bytes -= t.sizes[n-1]
		t.blocks, t.sizes = t.blocks[:n-1], t.sizes[:n-1]
	}
	for t.bytes < bytes {
		size := min(bytes-t.bytes, most)
		b := t.of.allocate(size)
		if b == nil {
			return false
		}
		t.blocks, t.sizes, t.bytes = append(t.blocks, b), append(t.sizes, size), t.bytes+size
	}
	return true
}
