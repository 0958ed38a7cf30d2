// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRushWithTheProduct is [TestRushWithoutResponse] with the product's advisor and proxy.
func TestRushWithTheProduct(t *testing.T) {
	for _, setup := range Setups {
		for _, text := range strings.Fields(*loads) {
			offered, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			all := everySeed(t, fmt.Sprintf("%s at %g times", setup.Name, offered), func(t *testing.T, seed uint64) Figures {
				p := NewPlan(setup, seed, offered)
				p.Lasts, p.CapacityLasts = *lasts, max(*lasts/3, 200*time.Second)
				p.Warm = 40
				r := Run(t, p, Respond("enforce", ProductSettings(30*time.Second)))
				t.Log(r.Summary())
				return r.Figures()
			})
			Report(setup, offered, "enforce", Worst(all), true)
		}
	}
}
