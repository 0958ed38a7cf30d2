// SPDX-License-Identifier: Apache-2.0

package fakenvml

import (
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Return codes of NVML that tests set (nvmlReturn_t in nvml.h).
const (
	Success            = 0
	Uninitialized      = 1
	NotSupported       = 3
	NoPermission       = 4
	DriverNotLoaded    = 9
	GPUIsLost          = 15
	LibVersionMismatch = 18
	Unknown            = 999
)

// EventXID is nvmlEventTypeXidCriticalError.
const EventXID = 8

// Environment is the variable that names the state file to the library.
const Environment = "FAKENVML_STATE"

// State is the mapped file behind one simulated machine. Its methods may be
// called from several goroutines, except that one series has one writer.
type State struct {
	path   string
	layout *layout
	memory []byte
}

// Create writes a new state file of a machine without GPUs and with its driver
// loaded, and maps it.
func Create(path string) (*State, error) {
	l, err := newLayout()
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(l.size())); err != nil {
		return nil, err
	}
	s := &State{path: path, layout: l}
	if s.memory, err = syscall.Mmap(int(f.Fd()), 0, l.size(), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map %s: %w", path, err)
	}
	s.store(word, int64(l.size()))
	s.store(2*word, 1)
	s.store(3*word, 1)
	s.text(textsFrom, "595.71.05")
	s.text(textsFrom+textSize, "13.595.71.05")
	s.store(5*word, 13020)
	s.store(0, stateMagic)
	return s, nil
}

// Reset removes all GPUs and ends every fault; handles from before are stale.
func (s *State) Reset() {
	s.store(4*word, 0)
	for i := range maxGPUs { // let go of what hangs before the rest is cleared
		for _, f := range s.layout.functions {
			at := stateHeader + i*s.layout.gpuSize + s.layout.functionsAt + f*functionSize
			for j := range functionSize / word {
				s.store(at+j*word, 0)
			}
		}
	}
	s.LoadDriver()
	s.store(7*word, 0)
	for at := 8 * word; at < textsFrom; at += word {
		s.store(at, 0)
	}
	clear(s.memory[stateHeader:])
}

// Path is the file's name, the value of [Environment].
func (s *State) Path() string { return s.path }

// Close unmaps the file. The library's own mapping stays.
func (s *State) Close() error { return syscall.Munmap(s.memory) }

func (s *State) word(at int) *int64    { return (*int64)(unsafe.Pointer(&s.memory[at])) }
func (s *State) store(at int, v int64) { atomic.StoreInt64(s.word(at), v) }
func (s *State) load(at int) int64     { return atomic.LoadInt64(s.word(at)) }
func (s *State) text(at int, v string) {
	clear(s.memory[at : at+textSize])
	copy(s.memory[at:at+textSize-1], v)
}
func (s *State) index(m map[string]int, kind, name string) int {
	i, ok := m[name]
	if !ok {
		panic(fmt.Sprintf("fakenvml: fields.def has no %s %q", kind, name))
	}
	return i
}

// SetDriver names the driver's and NVML's version and the CUDA version (13020 for 13.2).
func (s *State) SetDriver(driver, nvml string, cuda int64) {
	s.text(textsFrom, driver)
	s.text(textsFrom+textSize, nvml)
	s.store(5*word, cuda)
}

// UnloadDriver makes every call answer DRIVER_NOT_LOADED.
func (s *State) UnloadDriver() { s.store(2*word, 0) }

// LoadDriver loads the driver again: handles from before are stale.
func (s *State) LoadDriver() {
	atomic.AddInt64(s.word(3*word), 1)
	s.store(2*word, 1)
}

// UpgradeDriver makes the loaded library older than the driver:
// LIB_RM_VERSION_MISMATCH until the process starts again.
func (s *State) UpgradeDriver() { s.store(2*word, 2) }

// SetClockOffset sets the driver's wall clock off against this machine's.
func (s *State) SetClockOffset(d time.Duration) { s.store(8*word, d.Nanoseconds()) }

// Lock makes calls take the time that they take on real drivers, one after another behind
// the driver's one lock; list is the time of a list of processes.
func (s *State) Lock(list time.Duration) {
	s.store(10*word, list.Nanoseconds())
	s.store(9*word, 1)
}

