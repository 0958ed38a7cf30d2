// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"math"
	"strings"
	"sync"
	"time"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// RunningProcess is one process that has a context on a GPU.
type RunningProcess struct {
	PID uint32
	// Memory is in bytes; MemoryKnown is false if the driver does not report it.
	Memory      uint64
	MemoryKnown bool
	// GPUInstance and ComputeInstance identify the MIG device; InMIG is false on a GPU
	// without MIG devices.
	GPUInstance, ComputeInstance uint32
	InMIG                        bool
}

const noInstance = math.MaxUint32

// computeProcesses and graphicsProcesses are NVML's functions for the processes on a
// GPU, the newest first.
const (
	computeProcesses  = "nvmlDeviceGetComputeRunningProcesses_v3|nvmlDeviceGetComputeRunningProcesses_v2|nvmlDeviceGetComputeRunningProcesses"
	graphicsProcesses = "nvmlDeviceGetGraphicsRunningProcesses_v3|nvmlDeviceGetGraphicsRunningProcesses_v2|nvmlDeviceGetGraphicsRunningProcesses"
)

// Processes appends the processes on the GPU, those of computing first; one
// that also draws is there twice (nvmlDeviceGetComputeRunningProcesses,
// nvmlDeviceGetGraphicsRunningProcesses).
func (d Device) Processes(into []RunningProcess) ([]RunningProcess, error) {
	into, err := d.ComputeProcesses(into)
	if err != nil {
		return into, err
	}
	into, err = d.running(graphicsProcesses, into)
	if err != nil && !IsUnsupported(err) { // a GPU without a screen has none
		return into, err
	}
	return into, nil
}

// running appends the processes that one of the functions lists.
func (d Device) running(functions string, into []RunningProcess) ([]RunningProcess, error) {
	newest, _, _ := strings.Cut(functions, "|")
	list, err, ok := d.rawRunning(newest)
	switch {
	case ok:
	case functions == graphicsProcesses:
		list, err = get(d, functions, gonvml.Device.GetGraphicsRunningProcesses)
	default:
		list, err = get(d, functions, gonvml.Device.GetComputeRunningProcesses)
	}
	for i := range list {
		p := &list[i]
		into = append(into, RunningProcess{
			PID: p.Pid, Memory: p.UsedGpuMemory, MemoryKnown: p.UsedGpuMemory != math.MaxUint64,
			GPUInstance: p.GpuInstanceId, ComputeInstance: p.ComputeInstanceId, InMIG: p.GpuInstanceId != noInstance,
		})
	}
	return into, err
}

// ProcessUtilization is what one process did in one sampling period, in percent.
type ProcessUtilization struct {
	PID uint32
	// At is in µs of the wall clock.
	At                       uint64
	SM, Memory, Enc, Decoder uint32
}

// ProcessUtilizations appends the samples that are newer than since, in µs; a
// process that did nothing has none (nvmlDeviceGetProcessUtilization).
func (d Device) ProcessUtilizations(since uint64, into []ProcessUtilization) ([]ProcessUtilization, error) {
	const function = "nvmlDeviceGetProcessUtilization"
	if out, err, ok := d.rawUses(since, into); ok {
		return out, err
	}
	samples, err := getBy(d, function, since, gonvml.Device.GetProcessUtilization)
	if IsNotFound(err) {
		return into, nil
	}
	if err != nil {
		return into, err
	}
	for i := range samples {
		s := &samples[i]
		if s.Pid != 0 && s.TimeStamp > since {
			into = append(into, ProcessUtilization{PID: s.Pid, At: s.TimeStamp, SM: s.SmUtil, Memory: s.MemUtil, Enc: s.EncUtil, Decoder: s.DecUtil})
		}
	}
	return into, nil
}

// maxListed bounds the processes that are kept of a GPU's last list.
const maxListed = 1024

// processList is the last list of a GPU's processes, whoever read it.
type processList struct {
	mu sync.Mutex
	// at and all are guarded by mu.
	at  time.Time
	all []RunningProcess
}

// set keeps a list that was read between two times.
func (l *processList) set(begin, end time.Time, all []RunningProcess) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = begin.Add(end.Sub(begin) / 2)
	l.all = append(l.all[:0], all[:min(len(all), maxListed)]...)
}

// ProcessMemory is the memory of a process that computes by the last list of the GPU's
// processes, and when that was read; ok is false if the list does not have it.
func (g *GPU) ProcessMemory(pid uint32) (bytes uint64, at time.Time, ok bool) {
	g.listed.mu.Lock()
	defer g.listed.mu.Unlock()
	for i := range g.listed.all {
		if p := &g.listed.all[i]; p.PID == pid && p.MemoryKnown {
			bytes, ok = max(bytes, p.Memory), true
		}
	}
	return bytes, g.listed.at, ok
}
