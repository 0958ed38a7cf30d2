// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Package gpuevents connects the components of a process that observe GPUs with those
// that react: what one receiver sees of a GPU's condition reaches the others once.
package gpuevents

import (
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/topic"
)

// ConditionChange is a GPU's change to another condition: healthy, unresponsive, lost.
type ConditionChange struct {
	GPU       *nvml.GPU
	Condition string
	// Reason is why, if that is known.
	Reason error
	Time   time.Time
}

// ThrottlingChange is the begin or the end of one reason for which a GPU's clocks are
// held down.
type ThrottlingChange struct {
	GPU    *nvml.GPU
	Reason string
	Active bool
	Time   time.Time
}

// MemoryReading is a GPU's memory as a sampler read it between two scrapes.
type MemoryReading struct {
	// ID is the hw.id of the GPU or the MIG device.
	ID string
	// Used is in bytes, as hw.gpu.memory.usage.
	Used uint64
	Time time.Time
}

// Bus carries the changes of all GPUs of one session. Several receivers may report the
// same GPU: each change is published once. The zero value is ready for use.
type Bus struct {
	// Conditions and Throttling publish the changes. Subscribers are called in the
	// goroutine of the receiver that reports, and must not block.
	Conditions topic.Topic[ConditionChange]
	Throttling topic.Topic[ThrottlingChange]
	// Memory publishes what the samplers read, from the GPUs' workers: subscribers must not block.
	Memory topic.Topic[MemoryReading]

	// mu guards everything declared below. It is not held while subscribers are called.
	mu sync.Mutex
	// gpus holds what was last reported, until Forget.
	gpus map[*nvml.GPU]*reported
	// pending are the changes that are not published yet, in their order; publishing is
	// true while a goroutine publishes them.
	pending    []any
	publishing bool
	dropped    int64
}

// maxPending bounds the changes that wait: those of a subscriber that reports, and of
// receivers that report while others' changes are published.
const maxPending = 4096

// reported is the last report on one GPU.
type reported struct {
	// condition is what was published last, or healthy at first.
	condition string
	// presence is what receivers reported last, absent is true if that is not healthy; hung
	// is true while a call hangs.
	presence     string
	absent, hung bool
	throttling   map[string]bool
}

// The conditions that this package knows by name.
const (
	healthy      = "healthy"
	unresponsive = "unresponsive"
)

// is the GPU's condition: one that is lost cannot be unresponsive, too.
func (r *reported) is() string {
	switch {
	case r.absent:
		return r.presence
	case r.hung:
		return unresponsive
	}
	return healthy
}

// OfProcess is the bus of this process, beside [nvml.OfProcess].
var OfProcess = sync.OnceValue(func() *Bus { return &Bus{} })

// ReportCondition stores a GPU's condition as a scrape found it, healthy or lost, and
// publishes a change. The first report of a healthy GPU is not a change. Whether a call hangs
// is not for a scrape to say: see ReportHang.
func (b *Bus) ReportCondition(gpu *nvml.GPU, condition string, isHealthy bool, reason error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.of(gpu)
	r.presence, r.absent = condition, !isHealthy
	b.publishCondition(gpu, r, reason, now)
}

// ReportHang stores why a GPU is unresponsive, or with nil that it is not, as the session
// found it, and publishes a change.
func (b *Bus) ReportHang(gpu *nvml.GPU, reason error, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.of(gpu)
	r.hung = reason != nil
	b.publishCondition(gpu, r, reason, now)
}

// publishCondition publishes a GPU's condition if it changed. The caller holds mu.
func (b *Bus) publishCondition(gpu *nvml.GPU, r *reported, reason error, now time.Time) {
	before := r.condition
	r.condition = r.is()
	if before != r.condition && (before != "" || r.condition != healthy) {
		b.publish(ConditionChange{GPU: gpu, Condition: r.condition, Reason: reason, Time: now})
	}
}

// ReportThrottling stores whether a reason holds a GPU's clocks down and publishes a
// change.
func (b *Bus) ReportThrottling(gpu *nvml.GPU, reason string, active bool, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.of(gpu)
	before := r.throttling[reason]
	r.throttling[reason] = active
	if before != active {
		b.publish(ThrottlingChange{GPU: gpu, Reason: reason, Active: active, Time: now})
	}
}

// publish publishes a change after those before it, so that two receivers that report one
// GPU cannot swap its changes. The caller holds mu, which is released while subscribers are
// called.
func (b *Bus) publish(change any) {
	if len(b.pending) >= maxPending {
		b.dropped++
		return
	}
	b.pending = append(b.pending, change)
	if b.publishing {
		return // by another goroutine, or a subscriber reports
	}
	b.publishing = true
	for len(b.pending) > 0 {
		next := b.pending[0]
		b.pending = b.pending[1:]
		b.mu.Unlock()
		switch next := next.(type) {
		case ConditionChange:
			b.Conditions.Publish(next)
		case ThrottlingChange:
			b.Throttling.Publish(next)
		}
		b.mu.Lock()
	}
	b.pending, b.publishing = nil, false
}

// MemoryRead publishes a reading of a sampler.
func (b *Bus) MemoryRead(id string, used uint64, at time.Time) {
	b.Memory.Publish(MemoryReading{ID: id, Used: used, Time: at})
}

// makeRoom removes a GPU that the session has forgotten, or another: its next report is a
// first one. The caller holds mu.
func (b *Bus) makeRoom() {
	var victim *nvml.GPU
	for gpu := range b.gpus {
		victim = gpu
		if gpu.Err() != nil {
			break
		}
	}
	delete(b.gpus, victim)
}

// Forget removes what is stored of a GPU, when a receiver shuts down or forgets the GPU.
func (b *Bus) Forget(gpu *nvml.GPU) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.gpus, gpu)
}

// Dropped returns how many changes found no room since the last call.
func (b *Bus) Dropped() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.dropped
	b.dropped = 0
	return n
}

// Bounds implements [bounds.Registered].
func (b *Bus) Bounds() []bounds.Bound {
	b.mu.Lock()
	defer b.mu.Unlock()
	return []bounds.Bound{
		{Name: "gpuevents.Bus.gpus", Max: nvml.MaxGPUs, Size: len(b.gpus)},
		{Name: "gpuevents.Bus.pending", Max: maxPending, Size: len(b.pending)},
	}
}

// of returns the report of a GPU. The caller holds mu.
func (b *Bus) of(gpu *nvml.GPU) *reported {
	r, ok := b.gpus[gpu]
	if !ok {
		if b.gpus == nil {
			b.gpus = map[*nvml.GPU]*reported{}
		}
		if len(b.gpus) >= nvml.MaxGPUs {
			b.makeRoom()
		}
		r = &reported{throttling: map[string]bool{}}
		b.gpus[gpu] = r
	}
	return r
}
