// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"context"
	"slices"
	"time"
)

// loaded is a model under ComfyUI's management.
type loaded struct {
	checkpoint string
	weights    tensors // in PyTorch's allocator, unless the service is Dynamic
	elastic    int64   // bytes outside of it, if it is
}

// checkpoints are the sizes of models under ComfyUI's management, in MiB: assumed, as large as
// the files of SD 1.5 and SDXL in half precision.
var checkpoints = map[string]int64{"v1-5-pruned-emaonly-fp16.safetensors": 2034, "sd_xl_base_1.0.safetensors": 6616, "sd_xl_refiner_1.0.safetensors": 5792}

func weightsOf(checkpoint string) int64 {
	if mebibytes, ok := checkpoints[checkpoint]; ok {
		return mebibytes * mib
	}
	return 2034 * mib
}

const (
	// page is the unit in which Dynamic VRAM moves weights, in bytes.
	page = 32 * mib
	// loadStep is how many bytes are copied to the GPU in loadTime.
	loadStep = 320 * mib
	loadTime = 25 * time.Millisecond
	// headroom is what ComfyUI leaves free when it loads (minimum_inference_memory), in bytes.
	headroom = 820 * mib
)

// samplingDemand and decodingDemand are the activations of an image, in bytes.
func samplingDemand(side, batch int) int64 {
	return int64((300 + 900*float64(side)*float64(side)/1e6*float64(batch)) * mib)
}

func decodingDemand(side, batch int) int64 {
	return int64((250 + 2300*float64(side)*float64(side)/1e6*float64(batch)) * mib)
}

// decodingTime is how long the decoder holds its largest tensors: 100 to 400 ms.
func decodingTime(side int) time.Duration {
	return min(max(time.Duration(300*float64(side)*float64(side)/1e6*float64(time.Millisecond)), 100*time.Millisecond), 400*time.Millisecond)
}

// Sample implements [fakecomfyui.Work].
func (s *Service) Sample(ctx context.Context, checkpoint string, side, batch, steps int, step func(done, all int) error) error {
	j := s.begin(ctx)
	defer j.end()
	if err := j.load(checkpoint, samplingDemand(side, batch)); err != nil {
		return err
	}
	for i := range steps {
		// Tensors inside a step are most of what it needs.
		lasts := time.Duration((40 + 60*float64(side)*float64(side)/1e6) * float64(time.Millisecond))
		if err := j.stretch(segment{lasts: lasts, gpu: 96, bandwidth: 60, power: 0.95}, samplingDemand(side, batch)/2, 1); err != nil {
			return err
		}
		if err := step(i+1, steps); err != nil {
			return err
		}
	}
	return nil
}

// Decode implements [fakecomfyui.Work].
func (s *Service) Decode(ctx context.Context, checkpoint string, side, batch int) error {
	j := s.begin(ctx)
	defer j.end()
	need := decodingDemand(side, batch)
	if err := j.load(checkpoint, need); err != nil {
		return err
	}
	if err := j.stretch(segment{lasts: 20 * time.Millisecond, gpu: 60, bandwidth: 40, power: 0.6}, need/3, 0); err != nil {
		return err
	}
	return j.stretch(segment{lasts: decodingTime(side), gpu: 98, bandwidth: 70, power: 1.01}, need, 0)
}

// Tiles of a decoder that works in parts: their side in pixels, and how many passes over the
// image are averaged (comfy/sd.py).
const (
	tileSide   = 512
	tilePasses = 3
)

// DecodeTiled implements [fakecomfyui.Work].
func (s *Service) DecodeTiled(ctx context.Context, checkpoint string, side, batch int, step func(done, all int) error) error {
	j := s.begin(ctx)
	defer j.end()
	need := decodingDemand(tileSide, 1)
	if err := j.load(checkpoint, need); err != nil {
		return err
	}
	inRow := (side + tileSide - 1) / tileSide
	tiles := tilePasses * inRow * inRow * batch
	for i := range tiles {
		if err := j.stretch(segment{lasts: decodingTime(tileSide) / tilePasses, gpu: 97, bandwidth: 60, power: 0.95}, need, 0); err != nil {
			return err
		}
		if err := step(i+1, tiles); err != nil {
			return err
		}
	}
	return nil
}

