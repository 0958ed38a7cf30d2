package simulation

import (
	"context"
	"os"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/simulation/comfyui"
	"github.com/otelcol-gpu/otelcol-gpu/testdata/fakenvml"
)

// Service is a card that a simulated ComfyUI of this process works on.
type Service struct{ *Card }

var _ comfyui.Work = Service{}

// What a CUDA context takes from the start to the end of a process, and what stays
// when models and cache are freed, in MiB.
const cudaContext = 300

// NewService puts a card at rest that only works when its ComfyUI says so.
func NewService(card *fakenvml.Card, profile *fakenvml.Profile, seed uint64) Service {
	c := New(card, profile, seed)
	c.service, c.pid, c.held = true, os.Getpid(), cudaContext
	c.setMemory(c.held)
	return Service{c}
}

// Colorize works on one photo. The allocator keeps the memory of the largest until
// it is freed; a photo that the card has no room for fails as in PyTorch.
func (s Service) Colorize(ctx context.Context, side int, _ string, step func(done, all int) error) error {
	need, lasts := demand(side)
	s.mu.Lock()
	if need+cudaContext > s.room() {
		s.mu.Unlock()
		return comfyui.OutOfMemory(need*mib, s.profile.Values["memory_total"]*mib)
	}
	s.held = max(s.held, need+cudaContext)
	s.begin()
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.rest(time.Now())
	}()
	return comfyui.InSteps(ctx, lasts, step)
}

// Free gives back what the allocator keeps.
func (s Service) Free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.working {
		return
	}
	s.held = cudaContext
	s.setMemory(s.held)
}

// Memory is the card's as the service sees it.
func (s Service) Memory() comfyui.Memory {
	s.mu.Lock()
	defer s.mu.Unlock()
	total, held := s.profile.Values["memory_total"]*mib, (s.held-cudaContext)*mib
	m := comfyui.Memory{Total: total, Free: (s.room() - s.held) * mib, TorchTotal: held}
	if !s.working {
		m.TorchFree = held
	}
	return m
}
