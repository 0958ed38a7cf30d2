// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import "time"

// Change is a change of one GPU's state, as a receiver that reads the GPU saw it.
type Change struct {
	GPU *GPU
	// Name is what changed: a condition (healthy, unresponsive, lost), or a reason
	// for which clocks are held down.
	Name string
	// Throttling tells the two apart; Begins is false where it ends.
	Throttling, Begins bool
	// Reason says why, where that is known.
	Reason error
	Time   time.Time
}

// cardState is what was last reported of a GPU.
type gpuState struct {
	condition  string
	throttling map[string]bool
}

// SubscribeChanges has a function called for every change of a GPU's state,
// once, however many receivers report it. It must not block.
func (s *Session) SubscribeChanges(f func(Change)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.nextSubscriber
	s.nextSubscriber++
	if s.changeSubscribers == nil {
		s.changeSubscribers = map[int]func(Change){}
	}
	s.changeSubscribers[id] = f
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.changeSubscribers, id)
	}
}

// ReportCondition notes a GPU's condition. The first one that is healthy is no change.
func (s *Session) ReportCondition(gpu *GPU, condition string, healthy bool, reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.stateOf(gpu)
	before := state.condition
	state.condition = condition
	if before == condition || before == "" && healthy {
		return
	}
	s.notify(Change{GPU: gpu, Name: condition, Begins: true, Reason: reason, Time: time.Now()})
}

// ReportThrottling notes whether a reason holds a GPU's clocks down.
func (s *Session) ReportThrottling(gpu *GPU, reason string, active bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.stateOf(gpu)
	if state.throttling[reason] == active {
		return
	}
	state.throttling[reason] = active
	s.notify(Change{GPU: gpu, Name: reason, Throttling: true, Begins: active, Time: time.Now()})
}

func (s *Session) stateOf(gpu *GPU) *gpuState {
	if s.gpuStates == nil {
		s.gpuStates = map[*GPU]*gpuState{}
	}
	state, ok := s.gpuStates[gpu]
	if !ok {
		state = &gpuState{throttling: map[string]bool{}}
		s.gpuStates[gpu] = state
	}
	return state
}

func (s *Session) notify(c Change) {
	for _, f := range s.changeSubscribers {
		f(c)
	}
}
