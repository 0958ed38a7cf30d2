// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

var models = []struct {
	name   string
	memory int64
}{
	{"NVIDIA GeForce RTX 4090", 24 * gib}, {"NVIDIA L40S", 48 * gib}, {"NVIDIA H100 80GB HBM3", 80 * gib}, {"NVIDIA RTX 6000 Ada Generation", 48 * gib},
}

// wave is a figure from 0 to 1 that changes with i.
func wave(i, phase int) float64 { return 0.5 + 0.45*math.Sin(float64(i)/3+float64(phase)*1.7) }

func gpuID(i int) string { return fmt.Sprintf("GPU-5f0a%04d-8b1c-4f2e-9c7d-1f6f3b2a%04d", i, i) }

// gpuOf is the GPU of a ComfyUI server: each second one, where there are several.
func (f *fixture) gpuOf(server int) int {
	if f.trouble == lostGPU { // of the one that is left
		return 0
	}
	return (2*server + 1) % max(1, f.gpus)
}

// serverOn is the server on a GPU; negative if there is none.
func (f *fixture) serverOn(gpu int) int {
	for i := range f.servers {
		if f.gpuOf(i) == gpu {
			return i
		}
	}
	return -1
}

// samples are the lines of a GPU's samples.
type samples struct {
	strings.Builder
	id string
}

// add adds a sample; labels may be empty.
func (s *samples) add(metric, labels string, value float64) {
	s.line(metric, labels, strconv.FormatFloat(value, 'g', -1, 64))
}

// line adds a sample whose value is a text.
func (s *samples) line(metric, labels, value string) {
	s.WriteString(metric + "{" + s.id + "," + labels + "} " + value + "\n")
}

// process adds a process's memory.
func (s *samples) process(pid int, name, pod string, memory int64) {
	labels := fmt.Sprintf("process.pid=%d,process.executable.name=%s", pid, name)
	if pod != "" {
		labels += ",k8s.pod.name=" + pod
	}
	s.add("hw.gpu.process.memory.usage", labels, float64(memory))
}

// gpuSamples is a scrape of all GPUs.
func (f *fixture) gpuSamples(at time.Time) string {
	if f.trouble == oddFigures {
		return f.oddSamples(at)
	}
	var all strings.Builder
	for i := range f.gpus {
		all.WriteString(f.samplesOf(i, at))
	}
	return all.String()
}

// the times since when something is wrong.
const (
	fullFor = 3 * time.Minute
	lostFor = 4 * time.Minute
	downFor = 2 * time.Minute
	linkFor = 90 * time.Second
)

func (f *fixture) since(d time.Duration, at time.Time) bool { return at.After(f.begun.Add(-d)) }

