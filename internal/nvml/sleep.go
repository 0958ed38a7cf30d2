// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// This file lets GPUs sleep that can (runtime D3, in laptops and workstations): an open NVML
// session keeps them awake, and a question wakes them.

// PCIDevices is where the kernel says whether a device is suspended.
const PCIDevices = "/sys/bus/pci/devices"

// sleepiness is what the keeper knows of sleep. Only the keeper uses it.
type sleepiness struct {
	// used is when a GPU last had a process.
	used time.Time
	// closed is when the session was closed, and awake the fewest GPUs that have been awake
	// since: some never are suspended, such as one with a display.
	closed time.Time
	awake  int
	// awakeUntil is when the session may be closed again, after no GPU was suspended.
	awakeUntil time.Time
}

const (
	// suspendTime is how long a GPU may need to be suspended once nobody uses it.
	suspendTime = 30 * time.Second
	// retryTime is how long the session stays open after no GPU was suspended, and how long it
	// stays closed where some were and some are not: who is awake all the time may have got
	// work.
	retryTime = 10 * time.Minute
)

// sleepVotes are what the users of a session say about sleep.
type sleepVotes struct{ may, mustNot atomic.Bool }

func (v *sleepVotes) allowed() bool { return v.may.Load() && !v.mustNot.Load() }

// sleeps reports whether the machine is to be left alone in this inspection, so that its GPUs
// sleep or fall asleep. Only the keeper calls it.
func (s *Session) sleeps() bool {
	if !s.votes.allowed() {
		return false
	}
	now := s.timing.Now()
	switch s.Snapshot().State {
	case Asleep:
		return s.staysAsleep(now)
	case Ready:
		return s.fallAsleep(now)
	}
	if devices, suspended := suspendedGPUs(s.timing.PCIDevices); devices > 0 && suspended == devices {
		s.setAsleep(now) // at the start: opening NVML would wake them
		s.sleep.awake = 0
		return true
	}
	s.sleep.used = now
	return false
}

// staysAsleep reports whether the session stays closed.
func (s *Session) staysAsleep(now time.Time) bool {
	devices, suspended := suspendedGPUs(s.timing.PCIDevices)
	awake, fewest, closed := devices-suspended, s.sleep.awake, now.Sub(s.sleep.closed)
	s.sleep.awake = min(awake, fewest)
	switch {
	case awake > fewest: // one woke
	case awake == 0 && devices > 0:
		return true
	case closed < s.timing.Suspend: // they are about to
		return true
	case suspended == 0:
		s.sleep.awakeUntil = now.Add(s.timing.Retry)
		s.log.Info("GPUs were not suspended while idle; NVML reopened. Enable the driver's runtime D3 power management, or set sleep: keep")
	case closed < s.timing.Retry:
		return true
	}
	s.sleep.used = now
	return false
}

// fallAsleep closes NVML if no GPU has had a process for long enough.
func (s *Session) fallAsleep(now time.Time) bool {
	if s.anyProcess() || s.sleep.used.IsZero() {
		s.sleep.used = now
	}
	if now.Sub(s.sleep.used) < s.timing.Idle || now.Before(s.sleep.awakeUntil) {
		return false
	}
	gpus := s.Snapshot().GPUs
	s.setAsleep(now) // first, so that no scrape takes them for lost
	for _, gpu := range gpus {
		gpu.lose(errAsleep)
	}
	if !s.closeWatch() { // a call hangs: shutting NVML down would hang with it
		s.mu.Lock()
		s.snapshot.State, s.snapshot.Enumerated = Ready, false
		s.mu.Unlock()
		return false
	}
	_ = s.lib.shutdown()
	s.log.Info("No GPU has had a process for a while; NVML is closed so that they can sleep", zap.Duration("idle", s.timing.Idle))
	return true
}

// setAsleep forgets the GPUs: they are found again when they are awake.
func (s *Session) setAsleep(now time.Time) {
	s.sleep.closed, s.sleep.awake = now, math.MaxInt
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot.State, s.snapshot.Err, s.snapshot.GPUs = Asleep, nil, nil
	s.snapshot.Enumerated, s.snapshot.Unidentified, s.snapshot.LostUnidentified = true, 0, 0
	clear(s.covered)
	for _, sl := range s.slots {
		sl.gpu, sl.lost = nil, false
	}
}

// IsAsleep reports whether a GPU cannot be read because it may sleep.
func IsAsleep(err error) bool { return errors.Is(err, errAsleep) }

// anyProcess reports whether a GPU has a process, or does not say in time.
func (s *Session) anyProcess() bool {
	gpus := s.Snapshot().GPUs
	answers := make(chan bool, len(gpus))
	asked := 0
	for _, gpu := range gpus {
		job := func() {
			all, err := gpu.Device().Processes(nil)
			answers <- err != nil && !IsUnsupported(err) || len(all) > 0
		}
		if gpu.Err() == nil && gpu.Submit(job) {
			asked++
		}
	}
	deadline := time.After(s.timing.Probe)
	for range asked {
		select {
		case used := <-answers:
			if used {
				return true
			}
		case <-deadline:
			return true
		case <-s.stop:
			return true
		}
	}
	return false
}

// suspendedGPUs counts NVIDIA's GPUs by the kernel, and those that are suspended. It asks no
// driver.
func suspendedGPUs(folder string) (devices, suspended int) {
	all, _ := os.ReadDir(folder)
	for _, d := range all {
		const nvidia, display = "0x10de", "0x03"
		if read(folder, d.Name(), "vendor") != nvidia || !strings.HasPrefix(read(folder, d.Name(), "class"), display) {
			continue
		}
		devices++
		if read(folder, d.Name(), "power", "runtime_status") == "suspended" {
			suspended++
		}
	}
	return devices, suspended
}

// read reads one of the kernel's small files; empty if it cannot.
func read(path ...string) string {
	raw, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
