// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"math/rand/v2"
	"os"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/law"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// Service is one ComfyUI's use of a GPU: its process has a CUDA context, PyTorch's caching
// allocator, models that stay loaded, and with Dynamic the weights that ComfyUI evicts when
// memory is wanted.
type Service struct {
	*GPU
	// EmptyCache is how long after the last time ComfyUI gives unused memory back to
	// the GPU, once a prompt has ended. Default: 10s, as ComfyUI does.
	EmptyCache time.Duration
	// Dynamic moves the weights of the models under ComfyUI's management page by page
	// (Dynamic VRAM, the default since 0.16). DDColor's node manages its own.
	Dynamic bool
	// Law is what photos cost, with noise. Nil has all of a size cost the same. Set it before the
	// service works.
	Law *law.Law

	random  *rand.Rand
	worker  *worker
	process *sharedgpu.Process // of the sliced GPU; nil where its time is not shared
	context int64              // MiB of the CUDA context, from the start to the end of the process
	torch   allocator
	loaded  string    // DDColor's checkpoint, or noModel
	weights tensors   // of it
	managed []*loaded // models under ComfyUI's management, the last used last
	elastic int64     // bytes of their weights outside of the allocator
	full    float64   // the share of the GPU that is filled with weights; 0: only what prompts use
	emptied time.Time
	memory  *MemoryHistory
}

var (
	_ fakecomfyui.Work      = (*Service)(nil)
	_ fakecomfyui.PartFreer = (*Service)(nil)
)

// The memory of a CUDA context is drawn from this range, in MiB: 600 to 840 are reported.
const (
	minContext = 600
	maxContext = 840
)

// NewService returns an idle GPU that works only for its ComfyUI.
func NewService(gpu *fakenvml.GPU, profile *fakenvml.Profile, seed uint64) *Service {
	return newGPU(gpu, profile).Another(seed)
}

// Another adds a ComfyUI to those that share the GPU.
func (c *GPU) Another(seed uint64) *Service {
	s := &Service{
		GPU: c, EmptyCache: 10 * time.Second, random: rand.New(rand.NewPCG(seed, uint64(c.gpu.Index()))), loaded: noModel,
	}
	s.context = minContext + s.random.Int64N(maxContext-minContext+1)
	s.worker = &worker{pid: os.Getpid(), held: s.context}
	s.torch.driver = s
	s.weights.of = &s.torch
	c.join(s.worker)
	return s
}

// Options are those of a ComfyUI of a version on this service, which is Dynamic from then on if
// the version is by default.
func (s *Service) Options(version fakecomfyui.Version) fakecomfyui.Options {
	s.Dynamic = version == fakecomfyui.Newer
	o := fakecomfyui.Options{Version: version, NewerTorch: s.Dynamic, Torch: "2.4.1+cu121 (simulated)", Device: s.profile.Texts["name"] + " : native (simulated)", Aimdo: s.Dynamic}
	if s.Dynamic {
		o.Torch = "2.8.0+cu128 (simulated)"
	}
	return o
}

// Run simulates the GPU's temperature until the context ends.
func (c *GPU) Run(ctx context.Context) {
	const every = 100 * time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			c.mu.Lock()
			c.warm(every)
			c.mu.Unlock()
		}
	}
}

const noModel = "-"

// grab implements [driver]. Under pressure the weights that can be loaded again are evicted.
// The caller holds the lock.
func (s *Service) grab(bytes int64) bool {
	if short := bytes - s.free()*mib; short > 0 {
		s.evict(short)
	}
	if bytes > s.free()*mib {
		return false
	}
	s.worker.held += bytes / mib
	return true
}

// giveBack implements [driver].
func (s *Service) giveBack(bytes int64) { s.worker.held -= bytes / mib }

// job is one node's work on the GPU.
type job struct {
	*Service
	ctx  context.Context
	live tensors // beside the weights
}

func (s *Service) begin(ctx context.Context) *job {
	return &job{Service: s, ctx: ctx, live: tensors{of: &s.torch}}
}

// end frees what the work used.
func (j *job) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.live.resize(0, 1)
	j.remember()
	j.put(j.worker, segment{}, time.Now())
}

// put shows what the process does and holds now. The caller holds the lock.
func (j *job) show(seg segment) {
	j.remember()
	seg.memory = 0 // the allocator knows better
	j.put(j.worker, seg, time.Now())
}

// maxTensor is the largest tensor of a simulated model, in bytes.
const maxTensor = 160 * mib

