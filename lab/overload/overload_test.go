// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"testing"
	"time"
)

func TestTry(t *testing.T) {
	for _, setup := range Setups {
		for _, x := range []float64{0.7, 1, 2, 5} {
			p := NewPlan(setup, 1, x)
			b := time.Now()
			r := Run(t, p, nil)
			t.Logf("%s: %+v (with capacity %v)", r.Summary(), r.Figures(), time.Since(b))
		}
	}
}
