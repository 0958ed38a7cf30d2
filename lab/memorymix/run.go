// SPDX-License-Identifier: Apache-2.0

package memorymix

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// running is a mix at work.
type running struct {
	mix     Mix
	law     *law.Law
	gpu     *sharedgpu.GPU
	screen  *sharedgpu.Latest
	policy  Policy // nil admits everything
	outcome Outcome
	number  int

	// mu guards what servers and the policy know, and the outcome.
	mu      sync.Mutex
	servers []*server
}

// server is a ComfyUI: its prompts run one after the other.
type server struct {
	index   int
	work    *sharedgpu.Server
	context int64     // bytes
	queue   []*prompt // guarded by the mix's mu; the first runs
	came    chan *prompt
	asked   *rand.Rand // when its memory is sampled
}

// prompt is one that was admitted.
type prompt struct {
	id     string
	load   law.Load
	need   int64
	probe  bool
	counts bool // it is none of those that were learned from
	// fitted is true if it would have fitted when it was admitted; tenant is what the foreign process that
	// takes and returns memory held then.
	fitted bool
	tenant int64
	ended  chan struct{}
}

// tenantPID is the foreign process that takes and returns memory.
const tenantPID = 999

// tenantHolds is what that process holds.
func (r *running) tenantHolds() int64 {
	for _, p := range r.screen.Readings().Processes {
		if p.PID == tenantPID {
			return p.Used
		}
	}
	return 0
}

// Run asks a policy about so many prompts, after it has seen learn executions of each class. A policy
// of nil admits everything.
func Run(t *testing.T, mix Mix, seed uint64, prompts, learn int, policy func(l *law.Law) Policy) (outcome Outcome) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		r := &running{mix: mix, law: law.New(seed), screen: &sharedgpu.Latest{}}
		r.gpu = sharedgpu.New(mix.Memory, sharedgpu.Unlisted(rand.New(rand.NewPCG(seed, 79))), r.screen)
		var all sync.WaitGroup
		for i := range mix.Servers {
			work, err := sharedgpu.NewServer(r.gpu, 1000+i, r.law, rand.New(rand.NewPCG(seed, uint64(i))), nil)
			if err != nil {
				t.Fatal(err)
			}
			s := &server{
				index: i, work: work, context: work.Held(), came: make(chan *prompt, prompts+learn*len(mix.Loads)),
				asked: rand.New(rand.NewPCG(seed, 100+uint64(i))),
			}
			r.servers = append(r.servers, s)
			all.Go(func() { r.serve(ctx, s) })
		}
		if policy != nil {
			r.policy = policy(r.law)
		}
		random := rand.New(rand.NewPCG(seed, 77))
		r.learn(learn)
		if mix.Tenant {
			all.Go(func() { r.gpu.Tenant(ctx, tenantPID, rand.New(rand.NewPCG(seed, 78))) })
		}
		switch {
		case mix.Boundary:
			r.boundary(prompts, random)
		case mix.Alternating:
			r.alternate(prompts, random)
		default:
			r.arrive(prompts, random)
		}
		for _, s := range r.servers {
			close(s.came)
		}
		r.drain()
		cancel()
		all.Wait()
		for _, s := range r.servers {
			s.work.Close()
		}
		outcome = r.outcome
	})
	return outcome
}

// learn has the first server work on prompts of each class, that the policy sees.
func (r *running) learn(each int) {
	for n := range each * len(r.mix.Loads) {
		<-r.submit(r.servers[0], r.mix.Loads[n%len(r.mix.Loads)], Admit, false).ended
	}
	r.servers[0].work.FreeParts(true, true)
}

// arrive has prompts come at random.
func (r *running) arrive(prompts int, random *rand.Rand) {
	gap := r.mix.mean(r.law).Seconds() / r.mix.Offered
	for range prompts {
		time.Sleep(time.Duration(random.ExpFloat64() * gap * float64(time.Second)))
		r.ask(r.servers[random.IntN(len(r.servers))], r.mix.pick(random))
	}
}

// alternate has each prompt come to the next server, when the one before has ended.
func (r *running) alternate(prompts int, random *rand.Rand) {
	for n := range prompts {
		time.Sleep(time.Duration(random.ExpFloat64() * float64(time.Second)))
		if p := r.ask(r.servers[n%len(r.servers)], r.mix.pick(random)); p != nil {
			<-p.ended
		}
	}
}

// boundary has a foreign process leave a prompt about what it needs.
func (r *running) boundary(prompts int, random *rand.Rand) {
	foreign, s := r.gpu.Process(998), r.servers[0]
	gap := r.mix.mean(r.law).Seconds() / r.mix.Offered
	<-r.submit(s, r.mix.Loads[0], Admit, false).ended // the model is loaded
	for range prompts {
		time.Sleep(time.Duration(random.ExpFloat64() * gap * float64(time.Second)))
		load := r.mix.pick(random)
		s.work.FreeParts(true, false) // its cache is empty
		room := int64((0.85 + 0.3*random.Float64()) * float64(r.law.NeedQuantile(load, 0.5)))
		room = max(room, r.law.Checkpoint(load.Checkpoint).Weights)
		if !foreign.Hold(r.gpu.Total() - s.context - room) {
			panic("the foreign process does not fit")
		}
		if p := r.ask(s, load); p != nil {
			<-p.ended
		}
		foreign.Hold(0)
	}
}

