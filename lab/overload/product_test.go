// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// warmed is after how many prompts, one after the other at each server, a run with the product
// begins: it learns from them what prompts cost.
const warmed = 40

// withProduct is a plan of a run with the product.
func withProduct(setup Setup, seed uint64, offered float64) Plan {
	p := plan(setup, seed, offered)
	p.Warm = warmed
	return p
}

// enforced is the product that enforces the plan's deadline.
func enforced(p *Plan) Starter { return Respond("enforce", ProductSettings(p.Limits[0])) }

// enforcing are the worst figures of the product at twice capacity, in a plan that is changed.
func enforcing(t *testing.T, setup Setup, change func(p *Plan)) Figures {
	t.Helper()
	return Worst(everySeed(t, setup.Name, func(t *testing.T, seed uint64) Figures {
		p := withProduct(setup, seed, 2)
		change(&p)
		r := Run(t, p, enforced(&p))
		t.Log(r.Summary())
		return r.Figures()
	}))
}

// goalOr is the goal of a long run, or what a short one is allowed: a client of a hundred or two is a point.
func goalOr(goal, short float64) float64 {
	if *lasts >= longRun {
		return goal
	}
	return short
}

// TestRushWithTheProduct is [TestRushWithoutResponse] with the product's advisor and proxy. The goals
// are the whole benchmark's; a short run is allowed a margin. A set-up whose servers do not fit has no
// goal, and is left out of a short run.
func TestRushWithTheProduct(t *testing.T) {
	setups := Setups
	if *lasts < longRun {
		setups = Setups[:2]
	}
	for _, setup := range setups {
		for _, load := range offered(t) {
			var mu sync.Mutex
			wrong := 0.0
			all := everySeed(t, fmt.Sprintf("%s at %g times", setup.Name, load), func(t *testing.T, seed uint64) Figures {
				p := withProduct(setup, seed, load)
				capacity := Capacity(t, p)
				r := RunWith(t, p, capacity, enforced(&p))
				t.Log(r.Summary())
				if load < 1 {
					f := FalseRefusals(r, RunWith(t, p, capacity, nil))
					mu.Lock()
					defer mu.Unlock()
					wrong = max(wrong, f)
				}
				return r.Figures()
			})
			worst, fit := Worst(all), setup != Setups[2]
			Report(setup, load, "enforce", worst, fit)
			if load < 1 {
				name := fmt.Sprintf("overload.%s.%gx.enforce.false_refusals", setup.Name, load)
				if !fit {
					figure.Print(name, 100*wrong, "%")
				} else {
					figure.AtMost(name, 100*wrong, "%", 1)
					assert.LessOrEqual(t, wrong, goalOr(0.01, 0.02))
				}
			}
			if !fit {
				continue
			}
			if *lasts >= longRun {
				assert.GreaterOrEqual(t, worst.CoreCovered, 0.86)
				assert.LessOrEqual(t, worst.CoreCoveredMax, 0.97)
				assert.GreaterOrEqual(t, worst.BatchCovered, 0.86)
				assert.LessOrEqual(t, worst.BatchCoveredMax, 0.97)
			}
			if *lasts >= longRun && load >= 2 {
				assert.LessOrEqual(t, worst.CoreWidth, map[string]float64{"one_server": 0.30, "two_servers_16g": 0.60}[setup.Name])
			}
			assert.GreaterOrEqual(t, worst.Core, goalOr(0.99, 0.97))
			assert.LessOrEqual(t, worst.Idle, goalOr(0.02, 0.03))
			assert.GreaterOrEqual(t, worst.CoreCovered, 0.75)
			if load >= 2 {
				// In a short run what begins in it and ends after it is a tenth of it.
				assert.GreaterOrEqual(t, worst.Useful, goalOr(0.95, 0.82))
				assert.GreaterOrEqual(t, worst.BatchOfRest, goalOr(0.90, 0.50))
			}
		}
	}
}

// TestClassesAreToldApartByWorkflow is the rush of [TestRushWithTheProduct] with clients of which those
// of batch all claim to be core: what they say does not count, and core comes in time.
func TestClassesAreToldApartByWorkflow(t *testing.T) {
	for _, setup := range Setups[:2] {
		var mu sync.Mutex
		trusting := 1.0
		all := everySeed(t, setup.Name, func(t *testing.T, seed uint64) Figures {
			p := withProduct(setup, seed, 2)
			p.ByWorkflow = true
			capacity := Capacity(t, p)
			r := RunWith(t, p, capacity, enforced(&p))
			t.Log(r.Summary())
			q := p
			q.BelieveClients = true
			f := RunWith(t, q, capacity, enforced(&q)).Figures()
			mu.Lock()
			defer mu.Unlock()
			trusting = min(trusting, f.Core)
			return r.Figures()
		})
		worst := Worst(all)
		figure.AtLeast("overload."+setup.Name+".2x.by_workflow.core_within_objective", 100*worst.Core, "%", 99)
		figure.AtLeast("overload."+setup.Name+".2x.by_workflow.useful", 100*worst.Useful, "%", 95)
		figure.Print("overload."+setup.Name+".2x.believed.core_within_objective", 100*trusting, "%")
		assert.GreaterOrEqual(t, worst.Core, goalOr(0.99, 0.97))
		assert.GreaterOrEqual(t, worst.Useful, goalOr(0.95, 0.82))
		assert.GreaterOrEqual(t, worst.BatchOfRest, goalOr(0.90, 0.50))
		assert.Less(t, trusting, worst.Core-0.05, "core loses where clients are believed")
	}
}