// Stall makes one of so many calls take longer, with the lock held. 0 ends that.
func (s *State) Stall(every int64, d time.Duration) {
	s.store(12*word, d.Nanoseconds())
	s.store(11*word, every)
}

// LockHeld is for how long the lock has been held. Of it, spun is the time for which the
// library used the CPU to mimic a driver that works.
func (s *State) LockHeld() (held, spun time.Duration) {
	return time.Duration(s.load(13 * word)), time.Duration(s.load(14 * word))
}

// Inits counts successful nvmlInit calls of all processes.
func (s *State) Inits() int64 { return s.load(6 * word) }

// AddGPU appends a GPU made from a profile. Its identity is derived from the
// index, so that GPUs of one profile differ.
func (s *State) AddGPU(p *Profile) *GPU {
	i := int(s.load(4 * word))
	if i >= maxGPUs {
		panic(fmt.Sprintf("fakenvml: no room for GPU %d", i))
	}
	c := &GPU{state: s, base: stateHeader + i*s.layout.gpuSize, index: i}
	p.apply(c)
	c.state.store(c.base, 1)
	s.store(4*word, int64(i+1))
	return c
}

// GPU returns a GPU that was added.
func (s *State) GPU(i int) *GPU {
	return &GPU{state: s, base: stateHeader + i*s.layout.gpuSize, index: i}
}

// Event makes one event happen on a GPU.
func (s *State) Event(gpu int, kind, data int64) {
	n := s.load(7 * word)
	at := textsFrom + 2*textSize + int(n%maxEvents)*eventSize
	s.store(at, int64(gpu))
	s.store(at+word, kind)
	s.store(at+2*word, data)
	s.store(7*word, n+1)
}

// GPU is one simulated GPU.
type GPU struct {
	state *State
	base  int
	index int
}

// Index is the GPU's place in the enumeration as long as none is removed.
func (c *GPU) Index() int { return c.index }

// Event makes one event happen on the GPU.
func (c *GPU) Event(kind, data int64) { c.state.Event(c.index, kind, data) }

// SetPresent removes a GPU from the enumeration, or puts it back.
func (c *GPU) SetPresent(present bool) { c.state.store(c.base, truth(present)) }

// SetLost makes every call on the GPU answer GPU_IS_LOST, or ends that.
func (c *GPU) SetLost(lost bool) { c.state.store(c.base+word, truth(lost)) }

// SetSamplingPeriods sets over what time utilisation and average power are
// averaged. Without a power period the average is the profile's own figure.
func (c *GPU) SetSamplingPeriods(utilisation, power time.Duration) {
	c.state.store(c.base+2*word, utilisation.Nanoseconds())
	c.state.store(c.base+3*word, power.Nanoseconds())
}

// SetText sets one of the TEXT lines of fields.def; empty text is NOT_SUPPORTED.
func (c *GPU) SetText(name, v string) {
	l := c.state.layout
	c.state.text(c.base+l.textsAt+c.state.index(l.texts, "TEXT", name)*textSize, v)
}

func (c *GPU) cell(name string) int {
	l := c.state.layout
	return c.base + l.valuesAt + c.state.index(l.values, "VALUE", name)*cellSize
}

// Set sets one of the VALUE lines of fields.def, in NVML's unit.
func (c *GPU) Set(name string, v int64) { c.state.store(c.cell(name), v) }

// Get reads one of the VALUE lines back.
func (c *GPU) Get(name string) int64 { return c.state.load(c.cell(name)) }

// Text reads one of the TEXT lines back.
func (c *GPU) Text(name string) string {
	l := c.state.layout
	at := c.base + l.textsAt + c.state.index(l.texts, "TEXT", name)*textSize
	text, _, _ := strings.Cut(string(c.state.memory[at:at+textSize]), "\x00")
	return text
}

// UUID is the GPU's, its hw.id.
func (c *GPU) UUID() string { return c.Text("uuid") }

// SetValueReturn makes readings of one VALUE answer a code, 0 for success.
func (c *GPU) SetValueReturn(name string, code int64) { c.state.store(c.cell(name)+word, code) }

// Value types of field values (nvmlValueType_t).
const (
	TypeDouble       = 0
	TypeUnsignedInt  = 1
	TypeUnsignedLong = 2
	TypeUnsignedLL   = 3
)

