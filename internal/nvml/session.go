// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/internal/topic"
)

// State is a session's state of the driver.
type State int

const (
	// Absent means that the library or the driver is not there (yet); the session retries.
	Absent State = iota
	// Ready means that NVML is initialised.
	Ready
	// Mismatch means that the driver was upgraded under the loaded library. Only a new
	// process helps; the session retries, in case the driver is put back.
	Mismatch
	// Asleep means that NVML is closed so that GPUs without processes can sleep.
	Asleep
)

// Snapshot is what a session knows at one moment.
type Snapshot struct {
	State State
	// Err is why the state is not Ready.
	Err error
	// GPUs are all GPUs that were seen, up to MaxGPUs, by index; lost ones keep their place.
	GPUs []*GPU
	// Unidentified counts GPUs that are enumerated and whose identity could not be read;
	// LostUnidentified those of them that were lost.
	Unidentified, LostUnidentified int
	DriverVersion, CUDAVersion     string
	// Initializations counts successful nvmlInit calls.
	Initializations int
	// Simulated is true for the test library.
	Simulated bool
	// Enumerated is true once the GPUs of this initialisation are known.
	Enumerated bool
}

// MaxGPUs bounds the GPUs of a machine, those that were lost included.
const MaxGPUs = 256

// Timing holds a session's clocks. Zero values mean the defaults.
type Timing struct {
	// Rescan is the pause between two inspections of the machine: attempts to
	// initialise while the driver is absent, enumerations while it is there.
	// Default 5 s.
	Rescan time.Duration
	// Probe bounds one enumeration: GPUs that have not responded by then are added when
	// they do. Default 2 s.
	Probe time.Duration
	// Grace is how long an XID of the kernel's log waits for its event. Default 2 s.
	Grace time.Duration
	// Deadline is how long a call may take, whatever [Session.SetDeadline] says. Default:
	// what that says, or [DefaultDeadline].
	Deadline time.Duration
	// Idle is for how long no GPU must have had a process before they may sleep, and Suspend how
	// long they may need to. Defaults 1 min, 30 s.
	Idle, Suspend, Retry time.Duration
	// PCIDevices is where the kernel lists them. Default: [PCIDevices].
	PCIDevices string
	// KernelLog is the second source of XIDs. Default: [KernelLog].
	KernelLog string
	// Close bounds how long the end waits for calls under way. Default 1 s.
	Close time.Duration
	// Now is the clock. Default: [time.Now].
	Now func() time.Time
}

func (t Timing) orDefaults() Timing {
	t.Rescan = cmp.Or(t.Rescan, 5*time.Second)
	t.Probe = cmp.Or(t.Probe, 2*time.Second)
	t.Grace = cmp.Or(t.Grace, 2*time.Second)
	t.Close = cmp.Or(t.Close, time.Second)
	t.Idle = cmp.Or(t.Idle, time.Minute)
	t.Suspend = cmp.Or(t.Suspend, suspendTime)
	t.Retry = cmp.Or(t.Retry, retryTime)
	t.PCIDevices = cmp.Or(t.PCIDevices, PCIDevices)
	t.KernelLog = cmp.Or(t.KernelLog, KernelLog)
	if t.Now == nil {
		t.Now = time.Now
	}
	return t
}

