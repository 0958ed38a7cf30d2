// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// The fleet of the benchmark.
const (
	fleetGPUs    = 64
	fleetServers = 256
	fleetWaiting = 1000
	fleetClasses = 200
)

// source is a server whose queue is known.
type source struct {
	mu     sync.Mutex
	server comfyevents.Server // guarded by mu
}

// Name implements [comfyevents.Source].
func (s *source) Name() string { return s.server.Name }

// Server implements [comfyevents.Source].
func (s *source) Server() comfyevents.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.server
}

// fleet is an advisor of many servers that work, of which all classes are learned.
type fleet struct {
	*Advisor
	sources []*source
	servers *comfyevents.Servers
	gpus    []GPU
	number  int
}

func newFleet() *fleet {
	settings := DefaultSettings()
	for i := range fleetClasses {
		settings.Classes[fmt.Sprint("class ", i)] = Class{Deadline: time.Hour, Objective: time.Minute, Batch: i%4 == 0}
	}
	f := &fleet{servers: &comfyevents.Servers{}}
	f.Advisor = NewAdvisor(settings, f.servers, time.Now, nil)
	now := time.Now()
	for i := range fleetGPUs {
		f.gpus = append(f.gpus, GPU{ID: fmt.Sprint("GPU-", i), Product: "RTX", Capacity: 24 * gib, Used: 8 * gib, At: now.Add(time.Hour), Utilization: 0.5})
	}
	for i := range fleetServers {
		s := &source{server: comfyevents.Server{Name: fmt.Sprint("server ", i), GPUs: []string{f.gpus[i%fleetGPUs].ID}, Memory: comfyevents.Memory{At: now, Context: cuda}}}
		for n := range 1 + fleetWaiting/fleetServers {
			f.number++
			p := comfyevents.OpenPrompt{ID: fmt.Sprint("prompt ", f.number), Workflow: "w0", Model: "m", TaskClass: fmt.Sprint("class ", f.number%fleetClasses), Side: 512, Batch: 1, Accepted: now, Number: float64(now.Unix())}
			if n == 0 {
				p.Started = now
			}
			s.server.Prompts = append(s.server.Prompts, p)
		}
		s.server.Open, s.server.Queued = len(s.server.Prompts), len(s.server.Prompts)
		f.sources = append(f.sources, s)
		f.servers.Add(s)
	}
	f.Refresh(f.gpus)
	for class := range fleetClasses {
		for n := range 40 {
			f.engine.ended.FindOrAdd(fmt.Sprint("learned ", class, n)).exclusive = 2
			f.engine.Executed(&Execution{ID: fmt.Sprint("learned ", class, n), Server: "server 0", Workflow: fmt.Sprint("w", class), Model: "m", Side: 512 + 8*n, Batch: 1, Ended: now, Ran: 2 * time.Second, Succeeded: true, Active: gib, Reserved: gib, Grew: true})
		}
	}
	return f
}

// flow has prompts end and start, and samples and traces come, until done: a hundred prompts a second,
// each GPU's memory twenty times a second and everything once a second.
func (f *fleet) flow(done <-chan struct{}) {
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for n := 0; ; n++ {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			s := f.sources[n%fleetServers]
			s.mu.Lock()
			ended := s.server.Prompts[0]
			rest := append(slices.Clone(s.server.Prompts[1:]), ended)
			rest[0].Started = now
			last := &rest[len(rest)-1]
			last.ID, last.Started, last.Accepted = fmt.Sprint("next ", n), time.Time{}, now
			s.server.Prompts = rest
			s.mu.Unlock()
			f.servers.Changed.Publish(s.Name())
			f.mu.Lock()
			f.engine.Executed(&Execution{ID: ended.ID, Server: s.Name(), Workflow: "w0", Model: "m", Side: 512, Batch: 1, Ended: now, Ran: 2 * time.Second, Succeeded: true, Active: gib, Reserved: gib})
			f.mu.Unlock()
			for i := range fleetGPUs / 5 {
				f.MemoryRead(f.gpus[(n*fleetGPUs/5+i)%fleetGPUs].ID, 8*gib, now)
			}
			if n%100 == 0 {
				f.Refresh(f.gpus)
			}
		}
	}
}

// ask asks about the nth prompt.
func (f *fleet) ask(n int) (admission.Decision, error) {
	return f.Advise(context.Background(), &admission.Request{
		Server: f.sources[n%fleetServers].Name(), Class: classNames[n%fleetClasses], Workflow: workflowNames[n%fleetClasses], Model: "m", Side: 512, Batch: 1, Claim: true,
	})
}

