// SPDX-License-Identifier: Apache-2.0

package sharedgpu

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
)

// Observer follows the prompts of servers.
type Observer interface {
	// Began and Ended are called when a prompt's work begins and ends, from the server's
	// goroutine, Ended not if the server was stopped before. They must not block.
	Began(s *Server, prompt string)
	Ended(s *Server, prompt string, w Worked)
}

// Worked is what the work on a prompt was.
type Worked struct {
	// Exclusive is the GPU's time that it used, without the loading of the model.
	Exclusive time.Duration
	// Made is true if the image was made, OutOfMemory if it failed for the lack of memory.
	Made, OutOfMemory bool
	Loaded            bool // the model was loaded for it
	// Start is what the server's live tensors used when the prompt began, and Peak the most that they
	// did: what did not fit is not in it. In bytes.
	Start, Peak int64
	// HeldBefore and HeldAfter are what the process held by NVML when the prompt began and when it
	// ended, which is the most that it held meanwhile. In bytes.
	HeldBefore, HeldAfter int64
}

// Server is the work of one ComfyUI: its CUDA context, PyTorch's caching allocator, and the model
// that its node keeps.
type Server struct {
	*Process
	law      *law.Law
	observer Observer // may be nil

	// mu guards everything declared below.
	mu               sync.Mutex
	active, reserved int64 // the allocator's: what tensors use, and what it holds
	peak             int64 // the most that active was since the prompt began
	weights          int64 // of the loaded model; active counts them
	loaded           string
	managed          bool // the loaded model is under ComfyUI's management
	works            bool
	needsCollection  bool // a prompt has ended since the allocator was emptied
	collected        time.Time
	collection       *time.Timer
}

var (
	_ fakecomfyui.Work      = (*Server)(nil)
	_ fakecomfyui.PartFreer = (*Server)(nil)
)

// The memory of a CUDA context is drawn from this range, in bytes: 600 to 840 MiB are reported.
const (
	minContext = 600 * law.MiB
	maxContext = 840 * law.MiB
)

// CollectAfter is how long ComfyUI leaves between two times that it empties the allocator's cache
// (gc_collect_interval); an idle server does it as soon as that has passed.
const CollectAfter = 10 * time.Second

// NewServer starts a ComfyUI on a GPU that has room for its context.
func NewServer(g *GPU, pid int, l *law.Law, random *rand.Rand, observer Observer) (*Server, error) {
	s := &Server{Process: g.Process(pid), law: l, observer: observer, collected: time.Now()}
	if !s.grow(minContext + random.Int64N((maxContext-minContext)/law.MiB+1)*law.MiB) {
		return nil, errors.New("the GPU has no room for another CUDA context")
	}
	return s, nil
}

// Observe replaces the observer, while no prompt runs.
func (s *Server) Observe(o Observer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.observer = o
}

// PID is the server's process.
func (s *Server) PID() int { return s.pid }

// Colorize implements [fakecomfyui.Work]: DDColor's node sends no step, so that nothing
// interrupts it.
func (s *Server) Colorize(ctx context.Context, side int, checkpoint string, _ func(done, all int) error) error {
	return s.prompt(ctx, law.Load{Side: side, Batch: 1, Checkpoint: checkpoint}, func(int, int) error { return nil })
}

// Sample implements [fakecomfyui.Work]: it does the work of the whole prompt.
func (s *Server) Sample(ctx context.Context, checkpoint string, side, batch, steps int, step func(done, all int) error) error {
	return s.prompt(ctx, law.Load{Side: side, Batch: batch, Steps: max(steps, 1), Checkpoint: checkpoint}, step)
}

// Decode implements [fakecomfyui.Work]: the law's figures have it in them.
func (s *Server) Decode(ctx context.Context, _ string, _, _ int) error { return ctx.Err() }

// DecodeTiled implements [fakecomfyui.Work].
func (s *Server) DecodeTiled(ctx context.Context, _ string, _, _ int, _ func(done, all int) error) error {
	return ctx.Err()
}

// prompt works for one prompt.
func (s *Server) prompt(ctx context.Context, load law.Load, step func(done, all int) error) error {
	id := fakecomfyui.PromptOf(ctx)
	s.mu.Lock()
	s.works = true
	w := Worked{Loaded: s.loaded != load.Checkpoint, Start: s.active, HeldBefore: s.Held()}
	s.peak = s.active
	s.mu.Unlock()
	if s.observer != nil {
		s.observer.Began(s, id)
	}
	err := s.work(ctx, load, s.law.Draw(id, load), &w, step)
	s.mu.Lock()
	s.active = s.weights // live tensors are freed; the allocator keeps their memory
	s.works, s.needsCollection = false, true
	w.Peak, w.HeldAfter = s.peak, s.Held()
	s.mu.Unlock()
	var failure *fakecomfyui.Failure
	w.Made, w.OutOfMemory = err == nil, errors.As(err, &failure)
	if s.observer != nil && ctx.Err() == nil {
		s.observer.Ended(s, id, w)
	}
	return err
}