// ask asks the policy about a prompt, and submits it if it is admitted.
func (r *running) ask(s *server, load law.Load) *prompt {
	r.mu.Lock()
	answer := Admit
	if r.policy != nil {
		answer = r.policy.Ask(r.question(s, load))
	}
	need := r.law.Draw(r.next(), load).Need
	fits := r.fits(s, need)
	o := &r.outcome
	o.Asked++
	if fits {
		o.Fitting++
	}
	if answer == Refuse {
		o.Refused++
		if fits {
			o.RefusedFitting++
		}
		r.number++ // another prompt costs something else
		r.mu.Unlock()
		return nil
	}
	o.Admitted++
	if answer == Probe {
		o.Probes++
	}
	r.mu.Unlock()
	p := r.submit(s, load, answer, true)
	r.mu.Lock()
	defer r.mu.Unlock()
	p.fitted, p.tenant = fits, r.tenantHolds()
	return p
}

// next is the id of the next prompt. The caller holds mu.
func (r *running) next() string { return fmt.Sprint("prompt ", r.number) }

// question is what is known. The caller holds mu.
func (r *running) question(s *server, load law.Load) *Question {
	q := &Question{Server: s.index, Load: load, Readings: r.screen.Readings(), mix: r}
	for _, other := range r.servers {
		state := State{PID: other.work.PID(), Memory: other.work.Memory()}
		for _, p := range other.queue {
			state.Queue = append(state.Queue, p.load)
		}
		q.Servers = append(q.Servers, state)
	}
	return q
}

// fits is the truth: the room beside what each other process holds or will hold, whichever is more.
// The caller holds mu.
func (r *running) fits(s *server, need int64) bool {
	room := r.gpu.Free() + s.work.Held() - s.context
	for _, other := range r.servers {
		if other == s {
			continue
		}
		holds := other.work.Held()
		will := holds
		for _, p := range other.queue {
			will = max(will, other.context+p.need)
		}
		room -= will - holds
	}
	return need <= room
}

// submit puts a prompt into a server's queue.
func (r *running) submit(s *server, load law.Load, answer Answer, counts bool) *prompt {
	r.mu.Lock()
	p := &prompt{id: r.next(), load: load, probe: answer == Probe, counts: counts, ended: make(chan struct{})}
	p.need = r.law.Draw(p.id, load).Need
	r.number++
	s.queue = append(s.queue, p)
	r.mu.Unlock()
	s.came <- p
	return p
}

// serve works on a server's prompts.
func (r *running) serve(ctx context.Context, s *server) {
	for p := range s.came {
		o := &observed{}
		s.work.Observe(o)
		done := make(chan struct{})
		sampled := s.sample(done)
		_ = s.work.Colorize(fakecomfyui.ContextOf(ctx, p.id), p.load.Side, p.load.Checkpoint, nil)
		close(done)
		active := <-sampled
		s.work.Collect()
		r.mu.Lock()
		s.queue = s.queue[1:]
		if p.counts && o.worked.OutOfMemory {
			if p.probe {
				r.outcome.FailedProbes++
			} else {
				r.outcome.OutOfMemory++
				if p.fitted && r.tenantHolds() > p.tenant {
					r.outcome.LostToTenant++
				}
			}
		}
		if r.policy != nil {
			r.policy.Saw(Execution{s.index, p.load, p.probe, active, o.worked})
		}
		r.mu.Unlock()
		close(p.ended)
	}
}

// sampleInterval is how often the receiver asks a server that works for its memory (memory::interval).
const sampleInterval = 500 * time.Millisecond

// sample asks a server for its memory while a prompt runs, at the times that the receiver does: first
// within an interval, then a quarter of it sooner or later than that. It sends the most that tensors were
// seen to use, 0 if the prompt ended before the first answer.
func (s *server) sample(done <-chan struct{}) <-chan int64 {
	most := make(chan int64, 1)
	wait := time.Duration(s.asked.Float64() * float64(sampleInterval))
	go func() {
		active := int64(0)
		for {
			select {
			case <-done:
				most <- active
				return
			case <-time.After(wait):
				m := s.work.Memory()
				active = max(active, m.TorchTotal-m.TorchFree)
				wait = time.Duration((0.75 + 0.5*s.asked.Float64()) * float64(sampleInterval))
			}
		}
	}()
	return most
}

// drain waits until all queues are empty.
func (r *running) drain() {
	for {
		r.mu.Lock()
		left := 0
		for _, s := range r.servers {
			left += len(s.queue)
		}
		r.mu.Unlock()
		if left == 0 {
			return
		}
		time.Sleep(time.Second)
	}
}

// observed keeps a prompt's work.
type observed struct{ worked sharedgpu.Worked }

// Began implements [sharedgpu.Observer].
func (*observed) Began(*sharedgpu.Server, string) {}

// Ended implements [sharedgpu.Observer].
func (o *observed) Ended(_ *sharedgpu.Server, _ string, w sharedgpu.Worked) { o.worked = w }
