// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"cmp"
	"slices"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/owner"
)

// process is one process on a GPU with its owner. It never changes: a process
// whose owner becomes known is another one, with series of its own.
type process struct {
	pid int64
	owner.Owner
}

// processTable is what is kept of a GPU's processes between scrapes. Only
// the GPU's worker touches it.
type processTable struct {
	owners      *owner.Resolver
	limit       int
	known       map[uint32]*process
	running     []nvml.RunningProcess
	utilization []nvml.ProcessUtilization
	// since is the newest sample that was seen, in µs of the wall clock.
	since   uint64
	dropped int64 // beyond limit, since the last scrape
	uses    map[uint32]use
	// noUtilization says that the GPU does not tell processes' shares.
	noUtilization bool
}

// use is what one process did since the last scrape.
type use struct {
	samples      float64
	sm, enc, dec float64
}

func newProcessTable(owners *owner.Resolver, limit int) *processTable {
	return &processTable{owners: owners, limit: limit, known: map[uint32]*process{}, uses: map[uint32]use{}}
}

// Where the figures of processes are recorded: the metric's place in the row.
const (
	processMemory = iota
	processUtilization
)

func processFamilies() []family {
	return []family{{
		name: "processes", needs: nvml.ComputeProcesses,
		metrics: []metric{
			processMemory: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuProcessMemoryUsage.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					p := s.process
					mb.RecordHwGpuProcessMemoryUsageDataPoint(ts, s.integer, p.ContainerID, c.id, c.name, p.Container, p.Namespace, p.Pod, p.Executable, p.pid)
				},
			},
			processUtilization: {
				func(c *metadata.MetricsConfig) bool { return c.HwGpuProcessUtilization.Enabled },
				func(mb *metadata.MetricsBuilder, ts pcommon.Timestamp, c *names, s *sample) {
					p := s.process
					mb.RecordHwGpuProcessUtilizationDataPoint(ts, s.float, p.ContainerID, metadata.AttributeHwGpuProcessTask(s.attribute), c.id, c.name, p.Container, p.Namespace, p.Pod, p.Executable, p.pid)
				},
			},
		},
		read: func(d nvml.Device, out *sheet) error {
			if err := readProcesses(d, out); err != nil {
				return err
			}
			return readProcessUtilization(d, out)
		},
	}}
}

// readProcesses lists who is on the GPU. A process that computes and draws is
// one; its memory is the larger of both figures, which count the same.
func readProcesses(d nvml.Device, out *sheet) error {
	t := out.processes
	var err error
	t.running, err = d.Processes(t.running[:0])
	if err != nil {
		return err
	}
	slices.SortFunc(t.running, func(a, b nvml.RunningProcess) int {
		return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.GPUInstance, b.GPUInstance), cmp.Compare(a.ComputeInstance, b.ComputeInstance), cmp.Compare(b.Memory, a.Memory))
	})
	t.running = slices.CompactFunc(t.running, func(a, b nvml.RunningProcess) bool {
		return a.PID == b.PID && a.GPUInstance == b.GPUInstance && a.ComputeInstance == b.ComputeInstance
	})
	if over := len(t.running) - t.limit; over > 0 {
		slices.SortStableFunc(t.running, func(a, b nvml.RunningProcess) int { return cmp.Compare(b.Memory, a.Memory) })
		t.running = t.running[:t.limit]
		t.dropped += int64(over)
	}
	t.forgetEnded()
	for i := range t.running {
		r := &t.running[i]
		to := series{metric: &out.row.metrics[processMemory]}
		device := out.names.id
		if r.InMIG {
			if inst := out.instanceOf(r.GPUInstance, r.ComputeInstance); inst != nil {
				to.of, device = inst.names, inst.UUID
			}
		}
		to.process = t.process(r.PID, device)
		if r.MemoryKnown && r.Memory < 1<<50 {
			out.samples = append(out.samples, sample{series: to, integer: int64(r.Memory)})
		}
	}
	return nil
}

// process is the process of a number, with its owner as it is known now.
func (t *processTable) process(pid uint32, device string) *process {
	who := t.owners.Owner(int(pid), device)
	p := t.known[pid]
	if p == nil || p.Owner != who {
		p = &process{pid: int64(pid), Owner: who}
		t.known[pid] = p
	}
	return p
}

// forgetEnded drops the processes that are not running any more.
func (t *processTable) forgetEnded() {
	for pid := range t.known {
		if !slices.ContainsFunc(t.running, func(r nvml.RunningProcess) bool { return r.PID == pid }) {
			delete(t.known, pid)
		}
	}
}

// readProcessUtilization gives each running process the mean of its samples. The
// driver has none of those that did nothing: they are at 0.
func readProcessUtilization(d nvml.Device, out *sheet) error {
	t := out.processes
	if t.noUtilization {
		return nil
	}
	if t.since == 0 || t.since > uint64(out.now.Add(longestPeriod).UnixMicro()) {
		// Not what was before the receiver began, or the clock was set back.
		t.since = uint64(out.now.Add(-bufferInterval).UnixMicro())
	}
	var err error
	t.utilization, err = d.ProcessUtilizations(t.since, t.utilization[:0])
	switch nvml.KindOf(err) {
	case nvml.NotSupported, nvml.Missing:
		t.noUtilization = true // with MIG on, or before Maxwell
		return nil
	}
	if err != nil {
		return err
	}
	clear(t.uses)
	for i := range t.utilization {
		s := &t.utilization[i]
		t.since = max(t.since, s.At)
		if s.SM > 100 || s.Enc > 100 || s.Decoder > 100 {
			continue // no reading
		}
		u := t.uses[s.PID]
		u.samples++
		u.sm += float64(s.SM) / 100
		u.enc += float64(s.Enc) / 100
		u.dec += float64(s.Decoder) / 100
		t.uses[s.PID] = u
	}
	for i := range t.running {
		r := &t.running[i]
		p := t.known[r.PID]
		if p == nil {
			continue
		}
		u := t.uses[r.PID]
		n := max(u.samples, 1)
		for _, v := range [...]struct {
			task  metadata.AttributeHwGpuProcessTask
			share float64
		}{
			{metadata.AttributeHwGpuProcessTaskGeneral, u.sm / n},
			{metadata.AttributeHwGpuProcessTaskEncoder, u.enc / n},
			{metadata.AttributeHwGpuProcessTaskDecoder, u.dec / n},
		} {
			to := series{metric: &out.row.metrics[processUtilization], attribute: int(v.task), process: p}
			out.samples = append(out.samples, sample{series: to, float: v.share})
		}
	}
	return nil
}
