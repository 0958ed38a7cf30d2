// SPDX-License-Identifier: Apache-2.0

// Package weeks simulates weeks of a ComfyUI service whose servers share a GPU, request by
// request, as events without a clock: seconds of processor time each. What a request costs is the
// [law]'s. What it returns is what the product's receiver would see, and the truth beside it.
package weeks

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// Plan is a week.
type Plan struct {
	Seed    uint64
	Days    int
	Memory  int64 // that processes may use, in bytes
	Servers int
	// Offered is the exclusive GPU time that arrives in a second of a busy hour; what comes in the
	// other hours of a day is Hours of it.
	Offered float64
	Hours   [24]float64
	// Alternating has the requests go to one server after the other, whose images are large; else
	// each goes to any server, and is as the law's classes.
	Alternating bool
	// Enforce has a gate that knows what everything costs refuse what would be late, and hold what does
	// not fit; without it all requests reach their servers.
	Enforce bool
	// Restless has refused clients come again after 5 to 30 s, whatever their Retry-After.
	Restless bool
	// People is how many clients there are whose ids telemetry has; 0 if it has none.
	People int
	// Classes are what is wanted of the law's classes. Clients try until their deadline.
	Classes map[string]recommend.Class
	// Caps are the largest sides of classes: larger requests are sent at that size. 0 is none.
	Caps map[string]int
}

// Begin is when a week begins: at midnight.
var Begin = time.Date(2026, 11, 16, 0, 0, 0, 0, time.UTC)

// Evenings has two busy hours a day, and a few that are not; Whole has people come at any time, the
// most in three hours of the evening.
var (
	Evenings = hours(map[int]float64{12: 0.2, 13: 0.2, 18: 0.3, 19: 1, 20: 1, 21: 0.3})
	Whole    = hours(map[int]float64{
		0: 0.1, 1: 0.05, 2: 0.05, 3: 0.05, 4: 0.05, 5: 0.05, 6: 0.1, 7: 0.2, 8: 0.3, 9: 0.4, 10: 0.4, 11: 0.4,
		12: 0.5, 13: 0.5, 14: 0.4, 15: 0.4, 16: 0.5, 17: 0.6, 18: 1, 19: 1, 20: 1, 21: 0.6, 22: 0.4, 23: 0.2,
	})
)

func hours(of map[int]float64) (all [24]float64) {
	for h, part := range of {
		all[h] = part
	}
	return all
}

// request is what a client wants.
type request struct {
	id string
	// client is its client's id, empty if telemetry does not have it.
	client string
	class  string
	load   law.Load
	cost   law.Drawn
	home   int     // the server
	first  float64 // s after Begin: when the client came
	at     float64 // when it tries
	held   float64 // since when it is held; 0: it is not
	waits  float64 // for how long it was held

}

// sides are those of large images.
var sides = []int{768, 900, 1024, 1150}

// requests are those of a week, in their order.
func (p *Plan) requests(l *law.Law) (all []*request) {
	random, people := rand.New(rand.NewPCG(p.Seed, 1)), rand.New(rand.NewPCG(p.Seed, 2))
	mean := 0.0 // exclusive s of a request; the classes come equally often
	for i := range l.Classes {
		mean += l.MeanTimeOf(&l.Classes[i]).Seconds() / float64(len(l.Classes))
	}
	large := func(side int) law.Load { return law.Load{Side: side, Batch: 1, Checkpoint: law.DefaultCheckpoint} }
	if p.Alternating {
		mean = 0
		for _, side := range sides {
			mean += l.MeanTime(large(side)).Seconds() / float64(len(sides))
		}
	}
	for hour := range 24 * p.Days {
		rate := p.Offered * p.Hours[hour%24] / mean
		if rate <= 0 {
			continue
		}
		for at := random.ExpFloat64() / rate; at < 3600; at += random.ExpFloat64() / rate {
			n := len(all)
			c := &l.Classes[n%len(l.Classes)]
			r := &request{id: fmt.Sprint("request ", n), class: c.Name, first: float64(hour)*3600 + at, home: random.IntN(p.Servers)}
			r.load = c.Pick(random)
			if p.People > 0 {
				r.client = fmt.Sprint("client ", people.IntN(p.People))
			}
			if p.Alternating {
				r.load, r.home = large(sides[random.IntN(len(sides))]), n%p.Servers
			}
			if limit := p.Caps[c.Name]; limit > 0 {
				r.load.Side = min(r.load.Side, limit)
			}
			r.cost = l.Draw(r.id, r.load) // the same noise at any size
			r.at = r.first
			all = append(all, r)
		}
	}
	slices.SortStableFunc(all, func(a, b *request) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return all
}

// Truth is what really became of the clients.
type Truth struct {
	// Clients and Met are how many came, and had their image within the objective, by class.
	Clients, Met map[string]int
	// Work is what all needed of a whole GPU, Missed what those needed that did not meet the objective,
	// Dead what was used by those that ran out of memory, in seconds.
	Work, Missed, Dead float64
	// OutOfMemory and Held are how many requests ran out of memory, and were held.
	OutOfMemory, Held int
}

// Share is the part of a class's clients that met the objective.
func (t *Truth) Share(class string) float64 {
	return float64(t.Met[class]) / float64(max(t.Clients[class], 1))
}
