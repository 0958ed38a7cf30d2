// SPDX-License-Identifier: Apache-2.0

//go:build linux

package owner

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
)

// know remembers n processes that do not exist, so that nothing is read of them.
func know(c *processCache, n int) {
	for i := range n {
		c.store(cached{pid: 1e6 + i, used: time.Now()})
	}
}

func TestAProcessCostsTheSameHoweverManyAreKnown(t *testing.T) {
	root := tree(t, 42, "0::/docker/"+id+"\n", "")
	with := func(known int) func(int) {
		r := resolver(t, Settings{Proc: root})
		know(&r.cache, known)
		return func(int) { // is found for the first time, and again
			assert.Equal(t, id, r.Owner(42, "GPU-1").ContainerID)
			assert.Equal(t, id, r.Owner(42, "GPU-1").ContainerID)
			e := r.cache.byPID[42]
			delete(r.cache.byPID, 42)
			r.cache.byUse.Remove(e)
		}
	}
	growth.Constant(t, "a process", with(100), with(1_000))
	growth.Constant(t, "a process, with nearly as many as may be", with(400), with(maxCached-10))
}

func TestStoringAProcessCostsTheSameHoweverManyAreKnown(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	with := func(known int) func(int) {
		c := newProcessCache()
		know(&c, known)
		return func(i int) {
			for n := range 10 {
				c.store(cached{pid: 1e7 + 10*i + n, used: now})
			}
			for n := range 10 {
				e := c.byPID[1e7+10*i+n]
				c.byUse.Remove(e)
				delete(c.byPID, 1e7+10*i+n)
			}
		}
	}
	growth.Constant(t, "ten new processes", with(100), with(1_000))
	growth.Constant(t, "ten new processes, with nearly as many as may be", with(400), with(maxCached-10))
}