// Session keeps NVML initialised and the GPUs enumerated. One goroutine, the
// keeper, makes all calls that belong to no GPU; each GPU has a worker. Both
// can hang in the driver: nothing else waits for them without a deadline.
type Session struct {
	lib    *Library
	timing Timing
	log    *zap.Logger

	wake      chan struct{}
	stop      chan struct{}
	inspected chan struct{}
	ended     chan struct{}

	once logonce.Tracker

	// xids and driverEvents publish what the driver reports, from goroutines of the
	// session.
	xids         topic.Topic[XIDEvent]
	driverEvents topic.Topic[DriverEvent]
	// hangs publishes GPUs that become unresponsive, and their ends.
	hangs topic.Topic[Hang]
	// deadline is how long a call may take, in ns; 0 if no receiver has said so.
	deadline atomic.Int64

	// watch is replaced by the keeper only.
	watch         atomic.Pointer[watch]
	needKernelLog atomic.Bool // a GPU refused to be registered for events

	watching sync.WaitGroup

	votes *sleepVotes
	sleep sleepiness // only the keeper uses it

	woken atomic.Bool // an inspection was requested
	// omitted are the GPUs beyond MaxGPUs, inspections those since every GPU was asked who it
	// is. Only the keeper uses them.
	omitted, inspections int

	// mu guards everything declared below.
	mu       sync.Mutex
	snapshot Snapshot
	slots    []*slot
	// retiring are the workers of indices that are no more, by index.
	retiring  map[int]*worker
	kernelLog *kernelLog
	covered   map[*GPU]bool // GPUs whose XIDs arrive as events
}

// slot is one index of the enumeration.
type slot struct {
	worker *worker
	gpu    *GPU
	// probing is true while a probe is under way, at most one per slot.
	probing bool
	// lost is true if the index exists and its GPU was gone before it was known.
	lost bool
}

func newSession(lib *Library, timing Timing, log *zap.Logger, votes *sleepVotes) *Session {
	s := &Session{
		retiring: map[int]*worker{}, votes: votes,
		lib: lib, timing: timing.orDefaults(), log: log,
		wake: make(chan struct{}, 1), stop: make(chan struct{}), inspected: make(chan struct{}), ended: make(chan struct{}),
	}
	go s.keep()
	s.watching.Go(s.watchCalls)
	return s
}

// Snapshot returns what is known now. It never waits for the driver.
func (s *Session) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	copied := s.snapshot
	copied.GPUs = slices.Clone(s.snapshot.GPUs)
	return copied
}

// Inspected is closed when the session has inspected the machine for the first time:
// from then on a snapshot has the GPUs.
func (s *Session) Inspected() <-chan struct{} { return s.inspected }

