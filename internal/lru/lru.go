// SPDX-License-Identifier: Apache-2.0

// Package lru holds what was used last.
package lru

import (
	"container/list"
	"iter"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Cache holds values by their keys, as many as its limit. The one that was not used for the
// longest time makes room. Its methods are not safe for concurrent use.
type Cache[K comparable, V any] struct {
	limit   int
	entries map[K]*list.Element
	byUse   *list.List // of *entry, the last used first
}

type entry[K comparable, V any] struct {
	key   K
	value V
}

// New makes a cache for so many values.
func New[K comparable, V any](limit int) *Cache[K, V] {
	return &Cache[K, V]{limit: limit, entries: map[K]*list.Element{}, byUse: list.New()}
}

// Find returns a key's value, which is used thereby; nil if there is none.
func (c *Cache[K, V]) Find(key K) *V {
	element := c.entries[key]
	if element == nil {
		return nil
	}
	c.byUse.MoveToFront(element)
	return &element.Value.(*entry[K, V]).value
}

// FindOrAdd is Find, with a zero value for a key that has none.
func (c *Cache[K, V]) FindOrAdd(key K) *V {
	if found := c.Find(key); found != nil {
		return found
	}
	if len(c.entries) >= c.limit {
		oldest := c.byUse.Back()
		delete(c.entries, oldest.Value.(*entry[K, V]).key)
		c.byUse.Remove(oldest)
	}
	e := &entry[K, V]{key: key}
	c.entries[key] = c.byUse.PushFront(e)
	return &e.value
}

// All yields the values, in any order, and uses none.
func (c *Cache[K, V]) All() iter.Seq2[K, *V] {
	return func(yield func(K, *V) bool) {
		for key, element := range c.entries {
			if !yield(key, &element.Value.(*entry[K, V]).value) {
				return
			}
		}
	}
}

// Bounds implements [bounds.Registered].
func (c *Cache[K, V]) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "lru.Cache.entries", Max: c.limit, Size: len(c.entries)},
		{Name: "lru.Cache.byUse", Max: c.limit, Size: c.byUse.Len()},
	}
}
