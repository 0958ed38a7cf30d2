// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// Random is a GPU at which photos arrive at random.
type Random struct {
	*GPU
	random *rand.Rand
	worker worker

	ahead     []segment // of the photo at work
	until     time.Time // when the first of them ends
	idleSince time.Time
	loaded    bool
}

// New puts a GPU at rest. Its randomness comes from the seed alone.
func New(gpu *fakenvml.GPU, profile *fakenvml.Profile, seed uint64) *Random {
	r := &Random{GPU: newGPU(gpu, profile), random: rand.New(rand.NewPCG(seed, uint64(gpu.Index())))}
	r.join(&r.worker)
	return r
}

// tick is how often the model moves.
const tick = 20 * time.Millisecond

// unloadAfter is how long an unused service keeps its model loaded.
const unloadAfter = 30 * time.Second

// Run works until the context ends.
func (r *Random) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			r.step(now)
		}
	}
}

// step moves the model by one tick.
func (r *Random) step(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warm(tick)
	switch {
	case len(r.ahead) > 0 && now.Before(r.until):
		return
	case len(r.ahead) > 1:
		r.ahead = r.ahead[1:]
	case len(r.ahead) == 1:
		r.ahead, r.idleSince = nil, now
		r.put(&r.worker, segment{}, now)
		return
	case r.random.Float64() < 0.012: // a photo every two seconds or so
		r.ahead = photo(usual(pick(r.random, now), modelOf("")), modelOf(""), r.loaded, r.random)
		r.loaded = true
	case r.worker.held > 0 && now.Sub(r.idleSince) > unloadAfter:
		r.worker.held, r.loaded = 0, false
		r.show(now)
		return
	default:
		return
	}
	r.until = now.Add(r.ahead[0].lasts)
	r.put(&r.worker, r.ahead[0], now)
}
