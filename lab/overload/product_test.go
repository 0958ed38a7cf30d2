// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// TestRushWithTheProduct is [TestRushWithoutResponse] with the product's advisor and proxy.
func TestRushWithTheProduct(t *testing.T) {
	for _, setup := range Setups[:2] {
		for _, text := range strings.Fields(*loads) {
			offered, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			var mu sync.Mutex
			wrong := 0.0
			all := everySeed(t, fmt.Sprintf("%s at %g times", setup.Name, offered), func(t *testing.T, seed uint64) Figures {
				p := NewPlan(setup, seed, offered)
				p.Lasts, p.CapacityLasts = *lasts, max(*lasts/3, 200*time.Second)
				p.Warm = 40
				capacity := Capacity(t, p)
				r := RunWith(t, p, capacity, Respond("enforce", ProductSettings(30*time.Second)))
				t.Log(r.Summary())
				if offered < 1 {
					f := FalseRefusals(r, RunWith(t, p, capacity, nil))
					mu.Lock()
					defer mu.Unlock()
					wrong = max(wrong, f)
				}
				return r.Figures()
			})
			Report(setup, offered, "enforce", Worst(all), true)
			if offered < 1 {
				figure.AtMost(fmt.Sprintf("overload.%s.%gx.enforce.false_refusals", setup.Name, offered), 100*wrong, "%", 1)
			}
		}
	}
}
