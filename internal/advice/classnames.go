// SPDX-License-Identifier: Apache-2.0

package advice

import "github.com/otelcol-gpu/otelcol-gpu/internal/bounds"

const (
	// OtherClass is as what the task classes count together that are not counted apart.
	OtherClass = "other"
	// maxOtherNames is how many task classes are counted apart that are not configured.
	maxOtherNames = 100
)

// ClassNames bounds the names of task classes by which something is counted: those that are configured,
// and the first hundred others. Where a request may name its class, a client chooses it. Its methods are
// not safe for concurrent use.
type ClassNames struct{ configured, others map[string]bool }

// NewClassNames makes one of the classes that are configured.
func NewClassNames[C any](classes map[string]C) *ClassNames {
	c := &ClassNames{map[string]bool{}, map[string]bool{}}
	for name := range classes {
		c.configured[name] = true
	}
	return c
}

// Counted is the name as which a task class counts: its own, or [OtherClass].
func (c *ClassNames) Counted(name string) string {
	switch {
	case c.configured[name] || c.others[name]:
	case len(c.others) < maxOtherNames:
		c.others[name] = true
	default:
		return OtherClass
	}
	return name
}

// Bounds implements [bounds.Registered].
func (c *ClassNames) Bounds() []bounds.Bound {
	return []bounds.Bound{{Name: "advice.ClassNames.others", Max: maxOtherNames, Size: len(c.others)}}
}
