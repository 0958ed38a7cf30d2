// SPDX-License-Identifier: Apache-2.0

// Package simulation puts the load of a photo service on the GPUs of the NVML
// test library, so that `make run` shows a living machine without a GPU: memory and
// time of a photo grow with its pixels, its load varies, the model is loaded on first
// use, the allocator keeps memory, and temperature, clocks and power follow. Photos
// arrive at random ([New]), or come from simulated ComfyUIs ([NewService]).
package simulation

import (
	"math"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/sharedgpu"
)

const mib = 1 << 20

// GPU is one simulated GPU at work.
type GPU struct {
	gpu     *fakenvml.GPU
	profile *fakenvml.Profile

	mu          sync.Mutex
	workers     []*worker
	temperature float64
	busy        bool
	throttled   bool
	throttledNs int64
	read        int64 // the load of the memory in %, as it was shown
	received    float64
	shown       time.Time
	history     *History
	slices      *sharedgpu.GPU // shares its time; nil has each process work as if it were alone
}

// Slice has the GPU's services share its time: of two that work at once each is half as fast. It is
// called before they work.
func (c *GPU) Slice() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slices = sharedgpu.New(c.room()*mib, 0, &sharedgpu.Latest{}) // only its time is used
}

// worker is one process that works on a GPU, on one photo at a time.
type worker struct {
	pid  int   // 0: none is shown
	held int64 // memory in MiB that the allocator keeps
	load segment
}

// newGPU puts a GPU at rest.
func newGPU(gpu *fakenvml.GPU, profile *fakenvml.Profile) *GPU {
	gpu.SetProcesses() // the profile's are other machines'
	return &GPU{gpu: gpu, profile: profile, temperature: float64(profile.Values["temperature_gpu"])}
}

// Remember keeps what the GPU does from now on.
func (c *GPU) Remember() *History {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = &History{}
	c.show(time.Now())
	return c.history
}

// join adds a process to those that work on the GPU.
func (c *GPU) join(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.workers = append(c.workers, w)
	c.show(time.Now())
}

// room is the GPU's memory in MiB that processes may use.
func (c *GPU) room() int64 {
	return c.profile.Values["memory_total"] - c.profile.Values["memory_reserved"] - c.profile.Values["memory_used"]
}

// free is the room that no process holds. The caller holds the lock.
func (c *GPU) free() int64 {
	left := c.room()
	for _, w := range c.workers {
		left -= w.held
	}
	return left
}

// put puts a process's load on the GPU: the allocator keeps the most memory that it
// was asked for, of what there is. The caller holds the lock.
func (c *GPU) put(w *worker, s segment, now time.Time) {
	w.load = s
	if s.memory > 0 {
		w.held = max(w.held, min(s.memory, w.held+c.free()))
	}
	c.show(now)
}

// show writes the GPU's present readings to the library. The caller holds the lock.
func (c *GPU) show(now time.Time) {
	held, gpu, bandwidth, power := int64(0), int64(0), int64(0), 0.0
	byPID := map[int]*fakenvml.Process{}
	var processes []*fakenvml.Process
	for _, w := range c.workers {
		held += w.held
		gpu, bandwidth, power = gpu+w.load.gpu, bandwidth+w.load.bandwidth, power+w.load.power
		if w.pid == 0 || w.held == 0 {
			continue
		}
		p := byPID[w.pid]
		if p == nil {
			p = &fakenvml.Process{PID: w.pid}
			byPID[w.pid] = p
			processes = append(processes, p)
		}
		p.Memory += w.held * mib
		p.SM = min(p.SM+w.load.gpu, 100)
	}
	if c.throttled {
		c.throttledNs += now.Sub(c.shown).Nanoseconds()
	}
	c.transfer(now.Sub(c.shown))
	c.shown, c.throttled, c.read = now, power > 1, bandwidth
	gpu, bandwidth, power = min(gpu, 100), min(bandwidth, 100), min(power, 1)
	rest := c.profile.Series["power"]
	watts := rest + int64(power*float64(c.profile.Values["power_limit_enforced"]-rest))
	used := (c.profile.Values["memory_used"] + held) * mib

	c.gpu.Set("memory_used", used)
	c.gpu.Step("gpu", gpu)
	c.gpu.Step("memory", bandwidth)
	c.gpu.Step("power", watts)
	c.gpu.SetField(throttleField, c.throttledNs, fakenvml.TypeUnsignedLL, fakenvml.Success)
	shown := make([]fakenvml.Process, len(processes))
	for i, p := range processes {
		shown[i] = *p
	}
	c.gpu.SetProcesses(shown...)
	c.profiling(gpu, bandwidth)
	c.clocks(gpu > 0)
	if c.history != nil {
		c.history.add(state{at: now.UnixNano(), memory: used, held: held * mib, watts: float64(watts) / 1000, gpu: float64(gpu) / 100, throttled: c.throttled})
	}
}

