// SPDX-License-Identifier: Apache-2.0

// Package lru holds what was used last.
package lru

import (
	"container/list"
	"iter"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Cache holds values by their keys, as many as its limit. The one that was not used for the
// longest time makes room, of those of the lowest rank. Its methods are not safe for concurrent use.
type Cache[K comparable, V any] struct {
	limit   int
	entries map[K]*list.Element
	byUse   []*list.List // by rank: of *entry, the last used first
}

type entry[K comparable, V any] struct {
	key   K
	rank  int
	value V
}

// keptPart is the part of the limit that each rank keeps, whatever comes: else nothing new could rise
// where everything has a high rank.
const keptPart = 8

// New makes a cache for so many values.
func New[K comparable, V any](limit int) *Cache[K, V] { return NewRanked[K, V](limit, 1) }

// NewRanked makes a cache for so many values of so many ranks. A value begins with the lowest, 0.
func NewRanked[K comparable, V any](limit, ranks int) *Cache[K, V] {
	c := &Cache[K, V]{limit: limit, entries: map[K]*list.Element{}, byUse: make([]*list.List, ranks)}
	for i := range c.byUse {
		c.byUse[i] = list.New()
	}
	return c
}

// Find returns a key's value, which is used thereby; nil if there is none.
func (c *Cache[K, V]) Find(key K) *V {
	element := c.entries[key]
	if element == nil {
		return nil
	}
	e := element.Value.(*entry[K, V])
	c.byUse[e.rank].MoveToFront(element)
	return &e.value
}

// FindOrAdd is Find, with a zero value for a key that has none.
func (c *Cache[K, V]) FindOrAdd(key K) *V {
	if found := c.Find(key); found != nil {
		return found
	}
	if len(c.entries) >= c.limit {
		c.makeRoom()
	}
	e := &entry[K, V]{key: key}
	c.entries[key] = c.byUse[0].PushFront(e)
	return &e.value
}

// makeRoom removes a value.
func (c *Cache[K, V]) makeRoom() {
	for _, of := range c.byUse {
		if of.Len() > c.limit/keptPart {
			oldest := of.Back()
			delete(c.entries, oldest.Value.(*entry[K, V]).key)
			of.Remove(oldest)
			return
		}
	}
}

// Raise gives a key's value a rank, if there is one and that is higher than its own. It is used thereby.
func (c *Cache[K, V]) Raise(key K, rank int) {
	element := c.entries[key]
	if element == nil {
		return
	}
	e := element.Value.(*entry[K, V])
	if rank <= e.rank {
		return
	}
	c.byUse[e.rank].Remove(element)
	e.rank = rank
	c.entries[key] = c.byUse[rank].PushFront(e)
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
	used := 0
	for _, of := range c.byUse {
		used += of.Len()
	}
	return []bounds.Bound{
		{Name: "lru.Cache.entries", Max: c.limit, Size: len(c.entries)},
		{Name: "lru.Cache.byUse", Max: c.limit, Size: used},
	}
}
