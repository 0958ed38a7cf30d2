// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"container/list"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// cached is what was read of a process. A pid that is used again has another start.
type cached struct {
	pid        int
	start      uint64
	executable string
	cgroup     cgroupOwner
	used       time.Time
}

const (
	// maxCached bounds the processes that are remembered.
	maxCached = 4096
	// forgetAfter is how long a process that was not asked about is remembered.
	forgetAfter = time.Minute
)

// processCache remembers processes in the order of their use, so that those to be
// forgotten are found at once.
type processCache struct {
	byPID map[int]*list.Element
	byUse *list.List // of *cached, the last used in front
}

func newProcessCache() processCache {
	return processCache{byPID: map[int]*list.Element{}, byUse: list.New()}
}

func (c *processCache) find(pid int) (p cached, known bool) {
	if e := c.byPID[pid]; e != nil {
		return *e.Value.(*cached), true
	}
	return cached{}, false
}

// store remembers a process that was used now, and forgets two at most: those that were
// not used for forgetAfter, and the first beyond maxCached.
func (c *processCache) store(p cached) {
	if e := c.byPID[p.pid]; e != nil {
		*e.Value.(*cached) = p
		c.byUse.MoveToFront(e)
		return
	}
	for range 2 {
		last := c.byUse.Back()
		if last == nil {
			break
		}
		if old := last.Value.(*cached); len(c.byPID) >= maxCached || p.used.Sub(old.used) > forgetAfter {
			c.byUse.Remove(last)
			delete(c.byPID, old.pid)
		}
	}
	c.byPID[p.pid] = c.byUse.PushFront(&p)
}

// Bounds lists what the cache holds. The caller holds the lock that guards it.
func (c *processCache) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "owner.processCache.byPID", Max: maxCached, Size: len(c.byPID)},
		{Name: "owner.processCache.byUse", Max: maxCached, Size: c.byUse.Len()},
	}
}
