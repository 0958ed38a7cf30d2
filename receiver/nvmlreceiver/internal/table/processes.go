// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package table

import (
	"cmp"
	"maps"
	"slices"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
)

type task = metadata.AttributeHwGpuProcessTask

var (
	processMemory = newWithProcess(level, "hw.gpu.process.memory.usage",
		func(mb *builder, ts timestamp, v int64, p *Process, _ noAttribute, id, name string) {
			mb.RecordHwGpuProcessMemoryUsageDataPoint(ts, v, p.ContainerID, id, name, p.Container, p.Namespace, p.Pod, p.Executable, p.PID)
		})
	processUtilization = newWithProcess(level, "hw.gpu.process.utilization",
		func(mb *builder, ts timestamp, v float64, p *Process, part task, id, name string) {
			mb.RecordHwGpuProcessUtilizationDataPoint(ts, v, p.ContainerID, part, id, name, p.Container, p.Namespace, p.Pod, p.Executable, p.PID)
		})
)

// Process is one process on a GPU with its owner. It never changes: a process whose
// owner becomes known is another one, with series of its own.
type Process struct {
	PID int64
	owner.Owner
}

// Processes is what is kept of a GPU's processes between scrapes. It is only ever
// touched by the GPU's worker.
type Processes struct {
	owners      *owner.Resolver
	limit       int
	known       map[uint32]*Process
	running     []nvml.RunningProcess
	utilization []nvml.ProcessUtilization
	uses        map[uint32]processUse
	// since is the newest sample that was read, in µs of the wall clock.
	since uint64
	// noUtilization: the GPU does not report what its processes do.
	noUtilization bool
	// Dropped counts the processes beyond the limit in the last pass.
	Dropped int64
}

// processUse adds up what one process did since the last scrape.
type processUse struct{ samples, sm, enc, dec float64 }

// NewProcesses is an empty list; limit bounds the processes of one pass.
func NewProcesses(owners *owner.Resolver, limit int) *Processes {
	return &Processes{owners: owners, limit: limit, known: map[uint32]*Process{}, uses: map[uint32]processUse{}}
}

// Bounds lists what is held after a pass. Like the other methods, it belongs to the GPU's
// worker.
func (t *Processes) Bounds() []bounds.Bound {
	return []bounds.Bound{
		{Name: "table.Processes.known", Max: t.limit, Size: len(t.known)},
		{Name: "table.Processes.running", Max: t.limit, Size: len(t.running)},
		{Name: "table.Processes.uses", Max: t.limit, Size: len(t.uses)},
	}
}

// Relearn forgets what the GPU supports, after it came back.
func (t *Processes) Relearn() { t.noUtilization = false }

// AreBeside reports whether the last list names a process that is not one of pids; false if
// there are none.
func (t *Processes) AreBeside(pids []int) bool {
	return len(pids) > 0 && slices.ContainsFunc(t.running, func(r nvml.RunningProcess) bool { return !slices.Contains(pids, int(r.PID)) })
}

func processRows() []Row {
	return []Row{
		// Both are of the processes that the list names.
		{Name: "processes", metrics: []*Metric{processMemory.Metric, processUtilization.Metric}, pace: listPace, read: readProcesses},
		{Name: "processes.utilization", metrics: []*Metric{processUtilization.Metric}, pace: usePace, read: readProcessUtilization},
	}
}

