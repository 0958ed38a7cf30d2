// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// xids subscribes and waits until the machine's GPUs are registered.
func xids(t *testing.T, s *Session, machineGPUs []*fakenvml.GPU) <-chan XIDEvent {
	t.Helper()
	events := make(chan XIDEvent, 100)
	t.Cleanup(s.SubscribeXIDs(func(e XIDEvent) { events <- e }))
	registered(t, machineGPUs)
	for _, c := range s.Snapshot().GPUs {
		on(t, c, func(Device) {}) // behind the registration in the GPU's queue
	}
	return events
}

func registered(t *testing.T, gpus []*fakenvml.GPU) {
	t.Helper()
	before := make([]int64, len(gpus))
	for i, c := range gpus {
		require.Eventually(t, func() bool { return c.Calls("nvmlDeviceRegisterEvents") > before[i] }, 10*time.Second, 5*time.Millisecond)
	}
}

func next(t *testing.T, events <-chan XIDEvent) XIDEvent {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
		return XIDEvent{}
	}
}

func TestXIDsReachTheSubscribersWithTheirGPU(t *testing.T) {
	machine, gpus := library.Machine(t, "h100", "l40s")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 2 })
	events := xids(t, s, gpus)
	machine.Event(1, fakenvml.EventXID, 79)
	e := next(t, events)
	assert.EqualValues(t, 79, e.XID)
	assert.Same(t, snapshot.GPUs[1], e.GPU)
}

func TestXIDsAreWatchedAgainAfterTheDriverWasReloaded(t *testing.T) {
	machine, gpus := library.Machine(t, "h100")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 1 })
	events := xids(t, s, gpus)
	calls := gpus[0].Calls("nvmlDeviceRegisterEvents")
	machine.LoadDriver()
	waitFor(t, s, func(s Snapshot) bool { return s.Initializations == 2 })
	require.Eventually(t, func() bool { return gpus[0].Calls("nvmlDeviceRegisterEvents") > calls }, 10*time.Second, 5*time.Millisecond)
	machine.Event(0, fakenvml.EventXID, 31)
	e := next(t, events)
	assert.EqualValues(t, 31, e.XID)
	assert.Same(t, snapshot.GPUs[0], e.GPU)
}

func TestGPUThatRefusesEventsIsReadFromTheKernelsLog(t *testing.T) {
	machine, gpus := library.Machine(t, "h100", "l40s")
	gpus[0].SetReturn("nvmlDeviceRegisterEvents", fakenvml.NotSupported)
	kmsg := filepath.Join(t.TempDir(), "kmsg")
	require.NoError(t, syscall.Mkfifo(kmsg, 0o600))
	log, err := os.OpenFile(kmsg, os.O_RDWR, 0) // a pipe with a writer has no end, as the kernel's log has none
	require.NoError(t, err)
	defer log.Close()
	timing := fast
	timing.KernelLog, timing.Grace = kmsg, 100*time.Millisecond
	sessions := NewSessions(timing)
	s, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { sessions.Release(context.Background()) })
	waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 2 })
	events := xids(t, s, gpus)
	machine.Event(1, fakenvml.EventXID, 48)
	assert.EqualValues(t, 48, next(t, events).XID)

	for _, line := range []string{
		"6,1,1,-;usb 1-1: new device",
		"4,3,3,-;NVRM: Xid (PCI:0000:01:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
	} {
		_, err := log.WriteString(line + "\n")
		require.NoError(t, err)
	}
	e := next(t, events)
	assert.EqualValues(t, 79, e.XID)
	assert.Same(t, s.Snapshot().GPUs[0], e.GPU)

	// A GPU with events: what both sources report is published once, and so is what is
	// only in the log.
	line := func(xid string) {
		_, err := log.WriteString("4,9,9,-;NVRM: Xid (PCI:0000:02:00): " + xid + ", pid=1, name=x\n")
		require.NoError(t, err)
	}
	line("31")
	machine.Event(1, fakenvml.EventXID, 31)
	line("119")
	assert.EqualValues(t, 31, next(t, events).XID)
	assert.EqualValues(t, 119, next(t, events).XID)
	line("62") // the sentinel: whatever was published twice would come before it
	assert.EqualValues(t, 62, next(t, events).XID)
}

func TestXIDLines(t *testing.T) {
	for line, want := range map[string]struct {
		pci string
		xid uint64
	}{
		"NVRM: Xid (PCI:0000:3b:00): 31, pid=12345, name=python, Ch 00000010":   {"0000:3b:00.0", 31},
		"NVRM: Xid (PCI:0000:86:00 GPU-I:05): 95, pid='<unknown>'":              {"0000:86:00.0", 95},
		"NVRM: Xid (0000:0A:00): 13, Graphics Exception":                        {"0000:0a:00.0", 13},
		"NVRM: Xid (PCI:00010000:01:00.0): 119, pid=1, Timeout after 6s of RPC": {"10000:01:00.0", 119},
	} {
		pci, xid, ok := parseXID("4,1,1,-;" + line)
		assert.True(t, ok, line)
		assert.Equal(t, want.pci, pci)
		assert.Equal(t, want.xid, xid)
	}
	_, _, ok := parseXID("NVRM: loading NVIDIA UNIX x86_64 Kernel Module")
	assert.False(t, ok)
}

func FuzzXIDLine(f *testing.F) {
	f.Add("NVRM: Xid (PCI:0000:3b:00): 31, pid=12345")
	f.Add("NVRM: Xid (): ,")
	f.Fuzz(func(t *testing.T, line string) {
		if pci, _, ok := parseXID(line); ok {
			assert.Contains(t, line, "NVRM: Xid")
			assert.Contains(t, pci, ":")
		}
	})
}
