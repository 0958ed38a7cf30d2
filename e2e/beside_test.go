// SPDX-License-Identifier: Apache-2.0

package e2e

import "testing"

// places are how many tests of a kind run at the same time.
type places chan struct{}

// Most of a run's time is waiting: for intervals, for a rule's `for`, for a store that comes
// back. Tests that wait run beside those that keep a core busy.
var (
	working = make(places, 3)
	waiting = make(places, 3)
)

// beside runs a test at the same time as others, once there is a place of its kind. A test
// whose subtests call it calls t.Parallel itself, or it would hold a place that they need.
func beside(t *testing.T, of places) {
	t.Helper()
	t.Parallel()
	of <- struct{}{}
	t.Cleanup(func() { <-of })
}
