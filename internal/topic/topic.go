// SPDX-License-Identifier: Apache-2.0

// Package topic delivers values of one type from publishers to subscribers of the
// same process.
package topic

import (
	"maps"
	"slices"
	"sync"
)

// Topic delivers each published value to every subscriber. The zero value is ready
// for use. Its methods may be called from any goroutine.
type Topic[T any] struct {
	mu sync.Mutex
	// subscribers and last are guarded by mu.
	subscribers map[int]func(T)
	last        int
}

// Subscribe calls f with every value that is published from now on, in the
// publisher's goroutine: f must not block. f may be called once more after cancel has
// returned, if a delivery was under way.
func (t *Topic[T]) Subscribe(f func(T)) (cancel func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	id := t.last
	if t.subscribers == nil {
		t.subscribers = map[int]func(T){}
	}
	t.subscribers[id] = f
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.subscribers, id)
	}
}

// Publish delivers a value to the present subscribers. No lock is held while they are
// called, so that a subscriber may subscribe, cancel or publish.
func (t *Topic[T]) Publish(v T) {
	t.mu.Lock()
	present := slices.Collect(maps.Values(t.subscribers))
	t.mu.Unlock()
	for _, f := range present {
		f(v)
	}
}

// HasSubscribers reports whether a published value would be delivered.
func (t *Topic[T]) HasSubscribers() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.subscribers) > 0
}
