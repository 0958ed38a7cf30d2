// SPDX-License-Identifier: Apache-2.0

package weeks

import (
	"flag"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

var (
	seeds = flag.Int("seeds", 5, "seeds of each week")
	whole = flag.Bool("whole", false, "people come at any time of the day; else for six hours")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const reserve = 350 * law.MiB // the driver's own

func (p Plan) with(seed int, enforce bool) *Plan {
	p.Seed, p.Enforce, p.Days = uint64(seed), enforce, 7
	p.Hours = Evenings
	if *whole {
		p.Hours = Whole
	}
	p.Classes = map[string]recommend.Class{
		law.Core:  {Deadline: time.Minute, Objective: 30 * time.Second},
		law.Batch: {Deadline: 3 * time.Minute, Objective: 90 * time.Second},
	}
	return &p
}

// The three weeks: short of memory, of time, and of nothing.
var (
	shortOfMemory = Plan{Memory: 8*law.GiB - reserve, Servers: 2, Offered: 0.4, Alternating: true}
	shortOfTime   = Plan{Memory: 24*law.GiB - reserve, Servers: 2, Offered: 1.4}
	healthy       = Plan{Memory: 24*law.GiB - reserve, Servers: 2, Offered: 0.6}
)

// lived is a week that the product has seen.
type lived struct {
	plan    *Plan
	truth   Truth
	advisor *advice.Advisor
	week    *recommend.Week
	end     time.Time
}

// executions is how many the product has learned from.
const executions = 200

func live(p *Plan, requests int) *lived {
	w := &lived{plan: p, advisor: learned(p, executions), end: Begin.Add(time.Duration(p.Days) * 24 * time.Hour)}
	w.week = recommend.New(recommend.Settings{Classes: p.Classes, Requests: requests})
	w.truth = p.Run(func(r *recommend.Request) {
		r.Needs = needs(w.advisor, r)
		w.week.Add(r)
		w.end = later(w.end, r.Ended)
	})
	return w
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *lived) recommendations() recommend.Recommendations {
	return w.week.Copy(w.end).Recommend(w.advisor)
}

// TestEachWeekIsNamedRightly finds what is short by what happened.
func TestEachWeekIsNamedRightly(t *testing.T) {
	for _, c := range []struct {
		name  string
		plan  Plan
		short recommend.Shortage
	}{{"memory", shortOfMemory, recommend.Memory}, {"time", shortOfTime, recommend.Time}, {"none", healthy, recommend.None}} {
		for _, enforce := range []bool{false, true} {
			mode, plan := "observe", c.plan
			if enforce {
				mode = "enforce"
			}
			if c.name == "memory" && enforce {
				// two servers that work at once, for there to be something to wait for
				plan.Offered = 0.8
			}
			named, off := 0, 0.0
			for seed := range *seeds {
				w := live(plan.with(seed, enforce), 0)
				got := w.recommendations()
				if got.All.Shortage() == c.short {
					named++
				}
				require.Len(t, got.GPUs, 1)
				assert.Equal(t, GPU, got.GPUs[0].GPU)
				memory, late := w.heldBack()
				off = max(off, apart(got.All.Memory, memory, w.truth.Work), apart(got.All.Time+got.All.Size, late, w.truth.Work), apart(got.All.Work, w.truth.Work, w.truth.Work))
				t.Logf("%s, %s, seed %d: %s; memory %.0f s (really %.0f), time %.0f s (%.0f), size %.0f, work %.0f s (%.0f); %d requests, %d missed, %d out of memory, %d held", c.name, mode, seed,
					got.All.Shortage(), got.All.Memory, memory, got.All.Time, late, got.All.Size, got.All.Work, w.truth.Work, got.All.Requests, got.All.Missed, w.truth.OutOfMemory, w.truth.Held)
			}
			prefix := fmt.Sprintf("recommend.%s.%s.", c.name, mode)
			figure.AtLeast(prefix+"named_rightly", float64(named)/float64(*seeds), "share", 1)
			figure.AtMost(prefix+"held_back_error", 100*off, "%_of_work", 10)
			assert.Equal(t, *seeds, named, "%s, %s", c.name, mode)
			assert.LessOrEqual(t, off, 0.10, "%s, %s", c.name, mode)
		}
	}
}

// heldBack is what really was, in seconds: for want of time what also is with any memory, for want
// of memory the rest.
func (w *lived) heldBack() (memory, late float64) {
	roomy := *w.plan
	roomy.Memory = 1 << 50
	truth := roomy.Run(func(*recommend.Request) {})
	return w.truth.Missed - truth.Missed + w.truth.Dead, truth.Missed
}

func apart(a, b, of float64) float64 { return math.Abs(a-b) / of }

// TestRestlessClientsCountMoreThanOnce: what is short is named rightly nevertheless. How much too
// often they count is printed; those whose ids telemetry has count once, whether each has sent one
// request or forty all of them.
func TestRestlessClientsCountMoreThanOnce(t *testing.T) {
	restless(t, "", 0)
	restless(t, "known.", 1<<40)
	restless(t, "forty.", 40)
}

// restless has refused clients come again whenever they like, of so many people whose ids are known.
func restless(t *testing.T, name string, people int) {
	t.Helper()
	for _, c := range []struct {
		name  string
		plan  Plan
		short recommend.Shortage
	}{{"memory", shortOfMemory, recommend.Memory}, {"time", shortOfTime, recommend.Time}} {
		if c.plan.Restless = true; c.plan.Alternating {
			c.plan.Offered = 0.8
		}
		c.plan.People = people
		named, times, least := 0, 0.0, math.Inf(1)
		for seed := range *seeds {
			w := live(c.plan.with(seed, true), 0)
			got := w.recommendations()
			if got.All.Shortage() == c.short {
				named++
			}
			counted := got.All.By(c.short) / w.truth.Missed
			times, least = max(times, counted), min(least, counted)
		}
		prefix := "recommend." + c.name + ".restless." + name
		figure.AtLeast(prefix+"named_rightly", float64(named)/float64(*seeds), "share", 1)
		figure.Print(prefix+"held_back.least", least, "x")
		if people == 0 {
			figure.Print(prefix+"held_back", times, "x")
		} else {
			figure.AtMost(prefix+"held_back", times, "x", 1.2)
			assert.LessOrEqual(t, times, 1.2, c.name)
			assert.GreaterOrEqual(t, least, 0.85, "%s: others of the same client pass for it", c.name)
		}
		assert.Equal(t, *seeds, named, c.name)
	}
}