var classNames, workflowNames = numbered("class "), numbered("w")

func numbered(prefix string) (all []string) {
	for i := range fleetClasses {
		all = append(all, fmt.Sprint(prefix, i))
	}
	return all
}

// decide makes decisions, each of which is settled, and returns how long the 99th percentile took.
func (f *fleet) decide(t testing.TB, n int) (p99 time.Duration, admitted int) {
	took := make([]time.Duration, n)
	for i := range n {
		began := time.Now()
		d, err := f.ask(i)
		took[i] = time.Since(began)
		require.NoError(t, err)
		if d.Claim != 0 {
			admitted++
			f.Settle(d.Claim, "")
		}
	}
	slices.Sort(took)
	return took[n*99/100], admitted
}

// BenchmarkAdvice decides on one core while prompts, samples and traces come. `make bench-advice`
// compares it with its goals: 50,000 decisions a second, of which 99 of 100 take 0.1 ms at most, and
// 10 allocations each.
func BenchmarkAdvice(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f := newFleet()
	defer f.Follow()()
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); f.flow(done) }()
	b.ReportAllocs()
	b.ResetTimer()
	before := used(b)
	p99, _ := f.decide(b, b.N)
	busy := used(b) - before
	b.StopTimer()
	close(done)
	<-ended
	b.ReportMetric(float64(b.N)/busy.Seconds(), "decisions/core-s")
	b.ReportMetric(float64(p99.Nanoseconds())/1e6, "ms-p99")
}

// used is the processor time of this process: others do not count that share its cores.
func used(t testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestAdviceIsFast is the benchmark with small numbers, and with a margin for the race detector and a
// machine that does something else.
func TestAdviceIsFast(t *testing.T) {
	f := newFleet()
	defer f.Follow()()
	began := time.Now()
	const decisions = 1000
	_, admitted := f.decide(t, decisions)
	assert.Equal(t, decisions*3/4, admitted, "batch waits for core work")
	assert.Less(t, time.Since(began), decisions*time.Millisecond)
	n := 0
	assert.LessOrEqual(t, testing.AllocsPerRun(200, func() {
		d, _ := f.ask(4*n + 1)
		f.Settle(d.Claim, "")
		n++
	}), 10.0)
	require.Positive(t, n)
}

// TestARefusalIsAsFast, with what the user reads, and with a time for each client to come again.
func TestARefusalIsAsFast(t *testing.T) {
	f := newFleet()
	defer f.Follow()()
	f.messages = func(_ *admission.Request, d *admission.Decision) map[string]string {
		return map[string]string{"en": fmt.Sprint("busy: at most ", d.MaxSide), "zh": fmt.Sprint("繁忙：至多 ", d.MaxSide)}
	}
	class := f.engine.settings.Classes["class 1"]
	class.Deadline = 5 * time.Second
	f.engine.settings.Classes["class 1"] = class
	n, refused := uint64(0), 0
	ask := func() {
		n++
		d, err := f.Advise(t.Context(), &admission.Request{Server: "server 1", Class: "class 1", Workflow: "w1", Model: "m", Side: 512, Batch: 1, Claim: true, Caller: n})
		require.NoError(t, err)
		if d.Verdict == admission.Reject && d.Reason == admission.Late && len(d.Messages) == 2 {
			refused++
		}
	}
	const decisions = 1000
	began := time.Now()
	for range decisions {
		ask()
	}
	assert.Less(t, time.Since(began), decisions*time.Millisecond)
	assert.LessOrEqual(t, testing.AllocsPerRun(200, ask), 10.0)
	assert.Equal(t, int(n), refused)
}

// TestAdviceWhileEverythingChanges has all methods be called at once.
func TestAdviceWhileEverythingChanges(t *testing.T) {
	f := newFleet()
	defer f.Follow()()
	done := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() { f.flow(done) })
	for range 3 {
		all.Go(func() { f.decide(t, 300) })
	}
	all.Go(func() {
		for range 20 {
			f.Loads([]string{"GPU-1", "GPU-2"})
			f.Learned()
			f.Counts()
			for _, b := range f.Bounds() {
				assert.LessOrEqual(t, b.Size, b.Max, b.Name)
			}
		}
	})
	time.AfterFunc(200*time.Millisecond, func() { close(done) })
	all.Wait()
	counted := int64(0)
	for _, n := range f.Counts() {
		counted += n
	}
	assert.EqualValues(t, 900, counted)
}
