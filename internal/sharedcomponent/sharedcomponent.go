// SPDX-License-Identifier: Apache-2.0

// Package sharedcomponent gives the sides of one component one instance: a receiver's traces,
// metrics and logs, or what a connector takes and gives, are created one by one by
// the collector, with the same configuration.
package sharedcomponent

import "sync"

// Instances are those of one factory, by the configuration of their component.
type Instances[C comparable, I any] struct {
	mu       sync.Mutex
	byConfig map[C]I
}

// Of is the instance of a configuration; create makes it, once.
func (s *Instances[C, I]) Of(c C, create func() I) I {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.byConfig[c]
	if !ok {
		if s.byConfig == nil {
			s.byConfig = map[C]I{}
		}
		i = create()
		s.byConfig[c] = i
	}
	return i
}

// Forget lets go of an instance that has ended: a collector that reloads its
// configuration makes new ones with the same factory.
func (s *Instances[C, I]) Forget(c C) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byConfig, c)
}
