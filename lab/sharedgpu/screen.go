// SPDX-License-Identifier: Apache-2.0

package sharedgpu

import (
	"sync"
	"time"
)

// Readings are what NVML shows of a GPU at a time.
type Readings struct {
	Time        time.Time
	Total, Used int64 // bytes
	// Working is true while a process works.
	Working   bool
	Processes []ProcessReading
}

// ProcessReading is what NVML shows of a process: those that hold no memory are not listed.
type ProcessReading struct {
	PID     int
	Used    int64 // bytes
	Working bool
}

// Screen shows a GPU's readings: on the NVML test library, or to a test.
type Screen interface {
	// Show is called with each change, in the order of the changes. It must not block, nor call
	// the GPU.
	Show(Readings)
}

// show shows the present. The caller holds mu.
func (g *GPU) show() {
	r := Readings{Time: time.Now(), Total: g.total, Used: g.total - g.free(), Working: len(g.jobs) > 0}
	works := map[*Process]bool{}
	for _, j := range g.jobs {
		works[j.process] = true
	}
	for _, p := range g.processes {
		if p.held > 0 {
			r.Processes = append(r.Processes, ProcessReading{PID: p.pid, Used: p.held, Working: works[p]})
		}
	}
	g.screen.Show(r)
}

// Latest is a [Screen] that keeps the latest readings, for a test that gives them to the product
// as often as it scrapes. The zero value is ready for use.
type Latest struct {
	mu       sync.Mutex
	readings Readings
}

// Show implements [Screen].
func (l *Latest) Show(r Readings) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.readings = r
}

// Readings are the latest. The list of processes must not be changed.
func (l *Latest) Readings() Readings {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.readings
}
