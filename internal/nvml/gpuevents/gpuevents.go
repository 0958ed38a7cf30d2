// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Package gpuevents connects the components of a process that observe GPUs with those
// that react: what one receiver sees of a GPU's condition reaches the others once.
package gpuevents

import (
	"sync"
	"time"

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

// Bus carries the changes of all GPUs of one session. Several receivers may report the
// same GPU: each change is published once. The zero value is ready for use.
type Bus struct {
	// Conditions and Throttling publish the changes. Subscribers are called in the
	// goroutine of the receiver that reports, and must not block.
	Conditions topic.Topic[ConditionChange]
	Throttling topic.Topic[ThrottlingChange]

	mu sync.Mutex
	// gpus holds what was last reported, until Forget. Guarded by mu.
	gpus map[*nvml.GPU]*reported
}

// reported is the last report on one GPU.
type reported struct {
	condition  string
	throttling map[string]bool
}

// OfProcess is the bus of this process, beside [nvml.OfProcess].
var OfProcess = sync.OnceValue(func() *Bus { return &Bus{} })

// ReportCondition stores a GPU's condition and publishes a change. The first report of
// a healthy GPU is no change.
func (b *Bus) ReportCondition(gpu *nvml.GPU, condition string, healthy bool, reason error, now time.Time) {
	b.mu.Lock()
	r := b.of(gpu)
	before := r.condition
	r.condition = condition
	b.mu.Unlock()
	if before == condition || before == "" && healthy {
		return
	}
	b.Conditions.Publish(ConditionChange{GPU: gpu, Condition: condition, Reason: reason, Time: now})
}

// ReportThrottling stores whether a reason holds a GPU's clocks down and publishes a
// change.
func (b *Bus) ReportThrottling(gpu *nvml.GPU, reason string, active bool, now time.Time) {
	b.mu.Lock()
	r := b.of(gpu)
	before := r.throttling[reason]
	r.throttling[reason] = active
	b.mu.Unlock()
	if before == active {
		return
	}
	b.Throttling.Publish(ThrottlingChange{GPU: gpu, Reason: reason, Active: active, Time: now})
}

// Forget removes what is stored of a GPU, when a receiver shuts down or forgets the GPU.
func (b *Bus) Forget(gpu *nvml.GPU) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.gpus, gpu)
}

// of returns the report of a GPU. The caller holds mu.
func (b *Bus) of(gpu *nvml.GPU) *reported {
	r, ok := b.gpus[gpu]
	if !ok {
		if b.gpus == nil {
			b.gpus = map[*nvml.GPU]*reported{}
		}
		r = &reported{throttling: map[string]bool{}}
		b.gpus[gpu] = r
	}
	return r
}
