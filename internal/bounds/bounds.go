// SPDX-License-Identifier: Apache-2.0

// Package bounds lists what a component holds: each container (a map, a list or a channel)
// that lives as long as the component, with its maximum and its present size. A test
// (internal/testing/bounds) fails for a container that no component lists.
package bounds

// Bound is one container. A component that has several of a kind, for example one for
// each GPU, lists several.
type Bound struct {
	// Name is package.Type.field, for example prompt.Tracker.open.
	Name string
	// Max is never exceeded by Size.
	Max, Size int
}

// Registered is a component, or a part of one, that holds containers.
type Registered interface {
	// Bounds lists the containers, those of the parts included. It holds the locks that
	// guard them, one after the other, and may be called from any goroutine.
	Bounds() []Bound
}

// Of lists the containers of parts.
func Of(parts ...Registered) (all []Bound) {
	for _, p := range parts {
		all = append(all, p.Bounds()...)
	}
	return all
}
