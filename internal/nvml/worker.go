// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"sync"
	"sync/atomic"
	"time"
)

// jobQueue bounds what waits for one GPU: one job per instance that shares it.
const jobQueue = 64

// job is what a worker is to do.
type job struct {
	// run is called once, in the worker's goroutine; it may hang.
	run func()
	// of is the GPU whose job it is; nil for a probe of an index.
	of *GPU
}

// worker makes all calls on the GPU at one index. A call that hangs holds this
// worker's thread and no other; later jobs wait in its queue. Every job that was accepted
// is run, unless one before it hangs.
type worker struct {
	// jobs are run in their order, one at a time; a job may hang.
	jobs  chan job
	stop  chan struct{}
	ended chan struct{}
	// since is when the running job began, in Unix ns; 0 while idle.
	since atomic.Int64
	// calls is the call that the job makes.
	calls calls

	mu   sync.Mutex
	open int // jobs that wait or run
	// abandoned workers end with their last job, closed ones accept none.
	abandoned, closed bool
}

// submit queues a job; false if the queue is full or the worker has ended.
func (w *worker) submit(j job) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	select {
	case w.jobs <- j:
		w.open++
		return true
	default:
		return false
	}
}

// busyFor is how long the running job has been running.
func (w *worker) busyFor(now time.Time) time.Duration {
	since := w.since.Load()
	if since == 0 {
		return 0
	}
	return time.Duration(now.UnixNano() - since)
}

// workers holds the workers of a library by index. They outlive the session if they
// hang, and the next session adopts them: however often components are restarted, a GPU
// that hangs occupies one thread.
type workers struct {
	now     func() time.Time
	mu      sync.Mutex
	byIndex map[int]*worker
}

// adopt returns the worker of an index, started if need be.
func (ws *workers) adopt(index int) *worker {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w, ok := ws.byIndex[index]; ok {
		w.mu.Lock()
		w.abandoned = false
		w.mu.Unlock()
		return w
	}
	w := &worker{
		jobs: make(chan job, jobQueue), stop: make(chan struct{}), ended: make(chan struct{}),
		calls: calls{start: time.Now()},
	}
	ws.byIndex[index] = w
	go ws.run(index, w)
	return w
}

func (ws *workers) run(index int, w *worker) {
	defer close(w.ended)
	for {
		select {
		case <-w.stop:
			return
		case j := <-w.jobs:
			w.since.Store(ws.now().UnixNano())
			j.run()
			if j.of != nil {
				j.of.done()
			}
			w.since.Store(0)
			if ws.leave(index, w) {
				return
			}
		}
	}
}

// leave removes an abandoned worker after its last job.
func (ws *workers) leave(index int, w *worker) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open--
	if !w.abandoned || w.open > 0 {
		return false
	}
	w.closed = true
	delete(ws.byIndex, index)
	return true
}

// release ends the worker of an index: at once if it is idle, else after its last
// job.
func (ws *workers) release(index int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w, ok := ws.byIndex[index]
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open > 0 {
		w.abandoned = true
		return
	}
	w.closed = true
	close(w.stop)
	delete(ws.byIndex, index)
}