// Counters of PCIe bytes, by the number of their field.
const (
	pcieSentField     = 197
	pcieReceivedField = 198
)

// pcieBytes are the bytes in a second that models and images take to a GPU whose memory is
// fully loaded; a fifth comes back.
const pcieBytes = 2e9

// transfer counts the bytes over PCIe since the last readings, on GPUs that count them. The
// caller holds the lock.
func (c *GPU) transfer(passed time.Duration) {
	if _, counts := c.profile.Fields[pcieReceivedField]; !counts || c.shown.IsZero() {
		return
	}
	c.received += passed.Seconds() * pcieBytes * float64(min(c.read, 100)) / 100
	c.gpu.SetField(pcieReceivedField, int64(c.received), fakenvml.TypeUnsignedLL, fakenvml.Success)
	c.gpu.SetField(pcieSentField, int64(c.received/5), fakenvml.TypeUnsignedLL, fakenvml.Success)
}

// throttleField is NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_POWER_CAP, ns.
const throttleField = 74

// powerCap is nvmlClocksEventReasonSwPowerCap.
const powerCap = 4

// clocks sets what follows from whether the GPU has work.
func (c *GPU) clocks(busy bool) {
	reasons := c.profile.Values["throttle_reasons"]
	if busy {
		reasons = 0
		if c.throttled {
			reasons = powerCap
		}
	}
	c.gpu.Set("throttle_reasons", reasons)
	if busy == c.busy {
		return
	}
	c.busy = busy
	for _, clock := range []string{"graphics", "sm", "memory", "video"} {
		mhz := c.profile.Values["clock_"+clock]
		if busy {
			mhz = max(mhz, c.profile.Values["clock_max_"+clock]*9/10)
		}
		c.gpu.Set("clock_"+clock, mhz)
	}
	if busy {
		c.gpu.Set("performance_state", 2)
		c.gpu.Set("pcie_generation", c.profile.Values["pcie_generation_max"])
	} else {
		c.gpu.Set("performance_state", c.profile.Values["performance_state"])
		c.gpu.Set("pcie_generation", c.profile.Values["pcie_generation"])
	}
}

// profiling sets the GPM counters of GPUs that have them, in proportion to the
// load: image models keep the tensor units busy.
func (c *GPU) profiling(gpu, memory int64) {
	if len(c.profile.GPM) == 0 {
		return
	}
	for id, permille := range map[int]int64{1: 1000, 2: 950, 3: 450, 5: 600, 12: 60, 13: 20, 20: 0, 21: 0} {
		c.gpu.SetGPM(id, gpu*permille, fakenvml.Success)
	}
	c.gpu.SetGPM(10, memory*1000, fakenvml.Success)
}

// warm makes the temperature follow the load with a time constant of 20 s, and the fans the
// temperature. The caller
// holds the lock.
func (c *GPU) warm(passed time.Duration) {
	target := float64(c.profile.Values["temperature_gpu"])
	if c.busy {
		target += 32
	}
	c.temperature += (target - c.temperature) * (1 - math.Exp(-passed.Seconds()/20))
	c.gpu.Set("temperature_gpu", int64(math.Round(c.temperature)))
	if c.profile.Values["fan_count"] > 0 { // 2 % for each degree above rest
		rest := c.profile.Values["fan_speed"]
		c.gpu.Set("fan_speed", min(rest+int64(2*(c.temperature-float64(c.profile.Values["temperature_gpu"]))), 100))
	}
}
