// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package comfyuireceiver

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
)

// cardsOf tells by NVML which GPU a process holds. It shares the session, and the
// workers of the GPUs, with the nvml receivers of this process.
type gpusOf struct {
	library  string
	log      *zap.Logger
	sessions *nvml.Sessions
	session  *nvml.Session
}

func newGPUsOf(library string, log *zap.Logger) *gpusOf {
	return &gpusOf{library: library, log: log, sessions: nvml.OfProcess()}
}

func (c *gpusOf) open() bool {
	session, err := c.sessions.Acquire(c.library, c.log)
	if err != nil {
		c.log.Warn("the GPU that ComfyUI uses cannot be told", zap.Error(err))
		return false
	}
	c.session = session
	return true
}

// wait waits for the session's first look at the machine.
func (c *gpusOf) wait(most time.Duration) {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-c.session.Inspected():
	case <-timer.C:
	}
}

// simulated says whether the GPUs are those of the test library.
func (c *gpusOf) simulated() bool { return c.session.Snapshot().Simulated }

func (c *gpusOf) close() { c.sessions.Release(context.Background()) }

// cardPatience is how long a GPU is waited for; one that hangs tells nothing.
const gpuPatience = 2 * time.Second

// of is the hw.id of the GPU, or of the MIG device, that a process holds; empty
// if none can be told.
func (c *gpusOf) of(ctx context.Context, pid int) (hwID string) {
	ctx, cancel := context.WithTimeout(ctx, gpuPatience)
	defer cancel()
	snapshot := c.session.Snapshot()
	found := make(chan string, len(snapshot.GPUs))
	asked := 0
	for _, gpu := range snapshot.GPUs {
		if gpu.Err() == nil && gpu.Submit(func() { found <- holds(gpu, pid) }) {
			asked++
		}
	}
	for range asked {
		select {
		case id := <-found:
			if id != "" {
				return id
			}
		case <-ctx.Done():
			return ""
		}
	}
	return ""
}

// at is the hw.id of the GPU with an NVML index; empty if there is none.
func (c *gpusOf) at(index int) (hwID string) {
	for _, gpu := range c.session.Snapshot().GPUs {
		if gpu.Err() == nil && gpu.Identity().Index == index {
			return gpu.Identity().UUID
		}
	}
	return ""
}

// holds asks one GPU; it runs on the GPU's worker.
func holds(gpu *nvml.GPU, pid int) string {
	d := gpu.Device()
	all, err := d.Processes(nil)
	if err != nil {
		return ""
	}
	for _, p := range all {
		if p.PID != uint32(pid) {
			continue
		}
		if p.InMIG {
			if uuid := nvml.MIGUUID(d, p.GPUInstance, p.ComputeInstance); uuid != "" {
				return uuid
			}
		}
		return gpu.Identity().UUID
	}
	return ""
}