// TestATenantTakesMemoryInARush is the rush of two servers beside a foreign process that takes and
// returns 2 GiB: what no longer fits side by side is held or refused, and does not run out of memory.
func TestATenantTakesMemoryInARush(t *testing.T) {
	worst := enforcing(t, Setups[1], func(p *Plan) { p.Tenant = true })
	Report(Setups[1], 2, "beside_a_tenant", worst, false)
	assert.LessOrEqual(t, worst.OutOfMemory, 0.01)
	assert.GreaterOrEqual(t, worst.Core, goalOr(0.99, 0.95))
}

// TestImpatientClientsKeepNobodyWaiting is the rush with clients of which three in ten submit again each
// second, whatever their Retry-After says: the GPU does not idle for the others' Retry-After.
func TestImpatientClientsKeepNobodyWaiting(t *testing.T) {
	for _, setup := range Setups[:2] {
		worst := enforcing(t, setup, func(p *Plan) { p.Impatient = 0.3 })
		figure.AtLeast("overload."+setup.Name+".2x.impatient.useful", 100*worst.Useful, "%", 95)
		figure.AtLeast("overload."+setup.Name+".2x.impatient.core_within_objective", 100*worst.Core, "%", 99)
		figure.AtMost("overload."+setup.Name+".2x.impatient.idle", 100*worst.Idle, "%", 2)
		figure.Print("overload."+setup.Name+".2x.impatient.batch_of_rest", 100*worst.BatchOfRest, "%")
		assert.GreaterOrEqual(t, worst.Useful, goalOr(0.95, 0.82))
		assert.GreaterOrEqual(t, worst.Core, goalOr(0.99, 0.97))
		assert.LessOrEqual(t, worst.Idle, goalOr(0.02, 0.03))
	}
}

// TestDrainIsPredicted has core work alone in a rush: what a refusal says of the time until all
// that was accepted has ended is compared with that time.
func TestDrainIsPredicted(t *testing.T) {
	for _, setup := range Setups[:2] {
		worst := enforcing(t, setup, func(p *Plan) { p.CoreShare = 1 })
		figure.AtMost("overload."+setup.Name+".core_alone.drain_error_p95", 100*worst.DrainError, "%", 20)
		figure.Print("overload."+setup.Name+".core_alone.useful", 100*worst.Useful, "%")
		assert.False(t, math.IsNaN(worst.DrainError), "some were refused")
		assert.LessOrEqual(t, worst.DrainError, goalOr(0.20, 0.4))
	}
}

// TestRefusedAtOnceComeBackInTurn has so many clients come at once that 24 or so are refused: those who are refused, and come again
// after their Retry-After, are admitted.
func TestRefusedAtOnceComeBackInTurn(t *testing.T) {
	for _, setup := range Setups[:2] {
		var mu sync.Mutex
		worst := [2]float64{1, 1}
		everySeed(t, setup.Name, func(t *testing.T, seed uint64) Figures {
			p := withProduct(setup, seed, 0.1)
			p.Burst, p.BurstAt, p.Lasts = 34, 20*time.Second, 120*time.Second
			p.Limits = []time.Duration{2 * time.Minute, 2 * time.Minute} // they wait for longer than the deadline
			r := RunWith(t, p, Capacity(t, p), Respond("enforce", ProductSettings(15*time.Second)))
			refused, first, third := r.BurstRetries()
			t.Logf("%s: %d refused, %.0f %% admitted at the first retry, %.0f %% at the third", r.Summary(), refused, 100*first, 100*third)
			mu.Lock()
			defer mu.Unlock()
			assert.GreaterOrEqual(t, refused, 18)
			worst[0], worst[1] = min(worst[0], first), min(worst[1], third)
			return r.Figures()
		})
		figure.AtLeast("overload."+setup.Name+".burst.first_retry", 100*worst[0], "%", 90)
		figure.AtLeast("overload."+setup.Name+".burst.third_retry", 100*worst[1], "%", 100)
		assert.GreaterOrEqual(t, worst[0], goalOr(0.90, 0.8), "one of 24 is four points, and a run is not like the next")
		assert.GreaterOrEqual(t, worst[1], goalOr(1, 0.95))
	}
}
