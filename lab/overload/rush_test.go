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
	lasts = flag.Duration("lasts", 120*time.Second, "the time that each run measures, in virtual time")
	loads = flag.String("loads", "2", "what arrives, in capacities")
)

// offered are the loads.
func offered(t *testing.T) (all []float64) {
	for _, text := range strings.Fields(*loads) {
		load, err := strconv.ParseFloat(text, 64)
		require.NoError(t, err)
		all = append(all, load)
	}
	return all
}

// plan is that of a run.
func plan(setup Setup, seed uint64, offered float64) Plan {
	p := NewPlan(setup, seed, offered)
	p.Lasts, p.CapacityLasts = *lasts, max(*lasts/3, 120*time.Second)
	return p
}

// TestRushWithoutResponse has clients come at 0.7 to 5 times the capacity of each set-up, with
// nothing between them and the servers. `make bench-overload` runs it at length.
func TestRushWithoutResponse(t *testing.T) {
	began, runs := time.Now(), 0
	for _, setup := range Setups {
		for _, load := range offered(t) {
			all := everySeed(t, fmt.Sprintf("%s at %g times", setup.Name, load), func(t *testing.T, seed uint64) Figures {
				r := Run(t, plan(setup, seed, load), nil)
				t.Log(r.Summary())
				return r.Figures()
			})
			runs += len(all)
			worst := Worst(all)
			Report(setup, load, "without", worst, false)
			switch {
			case load == 0.7 && setup != Setups[2]:
				assert.Greater(t, worst.Useful, 0.5, "below its capacity a GPU needs no help")
			case load >= 2 && setup != Setups[2]:
				// Images come in time as long as the queue is shorter than the limit. It grows by
				// load − 1 a second, so that this is over after limit ÷ (load − 1), in which a GPU
				// makes the images of limit × load ÷ (load − 1).
				const limit = 30.0
				useful := limit * load / (load - 1) / lasts.Seconds()
				assert.Less(t, worst.Useful, 1.5*useful, "and in a rush it works for nobody")
				assert.Greater(t, worst.Dead, 0.9-useful)
			}
		}
	}
	figure.Print("overload.without.seconds_per_run", time.Since(began).Seconds()/float64(runs), "s")
}

// longRun is a run of which begin and end are a small part: in a shorter one, what ends after the
// measured time is missing.
const longRun = 1000 * time.Second

// TestRushWithAnOracle has one respond that knows what each prompt costs, and not who comes: the frame
// does not limit a good response, and this is about what one can reach.
func TestRushWithAnOracle(t *testing.T) {
	for _, setup := range Setups[:2] {
		for _, load := range offered(t) {
			var mu sync.Mutex
			wrong := 0.0
			all := everySeed(t, fmt.Sprintf("%s at %g times", setup.Name, load), func(t *testing.T, seed uint64) Figures {
				p := plan(setup, seed, load)
				capacity := Capacity(t, p)
				r := RunWith(t, p, capacity, withOracle)
				t.Log(r.Summary())
				if load < 1 {
					f := FalseRefusals(r, RunWith(t, p, capacity, nil))
					mu.Lock()
					defer mu.Unlock()
					wrong = max(wrong, f)
				}
				return r.Figures()
			})
			worst := Worst(all)
			Report(setup, load, "oracle", worst, true)
			assert.GreaterOrEqual(t, worst.Core, 0.99)
			assert.LessOrEqual(t, worst.Idle, 0.02)
			if load < 1 {
				figure.AtMost(fmt.Sprintf("overload.%s.%gx.oracle.false_refusals", setup.Name, load), 100*wrong, "%", 1)
				assert.LessOrEqual(t, wrong, 0.01)
			}
			if load >= 2 {
				useful, rest := 0.93, 0.80
				if *lasts >= longRun {
					useful, rest = 0.95, 0.90
				}
				assert.GreaterOrEqual(t, worst.Useful, useful)
				assert.GreaterOrEqual(t, worst.BatchOfRest, rest)
			}
		}
	}
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
