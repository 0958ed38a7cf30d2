// SPDX-License-Identifier: Apache-2.0

package lru

import (
	"maps"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatWasNotUsedForTheLongestTimeMakesRoom(t *testing.T) {
	c := New[string, int](2)
	*c.FindOrAdd("a") = 1
	*c.FindOrAdd("b") = 2
	assert.Equal(t, 1, *c.Find("a"), "it is used")
	assert.Equal(t, 0, *c.FindOrAdd("c"))
	assert.Nil(t, c.Find("b"))
	assert.Equal(t, 1, *c.FindOrAdd("a"))
	keys := slices.Sorted(maps.Keys(maps.Collect(c.All())))
	assert.Equal(t, []string{"a", "c"}, keys)
	for key := range c.All() { // looking at all uses none
		assert.NotEmpty(t, key)
	}
	c.FindOrAdd("d")
	assert.Nil(t, c.Find("c"))
	for _, b := range c.Bounds() {
		assert.Equal(t, 2, b.Size, b.Name)
	}
}

func TestTheLowestRankMakesRoomFirst(t *testing.T) {
	const limit = 16
	c := NewRanked[int, int](limit, 3)
	for i := range limit {
		*c.FindOrAdd(i) = i
		c.Raise(i, min(i, 2))
	}
	c.Raise(1, 0)
	c.Raise(100, 2)
	kept := c.Find(7)
	for i := range 100 {
		c.FindOrAdd(limit + i)
	}
	assert.Same(t, kept, c.Find(7), "values stay where they are")
	for i := range limit {
		assert.Equal(t, i == 1 || i > 3, c.Find(i) != nil, i) // 2 and 3 made room for the part of the lowest
	}
	for _, b := range c.Bounds() {
		assert.Equal(t, limit, b.Size, b.Name)
	}
}
