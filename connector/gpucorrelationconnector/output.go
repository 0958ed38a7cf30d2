// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

const (
	// maxDrain bounds the shutdown of one side: what its next consumers have not accepted
	// by then is dropped and counted.
	maxDrain = time.Second
	// maxReturn is the last part of maxDrain. In it the context of deliveries has ended,
	// and consumers that heed it return.
	maxReturn = 100 * time.Millisecond
)

// output is the way out of one signal: a goroutine that delivers what is ready, and the
// deliveries that are under way. After shutdown nothing is
// delivered, since the next consumers may have shut down, too.
type output struct {
	wake   chan struct{}
	stop   chan struct{} // closed when the side shuts down
	hurry  chan struct{} // closed when half of the time for it is over
	idle   chan struct{} // closed when nothing is under way after stop
	cancel context.CancelFunc

	// mu guards everything declared below.
	mu       sync.Mutex
	state    outputState
	active   int                // the goroutine, and calls that deliver or make it deliver
	underway map[*delivery]bool // that are counted when they are abandoned
}

type outputState int

const (
	notStarted outputState = iota
	open
	closing // what waits is delivered
	closed  // nothing is
)

// delivery is data on its way to the next consumers.
type delivery struct {
	items     int // spans or records
	handovers []comfyevents.Handover
}

func newOutput() output {
	return output{
		wake: make(chan struct{}, 1), stop: make(chan struct{}), hurry: make(chan struct{}), idle: make(chan struct{}),
		underway: map[*delivery]bool{},
	}
}

// notify makes the output's goroutine send what is ready.
func (o *output) notify() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// isOpen reports whether the output is started and does not shut down.
func (o *output) isOpen() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state == open
}

// isClosed reports whether the output has shut down.
func (o *output) isClosed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.state == closed
}

// enter begins a call that may deliver; false if the side has shut down. The caller
// calls leave.
func (o *output) enter() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state != open {
		return false
	}
	o.active++
	return true
}

func (o *output) leave() {
	o.mu.Lock()
	o.active--
	last := o.active == 0
	o.mu.Unlock()
	if last {
		close(o.idle)
	} else {
		o.notify() // a goroutine may be waiting for this delivery only
	}
}

// alone reports whether only the goroutine is active.
func (o *output) alone() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.active == 1
}

// begin registers a delivery; false if nothing may be delivered any more.
func (o *output) begin(d *delivery) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.state == closed {
		return false
	}
	o.underway[d] = true
	return true
}

// isUnderway reports whether a delivery has not been abandoned.
func (o *output) isUnderway(d *delivery) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.underway[d]
}

// end ends a delivery; false if it was abandoned, and counted as such.
func (o *output) end(d *delivery) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	underway := o.underway[d]
	delete(o.underway, d)
	return underway
}

// start starts the output's goroutine.
func (o *output) start(run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	o.mu.Lock()
	o.state, o.active, o.cancel = open, 1, cancel
	o.mu.Unlock()
	go run(ctx)
}

// shutdown lets the goroutine deliver what waits, until ctx ends or the time for it is
// over. It returns what was abandoned. A consumer that does not heed its context keeps
// the goroutine, which delivers nothing more when it is released.
func (o *output) shutdown(ctx context.Context) (abandoned []*delivery) {
	ctx, cancel := context.WithTimeout(ctx, maxDrain-maxReturn)
	defer cancel()
	half := time.NewTimer((maxDrain - maxReturn) / 2)
	defer half.Stop()
	o.mu.Lock()
	o.state = closing
	o.mu.Unlock()
	close(o.stop)
	select {
	case <-o.idle:
	case <-ctx.Done():
	case <-half.C:
		close(o.hurry)
		select {
		case <-o.idle:
		case <-ctx.Done():
		}
	}
	o.mu.Lock()
	o.state = closed
	abandoned = slices.Collect(maps.Keys(o.underway))
	clear(o.underway)
	o.mu.Unlock()
	o.cancel()
	end := time.NewTimer(maxReturn)
	defer end.Stop()
	select {
	case <-o.idle:
	case <-end.C:
	}
	return abandoned
}
