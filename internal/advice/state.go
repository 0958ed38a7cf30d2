// SPDX-License-Identifier: Apache-2.0

package advice

import (
	"cmp"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice/fit"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

// server is a ComfyUI server.
type server struct {
	name string
	gpu  *gpu // nil if it is not known, or if there are several
	// kindOf is what the kinds of its prompts have in common.
	version   string
	arguments uint64
	memory    comfyevents.Memory
	pid       int

	// running is what runs, nil if nothing does; queue is what waits, in its order, with the
	// prompts that were claimed and are not in the server's queue yet.
	running *job
	queue   []*job
	byID    map[string]*job
	// unseen is how many of them the server has accepted and not shown yet.
	unseen int
	// promised is until when those come that were refused and are not batch.
	promised time.Time
	// unreachable is since when no connection to it could be opened; zero while one can.
	unreachable time.Time
	// unread is true until the server has said what its queue holds.
	unread bool
	// past is how many prompts the server has that did not come through the proxy: they precede
	// all others.
	past int
	// loaded is the model of the last prompt that ran; empty if none is loaded.
	loaded   string
	unloaded time.Time
	// freed is when it was asked to free its memory, worked when it was last seen to have something
	// to do.
	freed, worked time.Time
	// busy is for what share of the time it works, over a minute or so; at is when that was
	// computed, as is what runs.
	busy float64
	at   time.Time
	// core is what share of the whole GPU's time its core work took lately, coreNow just now; since
	// is from when on that was seen.
	core, coreNow float64
	since         time.Time
	// ran are the kinds and sizes that it executed last, the newest last.
	ran []ran
}

// job is a prompt that runs, waits, or was claimed.
type job struct {
	id, class string
	kind      Kind
	// found is what was known of its kind when foundAt kinds, less one, had been added; 0 if it was not looked for.
	found    *kind
	foundAt  uint64
	size     fit.Size
	side     int
	batch    bool
	number   float64 // of the server's queue: smaller ones run first
	deadline time.Time
	accepted time.Time
	// came is when its client tried first, as far as that is known.
	came time.Time
	// caller tells its client and content from others; 0 if that is not known.
	caller uint64
	// done are the seconds of the whole GPU that it has had, cold is true if it began without its
	// model loaded.
	done float64
	cold bool

	server *server
	claim  uint64
	// inquiry is true of a prompt about which somebody only asks, or which is passed on in any case: nobody
	// comes again for it.
	inquiry bool
	// expires is when a claim that was not settled ends.
	expires time.Time
	// shown is true once its server has shown it: it may be polled seconds after it accepted it.
	shown bool
	// predicted is what was predicted when it was admitted; zero if nothing was.
	predicted prediction
	// room is what there was for its tensors then, in bytes.
	room int64
	// bound is the bound of what its tensors need, in bytes, predicted when it began to run; 0 if
	// none was.
	bound float64
}

// gpu is a GPU and the servers that use it.
type gpu struct {
	id, product string
	servers     []*server
	memory      GPU
	// promises are what is expected to come again later.
	promises promises
	// turn is the next step of those who are refused for memory or health.
	turn int
	// coreHeld is when core work was held last.
	coreHeld time.Time
	probes   map[probeKey]*probe
	level    levelState
	// usual is the mean and the variance of what its prompts take.
	usual usualWork
	// loaded is when it was there last by what was saved.
	loaded time.Time
	// given is what its servers gave back without a word, where they are compared.
	given []int64
}

// usualWork is the mean and the variance of the last hundred or so executions, in seconds.
type usualWork struct{ count, mean, variance float64 }

func (u *usualWork) add(v float64) {
	const last = 100
	u.count = min(u.count+1, last)
	off := v - u.mean
	u.mean += off / u.count
	u.variance += (off*(v-u.mean) - u.variance) / u.count
}

// GPU is what is known of a GPU.
type GPU struct {
	ID string
	// Product is its model, so that equal GPUs learn together; the id where it is not known.
	Product string
	// Capacity is what processes can use, Used what they hold, in bytes; At is when that was read.
	Capacity, Used int64
	At             time.Time
	// Processes are the bytes that processes hold, by their ids, as listed at Listed; none if the
	// driver does not list them.
	Processes map[int]int64
	Listed    time.Time
	// Unhealthy is true if it cannot work.
	Unhealthy bool
	// Utilization is its mean use over the last two minutes, 0 to 1; negative if it is not known.
	Utilization float64
}

// SetGPU records what a GPU's samples say.
func (e *Engine) SetGPU(g GPU) {
	known := e.gpus[g.ID]
	if known == nil {
		if len(e.gpus) >= e.settings.GPUs {
			e.Dropped++
			return
		}
		known = &gpu{id: g.ID, probes: map[probeKey]*probe{}}
		e.gpus[g.ID] = known
	}
	if g.Product == "" {
		g.Product = g.ID
	}
	if g.At.Before(known.memory.At) { // a sampler has read it since
		g.Used, g.At = known.memory.Used, known.memory.At
	}
	known.memory, known.product = g, g.Product
}

// MemoryRead records what a sampler read between two samples of everything.
func (e *Engine) MemoryRead(id string, used int64, at time.Time) {
	if g := e.gpus[id]; g != nil && at.After(g.memory.At) {
		g.memory.Used, g.memory.At = used, at
	}
}

// SetServer records the queue of a server at a time.
func (e *Engine) SetServer(s *comfyevents.Server, now time.Time) {
	known := e.servers[s.Name]
	if known == nil {
		if len(e.servers) >= e.settings.Servers {
			e.Dropped++
			return
		}
		known = &server{name: s.Name, byID: map[string]*job{}, at: now, since: now, unloaded: now, worked: now, ran: e.ranOf(s.Name)}
		e.servers[s.Name] = known
	}
	e.place(known, s)
	if known.gpu != nil {
		known.gpu.advance(now)
	}
	known.at = now
	if known.unreachable = s.Unreachable; known.hasEnded(now) {
		e.processEnded(known, now)
		return
	}
	known.version, known.arguments, known.memory, known.pid = s.Version, s.Arguments, s.Memory, s.PID
	known.past, known.unread = max(s.Queued-s.Open, 0), s.Unread
	if s.Unloaded.After(known.unloaded) {
		known.unloaded, known.loaded = s.Unloaded, ""
	}
	worked := !known.rests()
	e.follow(known, s.Prompts, now)
	if worked || !known.rests() {
		known.worked = now
	}
}

// RemoveServer forgets a server that is no longer followed.
func (e *Engine) RemoveServer(name string) {
	s := e.servers[name]
	if s == nil {
		return
	}
	e.endClaims(s)
	e.leave(s)
	delete(e.servers, name)
}

func (e *Engine) endClaims(s *server) {
	for _, j := range s.queue {
		e.claims.end(j)
	}
}

// endedAfter is for how long a server cannot be reached when its process counts as ended.
const endedAfter = 5 * time.Second

// hasEnded reports whether a server's process counts as ended.
func (s *server) hasEnded(now time.Time) bool {
	return !s.unreachable.IsZero() && now.Sub(s.unreachable) >= endedAfter
}

// isReachable reports whether a server may be recommended. One that is not known may be.
func (e *Engine) isReachable(name string, now time.Time) bool {
	s := e.servers[name]
	return s == nil || !s.hasEnded(now)
}

// processEnded drops what a server had whose process counts as ended: what it holds still is what the driver says.
// If it comes back, it says again what its queue holds.
func (e *Engine) processEnded(s *server, now time.Time) {
	e.endClaims(s)
	s.running, s.queue, s.unseen, s.past = nil, nil, 0, 0
	clear(s.byID)
	s.memory, s.pid, s.loaded, s.unloaded = comfyevents.Memory{}, 0, "", now
}

// Servers are the names of those that are known.
func (e *Engine) Servers() []string {
	names := make([]string, 0, len(e.servers))
	for name := range e.servers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ServersOf are the names of the servers on a GPU, or of all.
func (e *Engine) ServersOf(gpu string) []string {
	return slices.DeleteFunc(e.Servers(), func(name string) bool {
		s := e.servers[name]
		return gpu != "" && (s.gpu == nil || s.gpu.id != gpu)
	})
}

// place puts a server on its GPU.
func (e *Engine) place(s *server, of *comfyevents.Server) {
	id := ""
	if len(of.GPUs) == 1 {
		id = of.GPUs[0]
	}
	if s.gpu != nil && s.gpu.id == id {
		return
	}
	e.leave(s)
	if id == "" {
		return
	}
	if e.gpus[id] == nil {
		e.SetGPU(GPU{ID: id, Utilization: -1})
	}
	if g := e.gpus[id]; g != nil {
		g.servers = append(g.servers, s)
		s.gpu = g
	}
}

func (e *Engine) leave(s *server) {
	if s.gpu != nil {
		s.gpu.servers = slices.DeleteFunc(s.gpu.servers, func(o *server) bool { return o == s })
		s.gpu = nil
	}
}

// busyOver is over what time a server's share of the time is averaged, coreOver and coreNowOver the
// share of its core work, which comes at random: a rush is seen soon, and a pause does not count
// for much.
const (
	busyOver    = time.Minute
	coreOver    = 3 * time.Minute
	coreNowOver = 45 * time.Second
)

// advance gives what runs its share of the GPU's time up to now.
func (g *gpu) advance(now time.Time) {
	working := 0.0
	for _, s := range g.servers {
		if s.running != nil {
			working++
		}
	}
	for _, s := range g.servers {
		passed := now.Sub(s.at)
		if passed <= 0 {
			continue
		}
		s.at = now
		works, core := 0.0, 0.0
		if s.running != nil {
			works = 1
			s.running.done += passed.Seconds() / working
			if !s.running.batch {
				core = 1 / working
			}
		}
		s.busy += (works - s.busy) * weight(passed, busyOver)
		seen := now.Sub(s.since)
		s.core += (core - s.core) * weight(passed, min(seen, coreOver))
		s.coreNow += (core - s.coreNow) * weight(passed, min(seen, coreNowOver))
	}
}

// weight is how much what happened counts in an average.
func weight(passed, over time.Duration) float64 {
	return min(passed.Seconds()/max(over.Seconds(), 1e-9), 1)
}

// follow compares the queue as it was known with how it is.
func (e *Engine) follow(s *server, prompts []comfyevents.OpenPrompt, now time.Time) {
	before, queued := s.byID, s.queue
	s.byID = make(map[string]*job, len(prompts))
	was := s.running
	s.running, s.queue = nil, nil
	for i := range prompts {
		p := &prompts[i]
		j := before[p.ID]
		if j == nil {
			j = &job{id: p.ID, accepted: p.Accepted}
		}
		if c := e.class(p.TaskClass); j.class == "" {
			j.class, j.batch, j.deadline = p.TaskClass, c.Batch, deadlineOf(c, p.Accepted)
		}
		j.server, j.number, j.shown = s, p.Number, true
		if of := e.kindOf(s, p.Workflow, p.Model); of != j.kind {
			j.kind, j.foundAt = of, 0
		}
		j.side, j.size = p.Side, sizeOf(p.Side, p.Batch, p.Steps)
		s.byID[p.ID] = j
		if p.Started.IsZero() || s.running != nil {
			s.queue = append(s.queue, j)
			continue
		}
		s.running = j
	}
	s.unseen = 0
	for _, j := range queued {
		switch {
		case j.id == "": // not settled
			s.queue = append(s.queue, j)
		case s.byID[j.id] == nil && !j.shown && now.Sub(j.accepted) < maxUnseen:
			s.unseen++
			s.byID[j.id] = j
			s.queue = append(s.queue, j)
		}
	}
	slices.SortStableFunc(s.queue, byNumber)
	if was != nil && was != s.running {
		e.over(was, now)
	}
	if s.running != nil && s.running != was {
		s.running.cold = s.loaded != s.running.kind.Model || s.loaded == ""
		s.loaded = s.running.kind.Model
		s.running.bound = e.predictedBound(s.running)
	}
}

func byNumber(a, b *job) int {
	return cmp.Or(cmp.Compare(a.number, b.number), a.accepted.Compare(b.accepted))
}

func deadlineOf(c Class, from time.Time) time.Time {
	if c.Deadline <= 0 {
		return time.Time{}
	}
	return from.Add(c.Deadline)
}