// load moves a model to the GPU before it is used for work that needs so many bytes, as
// ComfyUI's load_models_gpu does: without Dynamic VRAM all of it, after models that were
// not used for the longest time made room; with it page by page, as much as there is room for.
func (j *job) load(checkpoint string, need int64) error {
	j.mu.Lock()
	m := j.model(checkpoint)
	if !j.Dynamic {
		j.makeRoom(m, weightsOf(checkpoint)-m.weights.bytes+need)
	}
	j.mu.Unlock()
	for {
		j.mu.Lock()
		done, fits := j.loadMore(m, weightsOf(checkpoint))
		j.remember()
		if !done || !fits {
			j.show(segment{lasts: loadTime, gpu: 5, bandwidth: 10, power: 0.1})
		}
		j.mu.Unlock()
		switch {
		case !fits:
			return j.outOfMemory(page)
		case done:
			return nil
		}
		if pause(j.ctx, loadTime); j.ctx.Err() != nil {
			return j.ctx.Err()
		}
	}
}

// model finds a managed model, which is the last used from now on. The caller holds the lock.
func (s *Service) model(checkpoint string) *loaded {
	i := slices.IndexFunc(s.managed, func(m *loaded) bool { return m.checkpoint == checkpoint })
	if i < 0 {
		m := &loaded{checkpoint: checkpoint, weights: tensors{of: &s.torch}}
		s.managed = append(s.managed, m)
		return m
	}
	m := s.managed[i]
	s.managed = append(slices.Delete(s.managed, i, i+1), m)
	return m
}

// makeRoom unloads other models until there is room for so many bytes. The caller holds the
// lock.
func (s *Service) makeRoom(but *loaded, bytes int64) {
	unloaded := false
	for i := 0; i < len(s.managed) && s.free()*mib+s.torch.reserved-s.torch.active < bytes+headroom; {
		if s.managed[i] == but {
			i++
			continue
		}
		s.unload(s.managed[i])
		unloaded = true
	}
	if unloaded {
		s.torch.empty()
	}
}

// unload frees a managed model. The caller holds the lock.
func (s *Service) unload(m *loaded) {
	m.weights.resize(0, 1)
	s.drop(m, m.elastic)
	s.managed = slices.DeleteFunc(s.managed, func(other *loaded) bool { return other == m })
}

// loadMore copies some of a model's weights. Dynamic VRAM stops where the GPU is full.
// The caller holds the lock.
func (s *Service) loadMore(m *loaded, all int64) (done, fits bool) {
	if !s.Dynamic {
		fits = m.weights.resize(min(m.weights.bytes+loadStep, all), page)
		return m.weights.bytes >= all, fits
	}
	more := min(loadStep, roundUp(all, page)-m.elastic, s.free()*mib/page*page)
	if more <= 0 {
		return true, true // the rest is read from the host's memory when it is needed
	}
	m.elastic += more
	s.elastic += more
	s.worker.held += more / mib
	return m.elastic >= all, true
}

// evict gives weights of Dynamic VRAM back, those of the models that were not used for the
// longest time first. The caller holds the lock.
func (s *Service) evict(bytes int64) {
	for _, m := range s.managed {
		if bytes <= 0 {
			return
		}
		some := min(roundUp(bytes, page), m.elastic)
		s.drop(m, some)
		bytes -= some
	}
}

func (s *Service) drop(m *loaded, bytes int64) {
	m.elastic -= bytes
	s.elastic -= bytes
	s.worker.held -= bytes / mib
}
