// SPDX-License-Identifier: Apache-2.0

// Package overload is a service in a rush, in virtual time inside testing/synctest: ComfyUI
// servers that share a GPU, clients that upload a photo, wait for it and give up after their time
// limit without a word to the server, and between them what responds to the rush, if anything
// does. It measures what of the GPU's time made images that somebody got.
package overload

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// Setup is a GPU and its servers.
type Setup struct {
	Name    string
	Memory  int64 // that processes may use, in bytes
	Servers int
}

// The driver's own part of a GPU's memory.
const reserve = 350 * law.MiB

// Setups are those of the benchmark: of two servers on 16 GiB the largest prompts fit side by
// side, of two on 8 GiB they do not.
var Setups = []Setup{
	{"one_server", 24*law.GiB - reserve, 1},
	{"two_servers_16g", 16*law.GiB - reserve, 2},
	{"two_servers_8g", 8*law.GiB - reserve, 2},
}

// Plan is what happens in a run.
type Plan struct {
	Setup Setup
	Seed  uint64
	// Offered is the exclusive GPU time that arrives in a second, in capacities, and CoreShare the
	// part of it that is core work.
	Offered, CoreShare float64
	// Lasts is the time that is measured; arrivals go on until what arrived in it has ended.
	Lasts time.Duration
	// Limits are for how long clients of each class wait, in the order of the law's.
	Limits []time.Duration
	// Warm is how many prompts each server works on before, one after the other: at least one,
	// which loads its model.
	Warm int
	// Burst is how many core clients come together, at BurstAt, beside those who come at random.
	Burst   int
	BurstAt time.Duration
	// Impatient is the part of the clients that do not wait for their Retry-After: they submit the same
	// prompt again after impatience.
	Impatient float64
	// ByWorkflow has the product tell batch from core by the node [batchNode] of its workflow, and not
	// by what clients say: those of batch all say that they are core.
	ByWorkflow bool
	// BelieveClients has the product count what clients say all the same.
	BelieveClients bool
	// Tenant has a foreign process take and return 2 GiB.
	Tenant bool
	// CapacityLasts is for how long capacity is measured.
	CapacityLasts time.Duration
}

// coreOfCapacity is the core work that arrives, as a part of capacity.
const coreOfCapacity = 0.7

// NewPlan is the plan of the benchmark: core arrives at 0.7 of capacity, batch is the rest; at 0.7
// and less each is a half. Everybody waits 30 s.
func NewPlan(setup Setup, seed uint64, offered float64) Plan {
	share := 0.5
	if offered > coreOfCapacity {
		share = coreOfCapacity / offered
	}
	const patience = 30 * time.Second
	return Plan{
		Setup: setup, Seed: seed, Offered: offered, CoreShare: share, Lasts: 3000 * time.Second, Warm: 1,
		Limits: []time.Duration{patience, patience}, CapacityLasts: 900 * time.Second,
	}
}

// patience is the longest time limit.
func (p *Plan) patience() (longest time.Duration) {
	for _, limit := range p.Limits {
		longest = max(longest, limit)
	}
	return longest
}