// Wake requests an inspection of the machine now: a reading found that a GPU or the
// driver is gone.
func (s *Session) Wake() {
	s.woken.Store(true)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// wakePause keeps GPUs that fail at every scrape from making the keeper inspect the
// machine without pause.
const wakePause = 500 * time.Millisecond

func (s *Session) keep() {
	defer close(s.ended)
	defer s.end()
	if !pause(s.stop, 0, nil) {
		return
	}
	s.inspect()
	close(s.inspected)
	for pause(s.stop, min(wakePause, s.timing.Rescan), nil) && pause(s.stop, max(s.timing.Rescan-wakePause, 0), s.wake) {
		s.inspect()
	}
}

// pause waits for a time, or until wake receives; false if done was closed meanwhile.
func pause(done <-chan struct{}, d time.Duration, wake <-chan struct{}) bool {
	select {
	case <-done:
		return false
	case <-wake:
	case <-time.After(d):
	}
	return true
}

// inspect brings the session up to date with the machine.
func (s *Session) inspect() {
	if !s.lib.keeper.TryLock() {
		return // the keeper of an ended session still hangs in the driver
	}
	defer s.lib.keeper.Unlock()
	if s.sleeps() {
		return
	}
	if s.Snapshot().State != Ready && !s.initialise() {
		return
	}
	err := s.enumerate()
	if IsDriverGone(err) {
		// Handles are stale. End this initialisation and begin another, now if
		// the driver is back already.
		s.markAbsent(err)
		if !s.closeWatch() {
			return // a call hangs: shutting NVML down would hang with it
		}
		_ = s.lib.shutdown()
		if !s.initialise() {
			return
		}
		err = s.enumerate()
	}
	s.ensureWatch()
	s.logEnumeration(err)
}

// logEnumeration logs that the GPUs cannot be enumerated, once for each reason, and
// that they can be again.
func (s *Session) logEnumeration(err error) {
	switch {
	case !s.once.ChangedError("enumerate", err):
	case err != nil:
		s.log.Warn("NVML cannot enumerate the GPUs; known GPUs are still scraped", zap.Error(err))
	default:
		s.log.Info("NVML enumerates the GPUs again")
	}
}

func (s *Session) initialise() bool {
	err := s.lib.init()
	if err != nil {
		s.markAbsent(err)
		return false
	}
	driver, _ := s.lib.driverVersion()
	cuda, _ := s.lib.cudaVersion()
	simulated := s.lib.Simulated()
	s.mu.Lock()
	s.snapshot.State, s.snapshot.Err = Ready, nil
	s.snapshot.DriverVersion, s.snapshot.CUDAVersion = driver, cuda
	s.snapshot.Simulated = simulated
	s.snapshot.Initializations++
	s.snapshot.Enumerated = false
	s.mu.Unlock()
	s.log.Info(
		"NVML initialised",
		zap.String("library", s.lib.Path()),
		zap.String("driver", driver),
		zap.String("cuda", cuda),
		zap.Bool("simulated", simulated),
	)
	return true
}

// markAbsent stores that the driver is absent, logs it once, and marks every GPU as lost.
func (s *Session) markAbsent(err error) {
	state := Absent
	if KindOf(err) == VersionMismatch {
		state = Mismatch
	}
	s.mu.Lock()
	known := s.snapshot.State == state && codeOf(s.snapshot.Err) == codeOf(err)
	s.snapshot.State, s.snapshot.Err = state, err
	s.snapshot.Simulated = s.snapshot.Simulated || s.lib.Simulated()
	s.snapshot.Enumerated = false
	s.snapshot.Unidentified, s.snapshot.LostUnidentified = 0, 0
	for _, c := range s.snapshot.GPUs {
		c.lose(err)
	}
	s.mu.Unlock()
	if known {
		return
	}
	switch {
	case state == Mismatch:
		s.log.Warn(
			"The NVIDIA driver was upgraded while this process runs, and a process cannot reload its NVML library: restart the collector",
			zap.Error(err),
		)
	case KindOf(err) == NoLibrary:
		s.log.Warn("Cannot load the NVML library; retrying. Install the NVIDIA driver, or set library_path if the library is in another folder",
			zap.String("library", s.lib.Path()), zap.String("reason", s.lib.loadError()), zap.Duration("interval", s.timing.Rescan))
	default:
		s.log.Warn("The NVIDIA driver is not loaded; retrying", zap.Error(err), zap.Duration("interval", s.timing.Rescan))
	}
}

// end stops the workers and, if none of them hangs, ends NVML: nvmlShutdown
// would hang with them.
func (s *Session) end() {
	s.closeKernelLog()
	s.mu.Lock()
	left := make([]*worker, 0, len(s.slots))
	for i, sl := range s.slots {
		left = append(left, sl.worker)
		s.lib.workers.release(i)
	}
	for i, w := range s.retiring {
		left = append(left, w)
		s.lib.workers.release(i)
	}
	s.slots, s.retiring = nil, map[int]*worker{}
	ready := s.snapshot.State == Ready
	s.mu.Unlock()
	if !s.closeWatch() || !s.await(left) {
		s.log.Warn("A call hangs in the NVIDIA driver; its thread is left behind")
		return
	}
	if ready {
		_ = s.lib.shutdown()
	}
}

// await waits for workers to end; false if one hangs.
func (s *Session) await(workers []*worker) bool {
	deadline := time.After(s.timing.Close)
	for _, w := range workers {
		select {
		case <-w.ended:
		case <-deadline:
			return false
		}
	}
	return true
}

// close stops the session. It waits for calls under way, though not for those
// that hang: they cannot be cancelled.
func (s *Session) close(ctx context.Context) {
	close(s.stop)
	s.watching.Wait()
	pause(s.ended, s.timing.Close+s.timing.Close/4, ctx.Done())
}
