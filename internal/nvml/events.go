// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"maps"
	"slices"
	"sync"
	"time"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
	"go.uber.org/zap"
)

// XIDEvent is an error that the driver reported for a GPU.
type XIDEvent struct {
	GPU *GPU
	// XID is the driver's number of the error.
	XID  uint64
	Time time.Time
	// GPUInstance and ComputeInstance identify the MIG device, if InMIG.
	GPUInstance, ComputeInstance uint32
	InMIG                        bool
}

// EventKind is the kind of an event other than an XID (nvmlEventType in nvml.h).
type EventKind string

// driverEvents are the events that are registered for besides XIDs, where a GPU
// supports them. Changes of the performance state are left out: they come with
// every load, and hw.gpu.performance_state reports them.
var driverEvents = [...]struct {
	bit  uint64
	kind EventKind
}{
	{gonvml.EventTypeSingleBitEccError, "ecc_single_bit"},
	{gonvml.EventTypeDoubleBitEccError, "ecc_double_bit"},
	{gonvml.EventTypeClock, "clock_change"},
	{gonvml.EventTypePowerSourceChange, "power_source_change"},
	{gonvml.EventTypeSingleBitEccErrorStorm, "ecc_single_bit_storm"},
	{gonvml.EventTypeDramRetirementEvent, "dram_retirement"},
	{gonvml.EventTypeDramRetirementFailure, "dram_retirement_failure"},
	{gonvml.EventTypeNonFatalPoisonError, "poison_nonfatal"},
	{gonvml.EventTypeFatalPoisonError, "poison_fatal"},
	{gonvml.EventTypeGpuUnavailableError, "gpu_unavailable"},
	{gonvml.EventTypeGpuRecoveryAction, "recovery_action"},
}

// DriverEvent is an event of a GPU other than an XID.
type DriverEvent struct {
	GPU  *GPU
	Kind EventKind
	Time time.Time
}

// SubscribeEvents calls f for every event other than an XID, under the rules of
// [Session.SubscribeXIDs].
func (s *Session) SubscribeEvents(f func(DriverEvent)) (cancel func()) {
	cancel = s.driverEvents.Subscribe(f)
	s.Wake()
	return cancel
}

// waitSlice is how long one call waits for an event: the watch can end between two.
const waitSlice = 200 * time.Millisecond

// SubscribeXIDs calls f for every XID of every GPU from now on, from a goroutine of the
// session; f must not block. cancel ends the subscription.
func (s *Session) SubscribeXIDs(f func(XIDEvent)) (cancel func()) {
	cancel = s.xids.Subscribe(f)
	s.Wake() // the watch begins with the first subscriber
	return cancel
}

// watch waits for events in a goroutine of its own. It belongs to one
// initialisation: a reloaded driver gets a new one.
type watch struct {
	set   gonvml.EventSet
	stop  chan struct{}
	ended chan struct{}

	mu         sync.Mutex
	registered map[*GPU]int // by the GPU's generation
}

// ensureWatch starts the watch if there are subscribers, and registers GPUs that are new
// to it. GPUs that refuse are left out, and logged once.
func (s *Session) ensureWatch() {
	if !s.xids.HasSubscribers() && !s.driverEvents.HasSubscribers() {
		return
	}
	if s.watch.Load() == nil && !s.startWatch() {
		s.ensureKernelLog(true)
		return
	}
	s.ensureKernelLog(s.needKernelLog.Load())
	w, gpus := s.watch.Load(), s.Snapshot().GPUs
	w.retain(gpus)
	for _, c := range gpus {
		if c.Err() == nil {
			s.register(w, c)
		}
	}
}

// retain forgets the GPUs that the session has forgotten.
func (w *watch) retain(gpus []*GPU) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.registered) > len(gpus) {
		maps.DeleteFunc(w.registered, func(c *GPU, _ int) bool { return !slices.Contains(gpus, c) })
	}
}

func (s *Session) startWatch() bool {
	err := s.lib.need("nvmlDeviceRegisterEvents", "nvmlEventSetWait_v2|nvmlEventSetWait", "nvmlEventSetFree")
	var set gonvml.EventSet
	if err == nil {
		set, err = ask(s.lib, "nvmlEventSetCreate", s.lib.api, gonvml.Interface.EventSetCreate)
	}
	if err != nil {
		if s.once.First("events") {
			s.log.Warn("NVML does not report XIDs as events; the kernel log is read instead", zap.Error(err))
		}
		return false
	}
	w := &watch{set: set, stop: make(chan struct{}), ended: make(chan struct{}), registered: map[*GPU]int{}}
	s.watch.Store(w)
	go s.wait(w)
	return true
}

