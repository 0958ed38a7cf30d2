// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package comfyuireceiver

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
)

// gpuProcesses finds the GPU that a process uses, by NVML. It shares the session, and
// the workers of the GPUs, with the nvml receivers of this collector.
type gpuProcesses struct {
	library  string
	log      *zap.Logger
	sessions *nvml.Sessions
	session  *nvml.Session
	// pid is the process of the last search, and last what each GPU answered then, by its
	// UUID. Both belong to the goroutine that searches.
	pid  int
	last map[string]lastAnswer
}

// lastAnswer is what a GPU answered last: the hw.id of it, or of its MIG device, that the
// process has open; empty if it has none.
type lastAnswer struct {
	id string
	at time.Time
}

// maxUnanswered is for how long the last answer counts of a GPU that gives none, since it is
// lost or hangs: its process still has it open, and what it did before is on its bill.
const maxUnanswered = 10 * time.Minute

func newGPUProcesses(library string, log *zap.Logger) *gpuProcesses {
	return &gpuProcesses{library: library, log: log, sessions: nvml.OfProcess()}
}

func (g *gpuProcesses) open() bool {
	session, err := g.sessions.Acquire(g.library, g.log)
	if err != nil {
		g.log.Warn("Failed to open NVML; hw.id is omitted from the telemetry of ComfyUI", zap.Error(err))
		return false
	}
	g.session = session
	return true
}

// wait waits for the session's first inspection of the GPUs.
func (g *gpuProcesses) wait(limit time.Duration) {
	pause(g.session.Inspected(), limit)
}

// simulated reports whether the GPUs are those of the test library.
func (g *gpuProcesses) simulated() bool { return g.session.Snapshot().Simulated }

func (g *gpuProcesses) close() { g.sessions.Release(context.Background()) }

// gpuTimeout bounds the wait for the GPUs' answers; a GPU that hangs gives none.
const gpuTimeout = 2 * time.Second

// of are the hw.ids of the GPUs, or of the MIG devices, that a process has open, in the
// order of the GPUs. ComfyUI opens all that it can see, and need not use them.
func (g *gpuProcesses) of(ctx context.Context, pid int) (hwIDs []string) {
	ctx, cancel := context.WithTimeout(ctx, gpuTimeout)
	defer cancel()
	snapshot := g.session.Snapshot()
	type answer struct {
		gpu   int
		id    string
		known bool
	}
	answers := make(chan answer, len(snapshot.GPUs))
	asked := 0
	for i, gpu := range snapshot.GPUs {
		if gpu.Err() == nil && gpu.Submit(func() {
			id, err := holds(gpu, pid)
			answers <- answer{i, id, err == nil}
		}) {
			asked++
		}
	}
	before := g.last
	if g.pid != pid {
		before = nil
	}
	g.pid, g.last = pid, make(map[string]lastAnswer, len(snapshot.GPUs))
	now := time.Now()
wait:
	for range asked {
		select {
		case a := <-answers:
			if a.known {
				g.last[snapshot.GPUs[a.gpu].Identity().UUID] = lastAnswer{a.id, now}
			}
		case <-ctx.Done(): // those that answered count
			break wait
		}
	}
	for _, gpu := range snapshot.GPUs {
		uuid := gpu.Identity().UUID
		if _, ok := g.last[uuid]; !ok && now.Sub(before[uuid].at) < maxUnanswered {
			g.last[uuid] = before[uuid]
		}
		if id := g.last[uuid].id; id != "" {
			hwIDs = append(hwIDs, id)
		}
	}
	return hwIDs
}

// at is the hw.id of the GPU with an NVML index; empty if there is none.
func (g *gpuProcesses) at(index int) (hwID string) {
	for _, gpu := range g.session.Snapshot().GPUs {
		if gpu.Err() == nil && gpu.Identity().Index == index {
			return gpu.Identity().UUID
		}
	}
	return ""
}

// with are the GPUs that an hw.id may be of: all of them, if it is that of a MIG device.
func (g *gpuProcesses) with(hwID string) []*nvml.GPU {
	all := g.session.Snapshot().GPUs
	if gpuname.IsMIG(hwID) {
		return all
	}
	i := slices.IndexFunc(all, func(gpu *nvml.GPU) bool { return gpu.Identity().UUID == hwID })
	if i < 0 {
		return nil
	}
	return all[i : i+1]
}

// memory is what a process holds of a GPU, or of a MIG device, in bytes, by the last list of
// the GPU's processes, whoever read it, and when that was.
func (g *gpuProcesses) memory(hwID string, pid int) (bytes uint64, at time.Time, ok bool) {
	for _, gpu := range g.with(hwID) {
		if bytes, at, ok = gpu.ProcessMemory(uint32(pid)); ok {
			return bytes, at, true
		}
	}
	return 0, time.Time{}, false
}

// list reads the list of a GPU's processes.
func (g *gpuProcesses) list(ctx context.Context, hwID string) {
	ctx, cancel := context.WithTimeout(ctx, gpuTimeout)
	defer cancel()
	for _, gpu := range g.with(hwID) {
		done := make(chan struct{})
		if gpu.Err() != nil || !gpu.Submit(func() {
			defer close(done)
			_, _ = gpu.Device().ComputeProcesses(nil)
		}) {
			continue
		}
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// A list of processes holds the driver's lock for up to 4.5 ms, and is read for the metrics
// anyway: maxListAge is how old one may be that a GPU is searched in, workListAge while a
// server whose GPU is not known has work, and firstListAge when it begins to, for firstWork:
// it loads a model then.
const (
	maxListAge   = 20 * time.Second
	workListAge  = 5 * time.Second
	firstListAge = time.Second
	firstWork    = 10 * time.Second
)

func listAge() time.Duration {
	work := gpuevents.WorkOfProcess().On("")
	switch {
	case work.Open == 0:
		return maxListAge
	case time.Since(work.Since) < firstWork:
		return firstListAge
	}
	return workListAge
}

// holds returns the hw.id of a GPU, or of its MIG device, if the process uses it, else
// nothing. It runs on the GPU's worker.
func holds(gpu *nvml.GPU, pid int) (hwID string, err error) {
	d := gpu.Device()
	all, err := d.ListedProcesses(listAge(), nil)
	if err != nil {
		return "", err
	}
	for _, p := range all {
		if p.PID != uint32(pid) {
			continue
		}
		if p.InMIG {
			if uuid := nvml.MIGUUID(d, p.GPUInstance, p.ComputeInstance); uuid != "" {
				return uuid, nil
			}
		}
		return gpu.Identity().UUID, nil
	}
	return "", nil
}
