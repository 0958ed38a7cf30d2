// SPDX-License-Identifier: Apache-2.0

package simulation

import (
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

// Screen shows a GPU that servers share on the NVML test library: memory by process, utilisation,
// clocks and power. Run makes its temperature follow.
type Screen struct {
	*GPU
	shown map[int]*worker // by process id; guarded by the GPU's lock
}

var _ sharedgpu.Screen = (*Screen)(nil)

// NewScreen puts a GPU at rest.
func NewScreen(gpu *fakenvml.GPU, profile *fakenvml.Profile) *Screen {
	return &Screen{GPU: newGPU(gpu, profile), shown: map[int]*worker{}}
}

// Total is the memory that processes may use, in bytes.
func (s *Screen) Total() int64 { return s.room() * mib }

// working is the load of a GPU at work on images.
var working = segment{gpu: 97, bandwidth: 60, power: 0.92}

// Show implements [sharedgpu.Screen]. Processes that work have equal parts of the load.
func (s *Screen) Show(r sharedgpu.Readings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	busy := int64(0)
	for _, p := range r.Processes {
		if p.Working {
			busy++
		}
	}
	for _, w := range s.shown {
		w.held, w.load = 0, segment{}
	}
	for _, p := range r.Processes {
		w := s.shown[p.PID]
		if w == nil {
			w = &worker{pid: p.PID}
			s.shown[p.PID] = w
			s.workers = append(s.workers, w)
		}
		w.held += p.Used / mib // servers of one process are one
		if p.Working {
			w.load.gpu += working.gpu / busy
			w.load.bandwidth += working.bandwidth / busy
			w.load.power += working.power / float64(busy)
		}
	}
	s.show(time.Now())
}