// register asks the GPU's worker to register the GPU: the call can hang.
func (s *Session) register(w *watch, c *GPU) {
	generation := c.Generation()
	w.mu.Lock()
	known, ok := w.registered[c]
	w.registered[c] = generation
	w.mu.Unlock()
	if ok && known == generation {
		return
	}
	c.Submit(func() {
		d := c.Device()
		types, _ := get(d, "nvmlDeviceGetSupportedEventTypes", gonvml.Device.GetSupportedEventTypes)
		err := result("nvmlDeviceRegisterEvents", d.handle.RegisterEvents(gonvml.EventTypeXidCriticalError|types&wantedEvents(), w.set))
		s.mu.Lock()
		if s.covered == nil {
			s.covered = map[*GPU]bool{}
		}
		if slices.Contains(s.snapshot.GPUs, c) {
			s.covered[c] = err == nil
		}
		s.mu.Unlock()
		if err != nil {
			s.log.Info(
				"The GPU does not report XIDs as events; the kernel log is read instead",
				zap.String("hw.id", c.Identity().UUID),
				zap.Error(err),
			)
			s.needKernelLog.Store(true)
			s.Wake()
		}
	})
}

func wantedEvents() (bits uint64) {
	for _, e := range &driverEvents {
		bits |= e.bit
	}
	return bits
}

// wait hands events on until the watch ends.
func (s *Session) wait(w *watch) {
	defer close(w.ended)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		data, code := w.set.Wait(uint32(waitSlice.Milliseconds()))
		switch code {
		case gonvml.SUCCESS:
			s.deliver(data)
		case gonvml.ERROR_TIMEOUT:
		default:
			// After a GPU is lost or the driver is unloaded the call fails at once: retry less often.
			pause(w.stop, waitSlice, nil)
		}
	}
}

func (s *Session) deliver(data gonvml.EventData) {
	s.mu.Lock()
	var gpu *GPU
	for _, c := range s.snapshot.GPUs {
		if c.Device().handle == data.Device {
			gpu = c
		}
	}
	k := s.kernelLog
	s.mu.Unlock()
	if gpu == nil { // a handle that is not the one of the enumeration
		uuid, err := Device{lib: s.lib, handle: data.Device}.UUID()
		if err != nil {
			s.log.Warn(
				"Received an event of an unknown GPU whose UUID cannot be read",
				zap.Uint64("type", data.EventType),
				zap.Uint64("data", data.EventData),
				zap.Error(err),
			)
			return
		}
		s.mu.Lock()
		gpu = s.find(uuid)
		s.mu.Unlock()
		if gpu == nil {
			return
		}
	}
	if data.EventType&gonvml.EventTypeXidCriticalError == 0 {
		s.publishDriverEvent(gpu, data.EventType)
		return
	}
	if k != nil {
		k.count(xidKey{gpu, data.EventData}, byEvent, s.timing.Now())
	}
	s.xids.Publish(XIDEvent{
		GPU: gpu, XID: data.EventData, Time: s.timing.Now(),
		GPUInstance: data.GpuInstanceId, ComputeInstance: data.ComputeInstanceId, InMIG: inMIG(gpu, data.GpuInstanceId),
	})
}

// inMIG reports whether an event names a MIG device: with MIG off, drivers answer 0 too.
func inMIG(gpu *GPU, gpuInstance uint32) bool {
	return gpuInstance != noInstance && gpu.Identity().MIG == MIGOn
}

// publishDriverEvent publishes each event that a bit of the type stands for.
func (s *Session) publishDriverEvent(gpu *GPU, bits uint64) {
	for _, e := range &driverEvents {
		if bits&e.bit != 0 {
			s.driverEvents.Publish(DriverEvent{GPU: gpu, Kind: e.kind, Time: s.timing.Now()})
		}
	}
}

// closeWatch ends the watch before NVML is shut down. It waits for the call that
// is under way, though not for one that hangs.
func (s *Session) closeWatch() (ended bool) {
	w := s.watch.Swap(nil)
	if w == nil {
		return true
	}
	close(w.stop)
	if pause(w.ended, s.timing.Close+waitSlice, nil) {
		return false
	}
	_ = w.set.Free()
	return true
}