// samplesOf is a scrape of a GPU.
func (f *fixture) samplesOf(i int, at time.Time) string {
	s := &samples{id: fmt.Sprintf("hw.id=%s,hw.name=gpu%d", gpuID(i), i)}
	simulated := ""
	if f.simulated {
		simulated = "gpu.simulated=true"
	}
	model := models[i%len(models)]
	s.add("hw.gpu.info", "hw.model="+model.name+","+simulated, 1)
	k := f.step(at)
	if isLost := f.trouble == lostGPU && i == f.gpus-1 && f.since(lostFor, at); isLost {
		f.end(s, i, k, model.memory)
		return s.String()
	}
	use := wave(k, i)
	s.add("hw.gpu.state", "hw.state=healthy", 1)
	s.add("hw.gpu.state", "hw.state=lost", 0)
	isFull := (f.trouble == fullGPU || f.trouble == rushHour) && i%8 == min(1, f.gpus-1) && f.since(fullFor, at)
	isHot := f.trouble == fullGPU && i%8 == 4 && f.since(quick, at)
	temperature, power := 40+40*use, 80+350*use
	if isFull {
		use, temperature, power = 0.99, 83, 449
	}
	if isHot {
		temperature = 87
	}
	f.memoryOf(s, i, k, model.memory, isFull)
	s.add("hw.temperature", "hw.sensor_location=gpu", temperature)
	s.add("hw.temperature.limit", "hw.limit_type=high.degraded", 88)
	s.add("hw.power", "hw.gpu.power.scope=instant", power)
	s.add("hw.gpu.power.limit", "hw.limit_type=enforced", 450)
	switch gap := i%4 == 3; { // a minute without samples of the utilisation
	case gap && k < -9 && k > -13:
	case gap && k == -9:
		s.line("hw.gpu.utilization", "hw.gpu.task=general", "stale")
		s.line("hw.gpu.utilization.mean", "hw.gpu.task=general", "stale")
	default:
		s.add("hw.gpu.utilization", "hw.gpu.task=general", use)
		s.add("hw.gpu.utilization.mean", "hw.gpu.task=general", use)
	}
	held := func(reason string, is bool, since time.Duration, share float64) {
		seconds := 0.0
		if is {
			seconds = share * at.Sub(f.begun.Add(-since)).Seconds()
		}
		s.add("hw.gpu.throttle.time", "hw.gpu.throttle.reason="+reason, seconds)
	}
	held("sw_power_cap", isFull, fullFor, 0.12)
	held("hw_thermal", isHot, quick, 0.3)
	if f.trouble == deadLinks {
		for link := range 3 {
			up := 1.0
			if f.since(linkFor, at) {
				up = 0
			}
			s.add("hw.gpu.nvlink.state", fmt.Sprint("hw.gpu.nvlink.id=", link), up)
		}
	}
	return s.String()
}

// end marks the series of a GPU that is lost as stale, but for its state.
func (f *fixture) end(s *samples, i, k int, limit int64) {
	s.add("hw.gpu.state", "hw.state=healthy", 0)
	s.add("hw.gpu.state", "hw.state=lost", 1)
	of := &samples{id: s.id}
	f.memoryOf(of, i, k, limit, false)
	of.add("hw.temperature", "hw.sensor_location=gpu", 0)
	of.add("hw.temperature.limit", "hw.limit_type=high.degraded", 0)
	of.add("hw.power", "hw.gpu.power.scope=instant", 0)
	of.add("hw.gpu.power.limit", "hw.limit_type=enforced", 0)
	of.add("hw.gpu.utilization", "hw.gpu.task=general", 0)
	of.add("hw.gpu.utilization.mean", "hw.gpu.task=general", 0)
	for line := range strings.Lines(of.String()) {
		s.WriteString(line[:strings.LastIndex(line, " ")] + " stale\n")
	}
}

// memoryParts are what a GPU's processes hold, by the number of the scrape.
func (f *fixture) memoryParts(i, k int, limit int64, isFull bool) (comfyui, elastic, other int64) {
	if isFull {
		return limit * 72 / 100, limit * 2 / 100, limit * 26 / 100 * 98 / 100
	}
	elastic = limit / 5
	comfyui = int64(float64(limit)*(0.2+0.2*wave(k, i))) + elastic
	if f.serverOn(i) < 0 {
		return 0, 0, comfyui
	}
	return comfyui, elastic, 0
}

// memoryOf adds a GPU's memory and its processes.
func (f *fixture) memoryOf(s *samples, i, k int, limit int64, isFull bool) {
	comfyui, _, other := f.memoryParts(i, k, limit, isFull)
	used := comfyui + other + gib/2
	peak := used
	if k == -36 {
		peak = limit * 72 / 100
	}
	if isFull {
		used, peak = min(used, limit), limit*995/1000
	}
	s.add("hw.gpu.memory.limit", "", float64(limit))
	s.add("hw.gpu.memory.usage", "", float64(min(used, limit)))
	s.add("hw.gpu.memory.usage.max", "", float64(max(peak, used)))
	if f.trouble == noProcesses {
		return
	}
	if server := f.serverOn(i); server >= 0 {
		s.process(pidOf(server), "python3", "", comfyui)
	} else if isFull {
		s.process(911, "python", "render-2", comfyui)
	}
	switch {
	case isFull:
		s.process(977, "trainer", "finetune-7f9c", other)
	case other > 0:
		s.process(911, "python", "render-2", other)
	}
}