// SetField sets a field value (NVML_FI_*), its type and its return code.
func (c *GPU) SetField(id int, v, kind, code int64) {
	at := c.base + c.state.layout.fieldsAt + id*fieldSize
	c.state.store(at, v)
	c.state.store(at+word, code)
	c.state.store(at+2*word, kind)
}

func (c *GPU) function(name string) int {
	l := c.state.layout
	return c.base + l.functionsAt + c.state.index(l.functions, "FUNC", name)*functionSize
}

// SetReturn makes a function answer a code on this GPU, 0 for success. The
// library's own functions (nvmlInit_v2, …) are addressed through GPU 0.
func (c *GPU) SetReturn(function string, code int64) { c.state.store(c.function(function), code) }

// FailEveryCall makes every call on this GPU answer a code; the returned
// function puts the answers back.
func (c *GPU) FailEveryCall(code int64) (clear func()) {
	before := map[string]int64{}
	for name := range c.state.layout.functions {
		if strings.HasPrefix(name, "nvmlGpm") || strings.HasPrefix(name, "nvmlDevice") && name != "nvmlDeviceGetCount_v2" && name != "nvmlDeviceGetHandleByIndex_v2" {
			before[name] = c.state.load(c.function(name))
			c.SetReturn(name, code)
		}
	}
	return func() {
		for name, code := range before {
			c.SetReturn(name, code)
		}
	}
}

// SetDelay sets how long a function needs on this GPU.
func (c *GPU) SetDelay(function string, d time.Duration) {
	c.state.store(c.function(function)+word, d.Nanoseconds())
}

// SetDelayOnce sets how much longer the next call of a function takes on this GPU, without the
// driver's lock.
func (c *GPU) SetDelayOnce(function string, d time.Duration) {
	c.state.store(c.function(function)+4*word, d.Nanoseconds())
}

// AllCalls counts the calls on this GPU by their functions, without those of the library
// itself, which are addressed through GPU 0.
func (c *GPU) AllCalls() map[string]int64 {
	all := map[string]int64{}
	for name := range c.state.layout.functions {
		if ofGPU(name) {
			all[name] = c.Calls(name)
		}
	}
	return all
}

// ofGPU reports whether a function belongs to a GPU and not to the library.
func ofGPU(function string) bool {
	return strings.HasPrefix(function, "nvmlGpm") || strings.HasPrefix(function, "nvmlDevice") && function != "nvmlDeviceGetCount_v2"
}

// SetHang makes a function hang on this GPU until it is called with false.
func (c *GPU) SetHang(function string, hang bool) {
	c.state.store(c.function(function)+2*word, truth(hang))
}

// Calls counts the calls of a function on this GPU, over all processes.
func (c *GPU) Calls(function string) int64 { return c.state.load(c.function(function) + 3*word) }

// Step records that a quantity (SERIES in fields.def) has a value from now on.
func (c *GPU) Step(name string, v int64) { c.stepAt(name, v, monotonic()) }

func (c *GPU) stepAt(name string, v, at int64) {
	total := c.state.load(c.base + 4*word)
	if series, n := c.series(name); n > 0 {
		last := series + word + int((n-1)%maxSteps)*stepSize
		elapsed := float64(at-c.state.load(last)) / 1e9
		total = c.state.load(last+2*word) + int64(float64(c.state.load(last+word))*elapsed)
	}
	c.addStep(name, v, at, total)
}

func (c *GPU) series(name string) (at int, steps int64) {
	l := c.state.layout
	at = c.base + l.seriesAt + c.state.index(l.series, "SERIES", name)*seriesSize
	return at, c.state.load(at)
}

func (c *GPU) addStep(name string, v, at, total int64) {
	series, n := c.series(name)
	step := series + word + int(n%maxSteps)*stepSize
	c.state.store(step, at)
	c.state.store(step+word, v)
	c.state.store(step+2*word, total)
	c.state.store(series, n+1)
}

// SetEnergy sets the energy counter in mJ, as of now.
func (c *GPU) SetEnergy(mj int64) {
	series, n := c.series("power")
	if n == 0 {
		c.state.store(c.base+4*word, mj)
		return
	}
	last := series + word + int((n-1)%maxSteps)*stepSize
	c.addStep("power", c.state.load(last+word), monotonic(), mj)
}

// Freeze stops the energy counter at its value by setting the power to zero.
// Golden tests use it: everything else is constant by itself.
func (c *GPU) Freeze() { c.Step("power", 0) }

