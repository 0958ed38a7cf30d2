// SPDX-License-Identifier: Apache-2.0

// Package topic delivers values of one type from publishers to subscribers of the
// same process.
package topic

import (
	"slices"
	"sync"
)

// Topic delivers each published value to every subscriber. The zero value is ready
// for use. Its methods may be called from any goroutine.
type Topic[T any] struct {
	mu sync.Mutex
	// subscribers and last are guarded by mu. The list is replaced, never changed, so that a
	// publisher can use it without the lock.
	subscribers []subscriber[T]
	last        int
}

type subscriber[T any] struct {
	id int
	// receive is called with each value, in the publisher's goroutine. It must not block.
	receive func(T)
}

// Subscribe calls f with every value that is published from now on, in the
// publisher's goroutine: f must not block. f may be called once more after cancel has
// returned, if a delivery was under way.
func (t *Topic[T]) Subscribe(f func(T)) (cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	id := t.last
	t.subscribers = append(slices.Clone(t.subscribers), subscriber[T]{id, f})
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.subscribers = slices.DeleteFunc(slices.Clone(t.subscribers), func(s subscriber[T]) bool { return s.id == id })
	}
}

// Publish delivers a value to the present subscribers, and allocates nothing. No lock is held
// while they are called, so that a subscriber may subscribe, cancel or publish.
func (t *Topic[T]) Publish(v T) {
	t.mu.Lock()
	present := t.subscribers
	t.mu.Unlock()
	for _, s := range present {
		s.receive(v)
	}
}

// HasSubscribers reports whether a published value would be delivered.
func (t *Topic[T]) HasSubscribers() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subscribers) > 0
}
