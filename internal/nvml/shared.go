// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import "time"

// SharedFor is how old an answer may be that one receiver got and another one asks for.
const SharedFor = 50 * time.Millisecond

// Asker identifies who asks a GPU. Answers are shared among different ones: who asks twice
// wants two answers.
type Asker struct{ _ byte }

// recent holds the last answers of a GPU. It is only ever touched by jobs of the GPU's
// worker.
type recent struct {
	memory    answer[Memory]
	processes answer[[]RunningProcess]
	samples   [maxSampled]sampledAnswer
}

// answer is one answer and who asked for it.
type answer[T any] struct {
	value T
	at    time.Time
	by    *Asker
}

// of returns the answer if another one asked for it a moment ago.
func (a *answer[T]) of(by *Asker, now time.Time) (T, bool) {
	age := now.Sub(a.at)
	return a.value, !a.at.IsZero() && a.by != by && age >= 0 && age <= SharedFor
}

// sampledAnswer are the driver's samples since a time.
type sampledAnswer struct {
	answer[[]UtilizationSample]
	since uint64
}

// maxSampled bounds the buffers whose samples are shared, by their numbers
// (nvmlSamplingType_t).
const maxSampled = 8

// SharedMemory is [Device.MemoryInfo], or [Device.MemoryInfoV1] of drivers that have no
// other, and when it was read: by this asker now or by another one a moment ago.
// withReserve is true if the reserve is apart.
func (d Device) SharedMemory() (m Memory, withReserve bool, at time.Time, err error) {
	if d.recent != nil {
		if m, ok := d.recent.memory.of(d.by, time.Now()); ok {
			return m, !m.old, d.recent.memory.at, nil
		}
	}
	if m, err = d.MemoryInfo(); IsUnsupported(err) {
		m, err = d.MemoryInfoV1()
		m.old = true
	}
	at = time.Now()
	if err == nil && d.recent != nil {
		d.recent.memory = answer[Memory]{m, at, d.by}
	}
	return m, !m.old, at, err
}

// ComputeProcesses appends the processes that compute, as read by this asker now or by
// another one a moment ago (nvmlDeviceGetComputeRunningProcesses).
func (d Device) ComputeProcesses(into []RunningProcess) ([]RunningProcess, error) {
	if d.recent != nil {
		if all, ok := d.recent.processes.of(d.by, time.Now()); ok {
			return append(into, all...), nil
		}
	}
	begin, before := time.Now(), len(into)
	into, err := d.running(computeProcesses, into)
	if err == nil {
		d.listed.set(begin, time.Now(), into[before:])
	}
	if err == nil && d.recent != nil {
		last := &d.recent.processes
		*last = answer[[]RunningProcess]{value: last.value[:0]}
		if len(into)-before <= maxListed { // a longer one is not shared: each reads its own
			*last = answer[[]RunningProcess]{append(last.value, into[before:]...), time.Now(), d.by}
		}
	}
	return into, err
}

// ListedProcesses appends the processes that compute by a list that is not older than an age,
// whoever read it, or as read now.
func (d Device) ListedProcesses(age time.Duration, into []RunningProcess) ([]RunningProcess, error) {
	if d.recent != nil {
		if last := &d.recent.processes; !last.at.IsZero() && time.Since(last.at) <= age {
			return append(into, last.value...), nil
		}
	}
	return d.ComputeProcesses(into)
}

// SharedSamples is [Device.UtilizationSamples], as read by this asker now or by another one
// a moment ago.
func (d Device) SharedSamples(engine SampledEngine, since uint64, into []UtilizationSample) ([]UtilizationSample, error) {
	if d.recent == nil || int(engine) >= maxSampled {
		return d.UtilizationSamples(engine, since, into)
	}
	last := &d.recent.samples[engine]
	if all, ok := last.of(d.by, time.Now()); ok && last.since <= since {
		for _, s := range all {
			if s.At > since {
				into = append(into, s)
			}
		}
		return into, nil
	}
	before := len(into)
	into, err := d.UtilizationSamples(engine, since, into)
	if err == nil {
		*last = sampledAnswer{answer[[]UtilizationSample]{append(last.value[:0], into[before:]...), time.Now(), d.by}, since}
	}
	return into, err
}
