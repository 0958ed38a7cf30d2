// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"slices"
)

// place is where an item is in time; seq tells items of the same time apart.
type place struct {
	at  int64
	seq uint64
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.at, q.at), cmp.Compare(p.seq, q.seq))
}

// placed is an item that has a place, which does not change while it is in a list, and
// lasts until some time.
type placed interface {
	place() place
	until() int64
}

// maxChunk bounds the items of a chunk of an ordered list, which one hold of the lock
// inspects together.
const maxChunk = 128

// ordered is a list of items in the order of their places. It finds, adds and removes
// within chunks, so that no operation depends on how many items there are.
type ordered[T placed] struct {
	chunks []*chunk[T]
	n      int
}

type chunk[T placed] struct {
	items []T
	until int64 // the latest of its items
}

// find is the place of a chunk in which an item with a place is or belongs.
func (o *ordered[T]) find(p place) int {
	i, _ := slices.BinarySearchFunc(o.chunks, p, func(c *chunk[T], p place) int {
		if c.items[0].place().compare(p) <= 0 {
			return -1
		}
		return 1
	})
	return max(i-1, 0)
}

// search is the place of the first item of a chunk that is not before a place.
func (c *chunk[T]) search(p place) (i int, found bool) {
	return slices.BinarySearchFunc(c.items, p, func(x T, p place) int { return x.place().compare(p) })
}

func (c *chunk[T]) refresh() {
	c.until = c.items[0].until()
	for _, x := range c.items[1:] {
		c.until = max(c.until, x.until())
	}
}

// insert adds an item.
func (o *ordered[T]) insert(x T) {
	o.n++
	if len(o.chunks) == 0 {
		o.chunks = []*chunk[T]{{items: []T{x}, until: x.until()}}
		return
	}
	at := o.find(x.place())
	c := o.chunks[at]
	i, _ := c.search(x.place())
	if len(c.items) >= maxChunk {
		half := maxChunk / 2
		if at == len(o.chunks)-1 && i == len(c.items) {
			half = maxChunk // items that arrive in order fill their chunks
		}
		second := &chunk[T]{items: append(make([]T, 0, maxChunk), c.items[half:]...)}
		clear(c.items[half:])
		c.items = c.items[:half]
		c.refresh()
		if i >= half {
			second.items = slices.Insert(second.items, i-half, x)
		} else {
			c.items = slices.Insert(c.items, i, x)
			c.until = max(c.until, x.until())
		}
		second.refresh()
		o.chunks = slices.Insert(o.chunks, at+1, second)
		return
	}
	c.items = slices.Insert(c.items, i, x)
	c.until = max(c.until, x.until())
}

// remove removes an item; false if it is not there.
func (o *ordered[T]) remove(x T) bool {
	if len(o.chunks) == 0 {
		return false
	}
	at := o.find(x.place())
	c := o.chunks[at]
	i, found := c.search(x.place())
	if !found {
		return false
	}
	o.n--
	c.items = slices.Delete(c.items, i, i+1)
	switch {
	case len(c.items) == 0:
		o.chunks = slices.Delete(o.chunks, at, at+1)
	case at+1 < len(o.chunks) && len(c.items)+len(o.chunks[at+1].items) <= maxChunk/2:
		c.items = append(c.items, o.chunks[at+1].items...)
		o.chunks = slices.Delete(o.chunks, at+1, at+2)
		c.refresh()
	case x.until() == c.until:
		c.refresh()
	}
	return true
}

// from returns items in their order, the first that is not before a place first: at most
// those of one chunk, none at the end of the list.
func (o *ordered[T]) from(p place) []T {
	if len(o.chunks) == 0 {
		return nil
	}
	at := o.find(p)
	i, _ := o.chunks[at].search(p)
	if i == len(o.chunks[at].items) {
		if at++; at == len(o.chunks) {
			return nil
		}
		i = 0
	}
	return o.chunks[at].items[i:]
}

// before returns items in their order, of which the last is before a place: those of
// the next chunk in which any lasts until some time, none at the begin of the list.
func (o *ordered[T]) before(p place, until int64) []T {
	if len(o.chunks) == 0 {
		return nil
	}
	at := o.find(p)
	i, _ := o.chunks[at].search(p)
	for {
		if i > 0 && o.chunks[at].until >= until {
			return o.chunks[at].items[:i]
		}
		if at--; at < 0 {
			return nil
		}
		i = len(o.chunks[at].items)
	}
}
