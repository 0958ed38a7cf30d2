// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"math/rand/v2"
	"os"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// Service is one ComfyUI's use of a GPU.
type Service struct {
	*GPU
	// EmptyCache is how long after the last time ComfyUI gives unused memory back to
	// the GPU, once a prompt has ended. Default: 10s, as ComfyUI does.
	EmptyCache time.Duration

	random  *rand.Rand
	worker  *worker
	loaded  string // checkpoint, or noModel
	emptied time.Time
}

var _ fakecomfyui.Work = (*Service)(nil)

// Memory of a CUDA context, from the start to the end of a process, in MiB.
const cudaContext = 300

// NewService returns an idle GPU that works only for its ComfyUI.
func NewService(gpu *fakenvml.GPU, profile *fakenvml.Profile, seed uint64) *Service {
	return newGPU(gpu, profile).Another(seed)
}

// Another adds a ComfyUI to those that share the GPU.
func (c *GPU) Another(seed uint64) *Service {
	s := &Service{
		GPU: c, EmptyCache: 10 * time.Second, random: rand.New(rand.NewPCG(seed, uint64(c.gpu.Index()))),
		loaded: noModel, worker: &worker{pid: os.Getpid(), held: cudaContext},
	}
	c.join(s.worker)
	return s
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

// steps is how many progress messages DDColor sends for one photo.
const steps = 4

// Colorize works on one photo. The allocator keeps the memory of the largest until
// it is emptied; a photo that the GPU has no room for fails as in PyTorch.
func (s *Service) Colorize(ctx context.Context, side int, checkpoint string, step func(done, all int) error) error {
	m := modelOf(checkpoint)
	need, _ := demand(side, m)
	s.mu.Lock()
	if s.loaded != checkpoint { // the other model makes room
		s.worker.held, s.loaded = cudaContext, noModel
	}
	now := time.Now()
	if need+cudaContext > s.worker.held+s.free() {
		s.show(now)
		s.mu.Unlock()
		return fakecomfyui.OutOfMemory(need*mib, s.profile.Values["memory_total"]*mib)
	}
	segments := photo(side, m, s.loaded == checkpoint, s.random)
	s.loaded = checkpoint
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.put(s.worker, segment{}, 0, time.Now())
	}()
	total, passed := time.Duration(0), time.Duration(0)
	for _, seg := range segments {
		total += seg.lasts
	}
	told := 0
	for _, seg := range segments {
		s.mu.Lock()
		s.put(s.worker, seg, cudaContext, time.Now())
		s.mu.Unlock()
		pause(ctx, seg.lasts)
		if err := ctx.Err(); err != nil {
			return err
		}
		for passed += seg.lasts; told < steps && passed >= total*time.Duration(told+1)/steps; {
			told++
			if err := step(told, steps); err != nil {
				return err
			}
		}
	}
	return nil
}

// Collect gives unused memory back, if that was long ago.
func (s *Service) Collect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.emptied) < s.EmptyCache {
		return
	}
	s.emptied, s.worker.held = now, cudaContext
	if s.loaded != noModel {
		s.worker.held += modelOf(s.loaded).weights
	}
	s.show(now)
}

// Free gives back what the allocator keeps, and the model.
func (s *Service) Free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.worker.load != (segment{}) {
		return
	}
	s.worker.held, s.loaded = cudaContext, noModel
	s.show(time.Now())
}

// Memory is the GPU's as the service sees it.
func (s *Service) Memory() fakecomfyui.Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, held := s.profile.Values["memory_total"]*mib, (s.worker.held-cudaContext)*mib
	m := fakecomfyui.Memory{Total: total, Free: s.free() * mib, TorchTotal: held}
	if s.worker.load == (segment{}) {
		m.TorchFree = held
	}
	return m
}
