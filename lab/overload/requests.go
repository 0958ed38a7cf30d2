// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// Request is a photo that a client wants colourised.
type Request struct {
	Number int
	// ID is its prompt's, which the client chooses: the same request has the same in every run of
	// a seed, and so costs the same.
	ID string
	// At is when the client comes, after the run's begin.
	At     time.Duration
	Class  int // by the law's classes
	Server int
	Load   law.Load
	Limit  time.Duration // 0: none
	Cost   law.Drawn
	Burst  bool // it is one of the plan's burst
}

// promptID is a UUID.
func promptID(seed uint64, stream, number int) string {
	return fmt.Sprintf("%08x-%04x-4000-8000-%012x", uint32(seed), stream, number)
}

// The streams of requests.
const (
	arriving = iota
	looping
	warming
	bursting
)

// draw makes a request of a class.
func draw(l *law.Law, p *Plan, stream, number, class int, random *rand.Rand) *Request {
	r := &Request{Number: number, ID: promptID(p.Seed, stream, number), Class: class, Server: random.IntN(p.Setup.Servers), Load: l.Classes[class].Pick(random)}
	r.Cost = l.Draw(r.ID, r.Load)
	return r
}

// coreOfPrompts is the part of the prompts that are core, by their part of the GPU's time.
func (p *Plan) coreOfPrompts(l *law.Law) float64 {
	core := p.CoreShare / l.MeanTimeOf(&l.Classes[0]).Seconds()
	return core / (core + (1-p.CoreShare)/l.MeanTimeOf(&l.Classes[1]).Seconds())
}

// arrivals are the requests of a run, in their order: each class comes at random, at the rate at
// which its part of the offered work comes.
func arrivals(l *law.Law, p *Plan, capacity float64) []*Request {
	var all []*Request
	for class, share := range []float64{p.CoreShare, 1 - p.CoreShare} {
		rate := p.Offered * capacity * share / l.MeanTimeOf(&l.Classes[class]).Seconds()
		if rate == 0 {
			continue
		}
		random := rand.New(rand.NewPCG(p.Seed, 100+uint64(class)))
		at := time.Duration(0)
		for n := 0; ; n++ {
			at += time.Duration(random.ExpFloat64() / rate * float64(time.Second))
			if at > p.Lasts+p.patience() {
				break
			}
			r := draw(l, p, arriving+16*(class+1), n, class, random)
			r.At, r.Limit = at, p.Limits[class]
			all = append(all, r)
		}
	}
	random := rand.New(rand.NewPCG(p.Seed, 99))
	for n := range p.Burst {
		r := draw(l, p, bursting, n, 0, random)
		r.At, r.Limit, r.Burst = p.BurstAt+time.Duration(n)*time.Millisecond, p.Limits[0], true // together, in an order that is not by chance
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b *Request) int { return int(a.At - b.At) })
	for i, r := range all {
		r.Number = i
	}
	return all
}
