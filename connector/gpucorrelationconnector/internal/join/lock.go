// SPDX-License-Identifier: Apache-2.0

package join

// maxItems bounds the items (spans, records, windows of time, samples) that are handled
// while the joiner's lock is held, so that nobody waits long for it whatever comes in.
const maxItems = 256

// Lock guards a joiner that is used from more than one goroutine.
type Lock interface {
	Lock()
	Unlock()
}

// noLock is the lock of a joiner that a single goroutine uses.
type noLock struct{}

func (noLock) Lock()   {}
func (noLock) Unlock() {}

// steps is a lock that is held for a bounded number of items at a time. Work that handles
// more asks for room as it goes, and others may have the lock in between: whatever such
// work remembers across a call of room may have changed.
type steps struct {
	mu    Lock
	items int // handled in the present hold
	// maxSeen is the number of items of the hold that handled the most; tests read it.
	maxSeen int
}

func (s *steps) lock() {
	s.mu.Lock()
	s.items = 0
}

func (s *steps) unlock() {
	s.maxSeen = max(s.maxSeen, s.items)
	s.mu.Unlock()
}

// room lets others have the lock if n more items do not fit into the present hold.
func (s *steps) room(n int) {
	if s.items > 0 && s.items+n > maxItems {
		s.unlock()
		s.lock()
	}
}

// count counts items of the present hold, for which there must be room.
func (s *steps) count(n int) { s.items += n }

// next is room for n items, which are counted.
func (s *steps) next(n int) {
	s.room(n)
	s.count(n)
}