// stretch works for a time with live tensors of so many bytes. Among them are tensors that live
// for 2 to 30 ms inside the stretch, up to a part of what it holds.
func (j *job) stretch(seg segment, bytes int64, transient float64) error {
	j.mu.Lock()
	fits := j.live.resize(bytes, maxTensor)
	j.show(seg)
	short := min(time.Duration(2+j.random.IntN(29))*time.Millisecond, seg.lasts/2)
	before := time.Duration(j.random.Float64() * float64(seg.lasts-short))
	peak := int64(transient * (0.3 + 0.7*j.random.Float64()) * float64(bytes))
	j.mu.Unlock()
	if !fits {
		return j.outOfMemory(bytes)
	}
	if peak == 0 {
		j.spend(seg, seg.lasts)
		return j.ctx.Err()
	}
	j.spend(seg, before)
	j.mu.Lock()
	b := j.torch.allocate(peak)
	j.show(seg)
	j.mu.Unlock()
	if b == nil {
		return j.outOfMemory(peak)
	}
	j.spend(seg, short)
	j.mu.Lock()
	j.torch.free(b)
	j.show(seg)
	j.mu.Unlock()
	j.spend(seg, seg.lasts-before-short)
	return j.ctx.Err()
}

// sharedFrom is the utilisation in percent from which on a stretch shares the GPU's time: what
// loads or prepares leaves it to others.
const sharedFrom = 50

// spend lets a part of a stretch pass, on a GPU that is sliced as long as others leave it.
func (j *job) spend(seg segment, d time.Duration) {
	j.mu.Lock()
	if j.process == nil && j.slices != nil {
		j.process = j.slices.Process(j.worker.pid)
	}
	j.mu.Unlock()
	if j.process == nil || seg.gpu < sharedFrom {
		pause(j.ctx, d)
		return
	}
	_, _ = j.process.Work(j.ctx, d) // the caller asks the context
}

func (j *job) outOfMemory(bytes int64) error {
	return fakecomfyui.OutOfMemory(bytes, j.profile.Values["memory_total"]*mib)
}

// transientPart is how much tensors inside a step add to what DDColor's network holds there.
const transientPart = 0.3

// Colorize works on one photo. DDColor's node loads its model itself, and keeps it until
// another is wanted. It sends no progress, so that nothing interrupts it. What the GPU has no
// room for fails as in PyTorch.
func (s *Service) Colorize(ctx context.Context, side int, checkpoint string, _ func(done, all int) error) error {
	m := modelOf(checkpoint)
	j := s.begin(ctx)
	defer j.end()
	s.mu.Lock()
	isLoaded := s.loaded == checkpoint
	if !isLoaded { // the other model's memory stays in the allocator
		s.weights.resize(0, 1)
		s.loaded = noModel
	}
	segments := photo(s.cost(ctx, side, checkpoint), m, isLoaded, s.random)
	s.mu.Unlock()
	for _, seg := range segments {
		if err := j.work(seg, m, checkpoint); err != nil {
			return err
		}
	}
	return nil
}

// cost is what a prompt's photo costs.
func (s *Service) cost(ctx context.Context, side int, checkpoint string) cost {
	if s.Law == nil {
		return usual(side, modelOf(checkpoint))
	}
	d := s.Law.Draw(fakecomfyui.PromptOf(ctx), law.Load{Side: side, Batch: 1, Checkpoint: checkpoint})
	return cost{max(d.Need/mib, modelOf(checkpoint).weights), d.Exclusive, s.Law.Checkpoint(checkpoint).Loading}
}

// work works for one segment of a photo: while it loads the model, its memory is weights.
func (j *job) work(seg segment, m model, checkpoint string) error {
	weights := m.weights * mib
	j.mu.Lock()
	fits := j.weights.resize(min(seg.memory*mib, weights), 32*mib)
	if j.weights.bytes >= weights {
		j.loaded = checkpoint
	}
	j.mu.Unlock()
	if !fits {
		return j.outOfMemory(32 * mib)
	}
	transient := 0.0
	if seg.encodes {
		transient = transientPart
	}
	return j.stretch(seg, max(seg.memory-m.weights, 0)*mib, transient)
}

// Collect gives unused memory back, if that was long ago.
func (s *Service) Collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.fill()
	now := time.Now()
	if now.Sub(s.emptied) < s.EmptyCache {
		return
	}
	s.emptied = now
	s.torch.empty()
}

// Free gives back what the allocator keeps, and the models.
func (s *Service) Free() { s.FreeParts(true, true) }

// FreeParts implements [fakecomfyui.PartFreer]: DDColor's weights belong to its node.
func (s *Service) FreeParts(models, nodes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker.load != (segment{}) {
		return
	}
	if nodes {
		s.weights.resize(0, 1)
		s.loaded = noModel
	}
	for models && len(s.managed) > 0 {
		s.unload(s.managed[0])
	}
	if models || nodes {
		s.torch.empty()
	}
	s.remember()
	s.show(time.Now())
}

// Memory is the GPU's as the service sees it.
func (s *Service) Memory() fakecomfyui.Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	unused := s.torch.reserved - s.torch.active
	return fakecomfyui.Memory{Total: s.profile.Values["memory_total"] * mib, Free: s.free()*mib + unused, TorchTotal: s.torch.reserved, TorchFree: unused}
}