// The growth of a prompt's memory: it reaches its need within the first part of its time.
const growthPart = 0.4

func (s *Server) work(ctx context.Context, load law.Load, d law.Drawn, w *Worked, step func(done, all int) error) error {
	if err := pause(ctx, d.Host); err != nil {
		return err
	}
	if w.Loaded {
		if err := s.load(ctx, load); err != nil {
			return err
		}
	}
	begins := s.inUse()
	growth := max(d.Need-begins, 0)
	steps := max((growth+law.NeedStep-1)/law.NeedStep, 1)
	slice := time.Duration(growthPart * float64(d.Exclusive) / float64(steps))
	for range steps {
		if !s.allocate(min(law.NeedStep, growth)) {
			return fakecomfyui.OutOfMemory(min(law.NeedStep, growth), s.gpu.total)
		}
		growth -= min(law.NeedStep, growth)
		if err := s.use(ctx, slice, w); err != nil {
			return err
		}
	}
	rest, all := d.Exclusive-time.Duration(steps)*slice, max(load.Steps, 1)
	for i := range all {
		if err := s.use(ctx, rest/time.Duration(all), w); err != nil {
			return err
		}
		if err := step(i+1, all); err != nil {
			return err
		}
	}
	return nil
}

// inUse is what tensors use before a prompt's own: the model's weights.
func (s *Server) inUse() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// use works on the GPU, and counts it.
func (s *Server) use(ctx context.Context, exclusive time.Duration, w *Worked) error {
	done, err := s.Process.work(ctx, exclusive, w.Exclusive > 0)
	w.Exclusive += done
	return err
}

// loadStep is how long a part of the loading lasts.
const loadStep = 250 * time.Millisecond

// load loads a model from the disk, which uses next to nothing of the GPU's time. The one that was
// loaded before makes room first.
func (s *Server) load(ctx context.Context, load law.Load) error {
	s.unload()
	c := s.law.Checkpoint(load.Checkpoint)
	steps := max(int64(c.Loading/loadStep), 1)
	for i := range steps {
		more := c.Weights*(i+1)/steps - c.Weights*i/steps
		if !s.allocate(more) {
			s.unload()
			return fakecomfyui.OutOfMemory(more, s.gpu.total)
		}
		s.mu.Lock()
		s.weights += more
		s.mu.Unlock()
		if err := pause(ctx, c.Loading/time.Duration(steps)); err != nil {
			s.unload()
			return err
		}
	}
	s.mu.Lock()
	s.loaded, s.managed = load.Checkpoint, load.Steps > 0
	s.mu.Unlock()
	return nil
}

// unload frees the model's tensors; their memory stays in the allocator.
func (s *Server) unload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active -= s.weights
	s.weights, s.loaded = 0, ""
}

// allocate makes tensors: of what the allocator keeps, then of the GPU's memory.
func (s *Server) allocate(bytes int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if more := s.active + bytes - s.reserved; more > 0 {
		if !s.grow(more) {
			return false
		}
		s.reserved += more
	}
	s.active += bytes
	s.peak = max(s.peak, s.active)
	return true
}

// empty gives back what the allocator keeps. The caller holds mu.
func (s *Server) empty() {
	s.shrink(s.reserved - s.active)
	s.reserved = s.active
	s.needsCollection, s.collected = false, time.Now()
}

// Collect implements [fakecomfyui.Work]: a prompt has ended.
func (s *Server) Collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.collect()
}

// collect empties the cache if that was long ago, or else once it is, unless a prompt runs then.
// The caller holds mu.
func (s *Server) collect() {
	if !s.needsCollection || s.works {
		return
	}
	if left := CollectAfter - time.Since(s.collected); left > 0 {
		if s.collection != nil {
			s.collection.Stop()
		}
		s.collection = time.AfterFunc(left, s.Collect)
		return
	}
	s.empty()
}

// Close ends what the server does by itself.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection != nil {
		s.collection.Stop()
	}
}

// Free implements [fakecomfyui.Work].
func (s *Server) Free() { s.FreeParts(true, true) }

// FreeParts implements [fakecomfyui.PartFreer]: a model that DDColor's node has loaded is the
// node's own, and goes only with it.
func (s *Server) FreeParts(models, nodes bool) {
	if nodes || models && s.hasManaged() {
		s.unload()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if models || nodes {
		s.empty()
	}
}

func (s *Server) hasManaged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.managed
}

// Memory implements [fakecomfyui.Work].
func (s *Server) Memory() fakecomfyui.Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	unused := s.reserved - s.active
	return fakecomfyui.Memory{Total: s.gpu.total, Free: s.gpu.Free() + unused, TorchTotal: s.reserved, TorchFree: unused}
}

// Room is what a prompt of this server finds now, in bytes: the GPU's free memory, and what its
// own allocator holds.
func (s *Server) Room() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gpu.Free() + s.reserved
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
