// SPDX-License-Identifier: Apache-2.0

// Package sharedgpu is a GPU that several ComfyUI servers share, as far as admission depends on
// it: its time is sliced among the processes that work, memory is held by process, and a prompt
// that does not fit runs out of memory only once it has used what there was. What a prompt costs
// is the [law]'s. It needs no socket and no cgo, and keeps to the clock of package time: it runs
// in real time, and in virtual time inside testing/synctest.
package sharedgpu

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// GPU is one GPU.
type GPU struct {
	total  int64
	screen Screen

	// unlisted is memory that is used by no process that NVML lists, in bytes.
	unlisted int64

	// mu guards everything declared below.
	mu        sync.Mutex
	processes []*Process
	jobs      []*job
	// served is the exclusive time that each job has had since the GPU was last idle, in parts.
	served int64
	at     time.Time // up to which time has been served
	busy   time.Duration
	next   *time.Timer // the next end of a job
}

// parts are how many parts a nanosecond has: each of up to 12 jobs gets a whole number of them,
// so that the sharing is exact.
const parts = 27720

// job is a piece of work that shares the GPU.
type job struct {
	process    *Process
	from, ends int64 // by served
	done       chan struct{}
}

// New makes an idle GPU with so many bytes, of which some are used by no process that NVML lists: a driver
// has some MiB, and so has whatever the list misses.
func New(total, unlisted int64, screen Screen) *GPU {
	g := &GPU{total: total, unlisted: unlisted, screen: screen, at: time.Now()}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.show()
	return g
}

// Process is one that uses the GPU.
type Process struct {
	gpu  *GPU
	pid  int
	held int64 // bytes; guarded by the GPU's mu
	// ended is when the last work had its time, by arithmetic; guarded by the GPU's mu.
	ended time.Time
}

// Process adds a process, which holds no memory yet.
func (g *GPU) Process(pid int) *Process {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := &Process{gpu: g, pid: pid}
	g.processes = append(g.processes, p)
	return p
}

// Work works for so long as it would last on a GPU without others, and returns how much of that
// was done, which is less if the context ends.
func (p *Process) Work(ctx context.Context, exclusive time.Duration) (time.Duration, error) {
	return p.work(ctx, exclusive, false)
}

// work is [Process.Work]. Work that continues begins when the last ended by arithmetic, so that
// what timers and goroutines are late in real time does not add up; in virtual time they are not.
func (p *Process) work(ctx context.Context, exclusive time.Duration, continues bool) (time.Duration, error) {
	if exclusive <= 0 {
		return 0, ctx.Err()
	}
	g := p.gpu
	j := &job{process: p, done: make(chan struct{})}
	g.mu.Lock()
	g.serve()
	j.from, j.ends = g.served, g.served+int64(exclusive)*parts
	if continues {
		j.ends -= int64(g.at.Sub(p.ended)) * parts / int64(len(g.jobs)+1) // it may have ended before it begins
	}
	g.jobs = append(g.jobs, j)
	g.schedule()
	g.mu.Unlock()
	select {
	case <-j.done:
		return exclusive, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve()
	served := max(min(g.served, j.ends)-j.from, 0)
	if i := slices.Index(g.jobs, j); i >= 0 {
		g.jobs = slices.Delete(g.jobs, i, i+1)
	}
	g.schedule()
	return time.Duration(served / parts), ctx.Err()
}

// serve counts what the jobs had since the last time: of k jobs each has a k-th. The caller holds
// mu.
func (g *GPU) serve() {
	now := time.Now()
	passed := now.Sub(g.at)
	g.at = now
	if k := int64(len(g.jobs)); k > 0 {
		g.served += int64(passed) * parts / k
		g.busy += passed
	}
}

// schedule ends the jobs that have had their time, sets the timer for the next, and shows what has
// changed. The caller holds mu.
func (g *GPU) schedule() {
	var over []*job
	k := int64(len(g.jobs))
	g.jobs = slices.DeleteFunc(g.jobs, func(j *job) bool {
		if g.served < j.ends {
			return false
		}
		j.process.ended = g.at.Add(-time.Duration((g.served - j.ends) * k / parts))
		over = append(over, j)
		return true
	})
	if g.next != nil {
		g.next.Stop()
		g.next = nil
	}
	if len(g.jobs) == 0 {
		g.served = 0
	} else {
		first := slices.MinFunc(g.jobs, func(a, b *job) int { return cmp.Compare(a.ends, b.ends) })
		left := (first.ends - g.served) * int64(len(g.jobs))
		g.next = time.AfterFunc(time.Duration((left+parts-1)/parts), g.proceed)
	}
	g.show()
	for _, j := range over {
		close(j.done)
	}
}

// proceed is what the timer does.
func (g *GPU) proceed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve()
	g.schedule()
}

// grow has the process hold more; false if the GPU has no room for it.
func (p *Process) grow(bytes int64) bool {
	p.gpu.mu.Lock()
	defer p.gpu.mu.Unlock()
	if bytes > p.gpu.free() {
		return false
	}
	p.held += bytes
	p.gpu.show()
	return true
}

// shrink has the process hold less.
func (p *Process) shrink(bytes int64) {
	p.gpu.mu.Lock()
	defer p.gpu.mu.Unlock()
	p.held -= bytes
	p.gpu.show()
}

// Held is what the process holds by NVML, in bytes.
func (p *Process) Held() int64 {
	p.gpu.mu.Lock()
	defer p.gpu.mu.Unlock()
	return p.held
}

// Hold has a foreign process hold so many bytes; false if the GPU has no room for them.
func (p *Process) Hold(bytes int64) bool {
	p.gpu.mu.Lock()
	defer p.gpu.mu.Unlock()
	if bytes-p.held > p.gpu.free() {
		return false
	}
	p.held = bytes
	p.gpu.show()
	return true
}

// free is what nobody holds. The caller holds mu.
func (g *GPU) free() int64 {
	left := g.total - g.unlisted
	for _, p := range g.processes {
		left -= p.held
	}
	return left
}

// Free is the memory that nobody holds, in bytes, and Total what processes may use.
func (g *GPU) Free() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.free()
}

// Total is the memory that processes may use, in bytes.
func (g *GPU) Total() int64 { return g.total - g.unlisted }

// Busy is for how long the GPU has worked since it was made.
func (g *GPU) Busy() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.serve()
	return g.busy
}

// Unlisted draws how much of a GPU's memory is used by no process that NVML lists: 5 to 50 MiB, in bytes.
func Unlisted(random *rand.Rand) int64 { return 5*law.MiB + random.Int64N(45*law.MiB) }
