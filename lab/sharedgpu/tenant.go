// SPDX-License-Identifier: Apache-2.0

package sharedgpu

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// TenantBytes is what a foreign process takes and returns.
const TenantBytes = 2 * law.GiB

// Tenant is a foreign process: until the context ends it takes 2 GiB again and again, each time
// where the GPU has them, holds them for 20 to 60 s, and returns them for 40 to 120 s.
func (g *GPU) Tenant(ctx context.Context, pid int, random *rand.Rand) {
	p := g.Process(pid)
	between := func(low, high float64) time.Duration {
		return time.Duration((low + random.Float64()*(high-low)) * float64(time.Second))
	}
	for pause(ctx, between(40, 120)) == nil {
		if !p.grow(TenantBytes) {
			continue
		}
		_ = pause(ctx, between(20, 60))
		p.shrink(TenantBytes)
	}
}
