// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"flag"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

var (
	seeds = flag.Int("seeds", 1, "runs of each set-up and load; figures are the worst of them")
	lasts = flag.Duration("lasts", 200*time.Second, "the time that each run measures, in virtual time")
	loads = flag.String("loads", "2", "what arrives, in capacities")
)

// TestRushWithoutResponse has clients come at 0.7 to 5 times the capacity of each set-up, with
// nothing between them and the servers. `make bench-overload` runs it at length.
func TestRushWithoutResponse(t *testing.T) {
	began, runs := time.Now(), 0
	for _, setup := range Setups {
		for _, text := range strings.Fields(*loads) {
			offered, err := strconv.ParseFloat(text, 64)
			require.NoError(t, err)
			all := everySeed(t, fmt.Sprintf("%s at %g times", setup.Name, offered), func(t *testing.T, seed uint64) Figures {
				p := NewPlan(setup, seed, offered)
				p.Lasts, p.CapacityLasts = *lasts, max(*lasts/3, 200*time.Second)
				r := Run(t, p, nil)
				t.Log(r.Summary())
				return r.Figures()
			})
			runs += len(all)
			worst := Worst(all)
			Report(setup, offered, "without", worst, false)
			switch {
			case offered == 0.7 && setup != Setups[2]:
				assert.Greater(t, worst.Useful, 0.5, "below its capacity a GPU needs no help")
			case offered >= 2 && setup != Setups[2]:
				// Images come in time as long as the queue is shorter than the limit. It grows by
				// offered − 1 a second, so that this is over after limit ÷ (offered − 1), in which a
				// GPU makes the images of limit × offered ÷ (offered − 1).
				const limit = 30.0
				assert.Less(t, worst.Useful, 1.5*limit*offered/(offered-1)/lasts.Seconds(), "and in a rush it works for nobody")
				assert.Greater(t, worst.Dead, 0.9-limit*offered/(offered-1)/lasts.Seconds())
			}
		}
	}
	figure.Print("overload.without.seconds_per_run", time.Since(began).Seconds()/float64(runs), "s")
}

// everySeed runs each seed, as many at a time as there are processors.
func everySeed(t *testing.T, name string, run func(t *testing.T, seed uint64) Figures) []Figures {
	t.Helper()
	all := make([]Figures, *seeds)
	var mu sync.Mutex
	t.Run(name, func(t *testing.T) {
		for seed := range *seeds {
			t.Run(fmt.Sprint("seed ", seed+1), func(t *testing.T) {
				t.Parallel()
				f := run(t, uint64(seed+1))
				mu.Lock()
				defer mu.Unlock()
				all[seed] = f
			})
		}
	})
	return all
}
