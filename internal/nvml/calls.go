// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"sync/atomic"
	"time"
)

// calls is what is known of the call that a worker makes. A worker makes one call at a
// time, so that its begin identifies it. The zero value is ready for use; the methods of
// nil do nothing.
type calls struct {
	// began is when the call under way began, in Unix ns; 0 while there is none.
	began atomic.Int64
	// function is NVML's name of the last call.
	function atomic.Pointer[string]
	// maxTime is the time of the longest call since it was last asked for, in ns.
	maxTime atomic.Int64
}

// begin and end surround a call.
func (c *calls) begin(function string) {
	if c == nil {
		return
	}
	if last := c.function.Load(); last == nil || *last != function {
		c.function.Store(&function)
	}
	c.began.Store(time.Now().UnixNano())
}

func (c *calls) end() {
	if c != nil {
		took := time.Now().UnixNano() - c.began.Swap(0)
		c.maxTime.Store(max(c.maxTime.Load(), took)) // only the worker's own goroutine stores it
	}
}

// MaxCallTime is how long the longest call took since this was last asked, on the GPU's
// worker.
func (d Device) MaxCallTime() time.Duration {
	if d.calls == nil {
		return 0
	}
	return time.Duration(d.calls.maxTime.Swap(0))
}

// underWay returns the call that is under way: when it began, its identity, and its
// function; 0 if there is none.
func (c *calls) underWay() (began int64, function string) {
	if c == nil {
		return 0, ""
	}
	if began = c.began.Load(); began == 0 {
		return 0, ""
	}
	if f := c.function.Load(); f != nil {
		function = *f
	}
	return began, function
}