// MIGDevice describes one MIG device of a GPU, memory in bytes.
type MIGDevice struct {
	UUID                         string
	Name                         string
	GPUInstance, ComputeInstance int64
	MemoryTotal, MemoryUsed      int64
	MemoryReserved               int64
	// GPMPermille is the device's part of the GPU's GPM values.
	GPMPermille int64
}

// SetMIG switches MIG on with the devices given, or off without any.
func (c *GPU) SetMIG(devices ...MIGDevice) {
	if len(devices) > maxMIG {
		panic("fakenvml: too many MIG devices")
	}
	for i := range maxMIG {
		at := c.base + c.state.layout.migAt + i*migSize
		if i >= len(devices) {
			c.state.store(at, 0)
			continue
		}
		d := devices[i]
		for j, v := range []int64{d.GPUInstance, d.ComputeInstance, d.MemoryTotal, d.MemoryUsed, d.MemoryReserved, d.GPMPermille} {
			c.state.store(at+(j+1)*word, v)
		}
		c.state.text(at+7*word, d.UUID)
		c.state.text(at+7*word+textSize, d.Name)
		c.state.store(at, 1)
	}
	c.Set("mig_mode", truth(len(devices) > 0))
}

// SetGPM sets a GPM metric (nvmlGpmMetricId_t), in thousandths of its unit.
func (c *GPU) SetGPM(id int, thousandths, code int64) {
	at := c.base + c.state.layout.gpmAt + id*cellSize
	c.state.store(at, thousandths)
	c.state.store(at+word, code)
}

// NVLink is one link of a GPU.
type NVLink struct {
	Active bool
	// TxKiB and RxKiB are the data counters.
	TxKiB, RxKiB int64
	// Errors are by nvmlNvLinkErrorCounter_t: replay, recovery, CRC of flits, CRC
	// and ECC of data.
	Errors [5]int64
}

// SetNVLinks gives the GPU these links and no others.
func (c *GPU) SetNVLinks(links ...NVLink) {
	for i := range maxLinks {
		at := c.base + c.state.layout.linksAt + i*linkSize
		if i >= len(links) {
			c.state.store(at, 0)
			continue
		}
		for j, v := range append([]int64{1, truth(links[i].Active), links[i].TxKiB, links[i].RxKiB}, links[i].Errors[:]...) {
			c.state.store(at+j*word, v)
		}
	}
}

// Process is one process on a GPU.
type Process struct {
	PID      int
	Graphics bool
	// Memory is in bytes; [NotAvailable] is what the driver reports if it does not know.
	Memory int64
	// The MIG device; leave both at 0 and MIG off for a whole GPU.
	MIG                          bool
	GPUInstance, ComputeInstance int64
	// Shares in percent. A process with none has no sample.
	SM, Mem, Enc, Dec int64
}

// NotAvailable is NVML_VALUE_NOT_AVAILABLE.
const NotAvailable = -1

// SetProcesses puts these processes on the GPU and no others.
func (c *GPU) SetProcesses(processes ...Process) {
	if len(processes) > maxProcs {
		panic("fakenvml: too many processes")
	}
	for i := range maxProcs {
		at := c.base + c.state.layout.processesAt + i*processSize
		if i >= len(processes) {
			c.state.store(at, 0)
			continue
		}
		p := processes[i]
		if turns := at + 9*word; c.state.load(at) != int64(p.PID) {
			c.state.store(turns, 0)
			c.turn(turns, p.SM)
		} else if c.state.load(at+5*word) != p.SM {
			c.turn(turns, p.SM)
		}
		gi, ci := int64(-1), int64(-1)
		if p.MIG {
			gi, ci = p.GPUInstance, p.ComputeInstance
		}
		for j, v := range []int64{int64(p.PID), truth(p.Graphics), p.Memory, gi, ci, p.SM, p.Mem, p.Enc, p.Dec} {
			c.state.store(at+j*word, v)
		}
	}
}

// turn adds what a process uses of the SMs from now on.
func (c *GPU) turn(turns int, sm int64) {
	n := c.state.load(turns)
	at := turns + word + int(n%maxTurns)*turnSize
	c.state.store(at, monotonic())
	c.state.store(at+word, sm)
	c.state.store(turns, n+1)
}

// monotonic is the clock of the library: CLOCK_MONOTONIC in ns, the same for all
// processes of a machine.
func monotonic() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

func truth(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
