// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"sync/atomic"
	"time"
)

// calls is what is known of the call that a worker makes. A worker makes one call at a
// time, so that its begin identifies it. The methods of nil do nothing.
type calls struct {
	// start is when the worker began: times are counted from there, since the wall clock may
	// be set.
	start time.Time
	// began is when the call under way began, in ns; 0 while there is none.
	began atomic.Int64
	// function is NVML's name of the last call.
	function atomic.Pointer[string]
	// maxTime is the time of the longest call since it was last asked for, in ns.
	maxTime atomic.Int64
}

// now is the time since the worker began, in ns, and never 0.
func (c *calls) now() int64 { return int64(time.Since(c.start)) + 1 }

// calledBy returns the GPU with its calls made by a worker.
func (d Device) calledBy(w *worker) Device {
	d.calls = &w.calls
	return d
}

// begin and end surround a call.
func (c *calls) begin(function string) {
	if c == nil {
		return
	}
	if last := c.function.Load(); last == nil || *last != function {
		c.function.Store(&function)
	}
	c.began.Store(c.now())
}

func (c *calls) end() {
	if c != nil {
		took := c.now() - c.began.Swap(0)
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

// underWay returns the call that is under way: when it began, its identity, for how long it has
// been, and its function; 0 if there is none.
func (c *calls) underWay() (began int64, d time.Duration, function string) {
	if c == nil {
		return 0, 0, ""
	}
	if began = c.began.Load(); began == 0 {
		return 0, 0, ""
	}
	if f := c.function.Load(); f != nil {
		function = *f
	}
	return began, time.Duration(c.now() - began), function
}
