// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

// Bounds implements [bounds.Registered]. It waits while a session ends.
func (s *Sessions) Bounds() []bounds.Bound {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.session != nil:
		return s.session.Bounds()
	case s.lib != nil: // workers that hang outlive the session
		return s.lib.workers.Bounds()
	}
	return nil
}

// Bounds implements [bounds.Registered]. It never waits for the driver.
func (s *Session) Bounds() []bounds.Bound {
	s.mu.Lock()
	k := s.kernelLog
	all := []bounds.Bound{
		{Name: "nvml.Snapshot.GPUs", Max: MaxGPUs, Size: len(s.snapshot.GPUs)},
		{Name: "nvml.Session.slots", Max: MaxGPUs, Size: len(s.slots)},
		{Name: "nvml.Session.retiring", Max: MaxGPUs, Size: len(s.retiring)},
		{Name: "nvml.Session.covered", Max: MaxGPUs, Size: len(s.covered)},
	}
	s.mu.Unlock()
	all = append(all, bounds.Of(&s.once, &s.lib.workers)...)
	if k != nil {
		all = append(all, k.Bounds()...)
	}
	if w := s.watch.Load(); w != nil {
		all = append(all, w.Bounds()...)
	}
	return all
}

// Bounds implements [bounds.Registered].
func (w *watch) Bounds() []bounds.Bound {
	w.mu.Lock()
	defer w.mu.Unlock()
	// GPUs that the session has forgotten leave before others are registered.
	return []bounds.Bound{{Name: "nvml.watch.registered", Max: 2 * MaxGPUs, Size: len(w.registered)}}
}

// Bounds implements [bounds.Registered].
func (k *kernelLog) Bounds() []bounds.Bound {
	k.mu.Lock()
	defer k.mu.Unlock()
	return []bounds.Bound{{Name: "nvml.kernelLog.seen", Max: maxSeen, Size: len(k.seen)}}
}

// Bounds implements [bounds.Registered].
func (ws *workers) Bounds() []bounds.Bound {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	all := make([]bounds.Bound, 0, 1+len(ws.byIndex))
	all = append(all, bounds.Bound{Name: "nvml.workers.byIndex", Max: MaxGPUs, Size: len(ws.byIndex)})
	for _, w := range ws.byIndex {
		all = append(all, bounds.Bound{Name: "nvml.worker.jobs", Max: jobQueue, Size: len(w.jobs)})
	}
	return all
}