// readMemory is what a sampler reads of the GPUs of servers between two scrapes.
func (f *fixture) readMemory(at time.Time) {
	if f.trouble == oddFigures {
		return
	}
	for server := range min(f.servers, f.gpus) {
		i := f.gpuOf(server)
		limit := models[i%len(models)].memory
		isFull := (f.trouble == fullGPU || f.trouble == rushHour) && i%8 == min(1, f.gpus-1) && f.since(fullFor, at)
		comfyui, _, other := f.memoryParts(i, f.step(at), limit, isFull)
		f.MemoryRead(gpuID(i), min(comfyui+other+gib/2, limit), at)
	}
}

// logAt adds the log records of a time.
func (f *fixture) logAt(at time.Time) {
	const node = "host.name=gpu-node-07"
	if f.trouble != lostGPU {
		return
	}
	id := "hw.id=" + gpuID(f.gpus-1)
	switch f.begun.Sub(at) {
	case lostFor + time.Minute:
		f.Logs(sampletext.Logs(at, node, "hw.gpu.state{"+id+",state=unresponsive}"))
	case lostFor:
		xid := sampletext.Logs(at, node, "hw.gpu.xid{"+id+",hw.gpu.xid=#79}")
		xid.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).SetTraceID(sampletrace.TraceID(slowestID))
		f.Logs(xid)
		f.Logs(sampletext.Logs(at.Add(time.Millisecond), node, "hw.gpu.state{"+id+",state=lost}"))
	}
}

// oddSamples are of GPUs that lack figures, or have unusual ones.
func (f *fixture) oddSamples(at time.Time) string {
	bare := &samples{id: "hw.id=GPU-bare,hw.name=gpu0"}
	if !f.since(8*time.Minute, at) { // its samples have stopped
		bare.add("hw.gpu.info", "hw.model=NVIDIA A100-SXM4-80GB", 1)
	}
	mig := &samples{id: "hw.id=MIG-1,hw.name=gpu1/mig1"}
	mig.add("hw.gpu.info", "hw.model=NVIDIA A100-SXM4-80GB MIG 3g.40gb", 1)
	mig.add("hw.gpu.memory.limit", "", 40*gib)
	mig.add("hw.gpu.memory.usage", "", 0)
	long := &samples{id: "hw.id=GPU-long,hw.name=gpu15"}
	long.add("hw.gpu.info", "hw.model=NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 1)
	long.add("hw.gpu.state", "hw.state=healthy", 1)
	long.add("hw.gpu.memory.limit", "", 192*gib)
	long.add("hw.gpu.memory.usage", "", 192*gib)
	long.add("hw.gpu.utilization", "hw.gpu.task=general", 1)
	long.add("hw.gpu.utilization.mean", "hw.gpu.task=general", 1)
	long.add("hw.temperature", "hw.sensor_location=gpu", 104)
	long.add("hw.temperature.limit", "hw.limit_type=high.degraded", 105)
	long.add("hw.power", "hw.gpu.power.scope=instant", 1187)
	long.add("hw.gpu.row_remaps.failed", "", 1)
	seconds := at.Sub(f.begun.Add(-historyLength)).Seconds()
	long.add("hw.gpu.throttle.time", "hw.gpu.throttle.reason=hw_thermal", seconds)
	long.add("hw.gpu.throttle.time", "hw.gpu.throttle.reason=hw_power_brake", seconds/2)
	long.process(4194303, "a-process-with-a-name-that-goes-on-and-on-and-has-no-space-in-it-at-all", "a-deployment-of-a-team-with-a-long-name-7f9c6d5b4-x2x4z", 100*gib)
	long.process(2, "", "", 2*gib)
	long.process(3, "python", "", gib)
	long.process(4, "python", "", gib)
	long.process(5, "Xorg", "", 1<<20)
	return bare.String() + mig.String() + long.String()
}
