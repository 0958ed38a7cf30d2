// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// Result is what happened in a run.
type Result struct {
	Plan Plan
	Law  *law.Law
	// Capacity is in exclusive GPU-seconds a second.
	Capacity float64
	// Begin is when the measured time began, Records are those who came since, in their order.
	Begin   time.Time
	Records []*Record
	// Idle is for how long the GPU had nothing to do though something that fits was held, or was
	// refused and waited for its Retry-After.
	Idle time.Duration
	// Wall is how long the run took in real time.
	Wall time.Duration
}

// Run measures the capacity of a set-up, and has the plan's clients come.
func Run(t *testing.T, p Plan, respond Starter) *Result {
	return RunWith(t, p, Capacity(t, p), respond)
}

// Capacity is what a set-up can do, without any response: the exclusive GPU-seconds a second, without
// loading, of prompts that made their image, in a closed loop of the plan's mix without limits.
func Capacity(t *testing.T, p Plan) (capacity float64) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := law.New(p.Seed)
		n, err := start(context.Background(), &p, l, virtual)
		if err != nil {
			t.Fatal(err)
		}
		records := n.ledger
		n.warm(l)
		records.measure(p.CapacityLasts)
		end := records.begin.Add(p.CapacityLasts)
		var all sync.WaitGroup
		for server := range p.Setup.Servers {
			for loop := range loops {
				all.Go(func() {
					stagger(server, loop)
					random := rand.New(rand.NewPCG(p.Seed, uint64(400+loops*server+loop)))
					for i := 0; time.Now().Before(end); i++ {
						n.work(l, looping, (server*loops+loop)*1e6+i, server, random)
					}
				})
			}
		}
		all.Wait()
		n.close()
		made := time.Duration(0)
		for _, r := range records.records {
			if r.Worked.Made && r.Ended.After(records.begin) && !r.Ended.After(end) {
				made += r.Worked.Exclusive
			}
		}
		capacity = made.Seconds() / p.CapacityLasts.Seconds()
	})
	return capacity
}

// loops are the clients of the closed loop at each server: one's prompt waits while the other's runs.
const loops = 2

// stagger keeps clients from beginning at the same time, when their order would be by chance.
func stagger(server, loop int) {
	time.Sleep(time.Duration(1+server*loops+loop) * 1234567 * time.Nanosecond)
}

// work has a client without a limit submit one prompt to a server, and returns when it has ended.
func (n *Node) work(l *law.Law, stream, number, server int, random *rand.Rand) *Record {
	class := 0
	if random.Float64() >= n.Plan.coreOfPrompts(l) {
		class = 1
	}
	r := draw(l, n.Plan, stream, number, class, random)
	r.Server = server
	n.client(r, l.Classes[class].Name).run(context.Background())
	n.ledger.mu.Lock()
	defer n.ledger.mu.Unlock()
	return n.ledger.records[r.ID]
}

// maxWarming bounds the prompts after which a server must have made an image.
const maxWarming = 100

// warm has each server work on its first prompts, until it has made an image.
func (n *Node) warm(l *law.Law) {
	var all sync.WaitGroup
	for server := range n.Upstreams {
		all.Go(func() {
			stagger(server, 0)
			random, made := rand.New(rand.NewPCG(n.Plan.Seed, uint64(500+server))), false
			for i := 0; i < n.Plan.Warm || !made && i < maxWarming; i++ {
				r := n.work(l, warming, server*1e6+i, server, random)
				if made = made || r.Got; !r.Got {
					time.Sleep(time.Second)
				}
			}
		})
	}
	all.Wait()
}

// RunWith is [Run] with a capacity that was measured before.
func RunWith(t *testing.T, p Plan, capacity float64, respond Starter) (result *Result) {
	t.Helper()
	began := time.Now()
	synctest.Test(t, func(t *testing.T) {
		l := law.New(p.Seed)
		n, err := start(context.Background(), &p, l, virtual)
		if err == nil {
			err = n.respond(respond, virtual)
		}
		if err != nil {
			t.Fatal(err)
		}
		result = n.run(l, capacity)
	})
	result.Wall = time.Since(began)
	return result
}

// RunLive is [RunWith] in real time over sockets, on a GPU that a screen shows. In front of the
// servers is what infront starts there: it returns the address that clients reach, for each server
// in their order. All servers are of this process.
func RunLive(t *testing.T, p Plan, capacity float64, screen sharedgpu.Screen, infront func(servers []string) (fronts []string)) *Result {
	t.Helper()
	began, l := time.Now(), law.New(p.Seed)
	where := place{serve: onSockets, pid: func(int) int { return os.Getpid() }, screen: screen}
	n, err := start(context.Background(), &p, l, where)
	if err != nil {
		t.Fatal(err)
	}
	servers := make([]string, 0, len(n.Upstreams))
	for _, u := range n.Upstreams {
		servers = append(servers, u.URL)
	}
	n.fronts = nil
	for _, url := range infront(servers) {
		n.fronts = append(n.fronts, reach(url))
	}
	result := n.run(l, capacity)
	result.Wall = time.Since(began)
	return result
}

// run has the plan's clients come to a node, and ends it.
func (n *Node) run(l *law.Law, capacity float64) *Result {
	n.warm(l)
	p, records := n.Plan, n.ledger
	records.measure(p.Lasts)
	var all sync.WaitGroup
	for _, r := range arrivals(l, p, capacity) {
		time.Sleep(time.Until(records.begin.Add(r.At)))
		all.Go(func() { n.client(r, l.Classes[r.Class].Name).run(context.Background()) })
	}
	all.Wait()
	n.close()
	result := &Result{Plan: *p, Law: l, Capacity: capacity, Begin: records.begin, Idle: records.idle}
	for _, r := range records.records {
		if !r.Came.Before(records.begin) {
			result.Records = append(result.Records, r)
		}
	}
	slices.SortFunc(result.Records, func(a, b *Record) int { return cmp.Compare(a.Number, b.Number) })
	return result
}

// Summary is a run in one line.
func (r *Result) Summary() string {
	return fmt.Sprintf("%s, %g times, seed %d: capacity %.3f, %d clients, %.1f s", r.Plan.Setup.Name, r.Plan.Offered, r.Plan.Seed, r.Capacity, len(r.Records), r.Wall.Seconds())
}