// readProcesses lists the processes. One that computes and draws is listed twice and
// becomes one; its memory is the larger figure, since both count the same.
func readProcesses(d nvml.Device, out *Output) error {
	t := out.Processes
	var err error
	if out.Paced { // those that draw have no work that is followed
		t.running, err = d.ComputeProcesses(t.running[:0])
	} else {
		t.running, err = d.Processes(t.running[:0])
	}
	if err != nil {
		return err
	}
	slices.SortFunc(t.running, func(a, b nvml.RunningProcess) int {
		return cmp.Or(
			cmp.Compare(a.PID, b.PID),
			cmp.Compare(a.GPUInstance, b.GPUInstance),
			cmp.Compare(a.ComputeInstance, b.ComputeInstance),
			cmp.Compare(b.Memory, a.Memory))
	})
	t.running = slices.CompactFunc(t.running, func(a, b nvml.RunningProcess) bool {
		return a.PID == b.PID && a.GPUInstance == b.GPUInstance && a.ComputeInstance == b.ComputeInstance
	})
	if over := len(t.running) - t.limit; over > 0 {
		slices.SortStableFunc(t.running, func(a, b nvml.RunningProcess) int { return cmp.Compare(b.Memory, a.Memory) })
		t.running = t.running[:t.limit]
		t.Dropped = int64(over)
	}
	t.forgetEnded()
	for i := range t.running {
		r := &t.running[i]
		device := out.ID
		var on *Identity
		if r.InMIG {
			if inst := out.instance(r.GPUInstance, r.ComputeInstance); inst != nil {
				on, device = inst.Identity, inst.UUID
			}
		}
		p := t.process(r.PID, device)
		out.putIf(r.MemoryKnown && r.Memory < maxMemoryBytes, processMemory.Of(int64(r.Memory), p, 0).OnDevice(on))
	}
	return nil
}

// instance is the MIG device with these numbers, or nil.
func (o *Output) instance(gpuInstance, computeInstance uint32) *Instance {
	for _, inst := range o.Instances {
		if inst.GPUInstance == gpuInstance && inst.ComputeInstance == computeInstance {
			return inst
		}
	}
	return nil
}

// process is the process with a number, with its owner as it is known now.
func (t *Processes) process(pid uint32, device string) *Process {
	of := t.owners.Owner(int(pid), device)
	p := t.known[pid]
	if p == nil || p.Owner != of {
		p = &Process{PID: int64(pid), Owner: of}
		t.known[pid] = p
	}
	return p
}

func (t *Processes) forgetEnded() {
	maps.DeleteFunc(t.known, func(pid uint32, _ *Process) bool {
		return !slices.ContainsFunc(t.running, func(r nvml.RunningProcess) bool { return r.PID == pid })
	})
}

// readProcessUtilization gives each running process the mean of its samples. The driver
// has none of processes that did nothing: they are at 0.
func readProcessUtilization(d nvml.Device, out *Output) error {
	t := out.Processes
	if t.noUtilization {
		return nil
	}
	paused := out.Paced && t.since < uint64(out.Now.Add(-maxPeriod).UnixMicro())
	if t.since == 0 || t.since > uint64(out.Now.Add(maxPeriod).UnixMicro()) || paused {
		// Not what was before the receiver's start, or while one server worked alone, or the
		// clock was set back.
		t.since = uint64(out.Now.Add(-bufferInterval).UnixMicro())
	}
	var err error
	t.utilization, err = d.ProcessUtilizations(t.since, t.utilization[:0])
	if nvml.IsUnsupported(err) {
		t.noUtilization = true // with MIG on, or before Maxwell
		return nil
	}
	if err != nil {
		return err
	}
	t.sumUses()
	for i := range t.running {
		pid := t.running[i].PID
		p := t.known[pid]
		if p == nil {
			continue
		}
		u := t.uses[pid]
		n := max(u.samples, 1)
		out.put(processUtilization.Of(u.sm/n, p, metadata.AttributeHwGpuProcessTaskGeneral))
		out.put(processUtilization.Of(u.enc/n, p, metadata.AttributeHwGpuProcessTaskEncoder))
		out.put(processUtilization.Of(u.dec/n, p, metadata.AttributeHwGpuProcessTaskDecoder))
	}
	return nil
}

// sumUses adds the valid samples up by process.
func (t *Processes) sumUses() {
	clear(t.uses)
	for i := range t.utilization {
		s := &t.utilization[i]
		t.since = max(t.since, s.At)
		if s.SM > 100 || s.Enc > 100 || s.Decoder > 100 {
			continue
		}
		if t.known[s.PID] == nil {
			continue // beyond the limit, or it has ended
		}
		u := t.uses[s.PID]
		u.samples++
		u.sm += float64(s.SM) / 100
		u.enc += float64(s.Enc) / 100
		u.dec += float64(s.Decoder) / 100
		t.uses[s.PID] = u
	}
}
