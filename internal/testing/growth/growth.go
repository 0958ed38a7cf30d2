// SPDX-License-Identifier: Apache-2.0

// Package growth compares what an event costs with little held and with ten times as much:
// it must cost about the same.
package growth

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

const (
	// Limit is how many times as much an event may cost with ten times as much held.
	Limit = 1.5
	// events are measured on each side, a few more warm up.
	events, warmUp = 1000, 50
	// tries are made on a noisy machine before the comparison fails.
	tries = 3
)

// Constant fails the test if the median cost of an event with ten times as much held
// exceeds Limit times that with little. The two take turns in one run. An event is given
// its number, which does not repeat.
func Constant(t testing.TB, what string, little, much func(i int)) {
	t.Helper()
	ratio := 0.0
	for try := range tries {
		var a, b time.Duration
		if ratio, a, b = compare(try*(events+warmUp), little, much); ratio <= Limit {
			t.Logf("%s: %v with little held, %v with ten times as much: %.2f times as much (limit %v)", what, a, b, ratio, Limit)
			return
		}
		t.Logf("%s: try %d: %v with little held, %v with ten times as much", what, try+1, a, b)
	}
	t.Errorf("%s: with ten times as much held an event costs %.2f times as much (limit %v)", what, ratio, Limit)
}

func compare(first int, little, much func(i int)) (ratio float64, a, b time.Duration) {
	cost := func(f func(int), i int) time.Duration {
		began := time.Now()
		f(i)
		return time.Since(began)
	}
	runtime.GC()
	var few, many []time.Duration
	for i := first; i < first+events+warmUp; i++ {
		var x, y time.Duration
		if i%2 == 0 {
			x, y = cost(little, i), cost(much, i)
		} else {
			y, x = cost(much, i), cost(little, i)
		}
		if i >= first+warmUp {
			few, many = append(few, x), append(many, y)
		}
	}
	slices.Sort(few)
	slices.Sort(many)
	a, b = few[events/2], many[events/2]
	return float64(b) / float64(max(a, 1)), a, b
}

// Within reports the first container that exceeds its maximum.
func Within(all []bounds.Bound) error {
	for _, b := range all {
		if b.Size > b.Max {
			return fmt.Errorf("%s holds %d, of %d at most", b.Name, b.Size, b.Max)
		}
	}
	return nil
}

// Used lists the containers that hold anything.
func Used(all []bounds.Bound) map[string]bool {
	used := map[string]bool{}
	for _, b := range all {
		if b.Size > 0 {
			used[b.Name] = true
		}
	}
	return used
}
