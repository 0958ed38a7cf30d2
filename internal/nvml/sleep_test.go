// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// kernel is a folder as the kernel lists the PCI devices in, with one GPU.
type kernel struct{ folder string }

func newKernel(t *testing.T) kernel {
	t.Helper()
	k := kernel{t.TempDir()}
	for name, class := range map[string]string{"0000:01:00.0": "0x030200", "0000:01:00.1": "0x040300"} { // the GPU and its sound
		k.add(t, name, class)
	}
	return k
}

func (k kernel) add(t *testing.T, name, class string) {
	t.Helper()
	device := filepath.Join(k.folder, name)
	require.NoError(t, os.MkdirAll(filepath.Join(device, "power"), 0o750))
	require.NoError(t, os.WriteFile(filepath.Join(device, "vendor"), []byte("0x10de\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(device, "class"), []byte(class+"\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(device, "power", "runtime_status"), []byte("active\n"), 0o600))
}

func (k kernel) set(t *testing.T, status string) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(k.folder, "0000:01:00.0", "power", "runtime_status"), []byte(status+"\n"), 0o600))
}

// sleepy makes a session that closes NVML soon, if its users allow it.
func sleepy(t *testing.T, k kernel, suspend time.Duration, votes ...bool) *Session {
	t.Helper()
	sessions := NewSessions(Timing{Rescan: 10 * time.Millisecond, Idle: 100 * time.Millisecond, Suspend: suspend, Retry: time.Second, PCIDevices: k.folder})
	for _, allowed := range votes {
		sessions.AllowSleep(allowed)
	}
	s, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	t.Cleanup(func() { sessions.Release(context.Background()) })
	return s
}

func TestASessionLetsGPUsSleepThatHaveNoProcess(t *testing.T) {
	machine, gpus := library.Machine(t, "rtx-4080-super")
	gpus[0].SetProcesses(fakenvml.Process{PID: 7, Memory: 1 << 30})
	k := newKernel(t)
	s := sleepy(t, k, 5*time.Second, true)
	awake := func() bool { return s.Snapshot().State == Ready && len(s.Snapshot().GPUs) == 1 }
	require.Eventually(t, awake, 5*time.Second, time.Millisecond)
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) > 300*time.Millisecond }, 5*time.Second, time.Millisecond)
	assert.True(t, awake(), "a process keeps it awake")

	gpus[0].SetProcesses()
	require.Eventually(t, func() bool { return s.Snapshot().State == Asleep }, 5*time.Second, time.Millisecond)
	assert.Empty(t, s.Snapshot().GPUs)
	inits := machine.Inits()
	k.set(t, "suspended")
	calls := gpus[0].AllCalls()
	begin = time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) > 200*time.Millisecond }, 5*time.Second, time.Millisecond)
	assert.Equal(t, calls, gpus[0].AllCalls(), "nothing is asked while it is suspended")
	assert.Equal(t, inits, machine.Inits())

	gpus[0].SetProcesses(fakenvml.Process{PID: 8, Memory: 1 << 30})
	k.set(t, "active")
	require.Eventually(t, awake, 5*time.Second, time.Millisecond)
}

func TestASleepingGPUIsNotWokenByTheStart(t *testing.T) {
	machine, gpus := library.Machine(t, "rtx-4080-super")
	k := newKernel(t)
	k.set(t, "suspended")
	before := machine.Inits()
	s := sleepy(t, k, time.Second, true)
	require.Eventually(t, func() bool { return s.Snapshot().State == Asleep }, 5*time.Second, time.Millisecond)
	assert.Zero(t, gpus[0].Calls("nvmlDeviceGetUUID"))
	assert.Equal(t, before, machine.Inits())
}

func TestOneReceiverKeepsTheGPUsAwake(t *testing.T) {
	_, gpus := library.Machine(t, "rtx-4080-super")
	gpus[0].SetProcesses()
	s := sleepy(t, newKernel(t), time.Second, true, false)
	require.Eventually(t, func() bool { return len(s.Snapshot().GPUs) == 1 }, 5*time.Second, time.Millisecond)
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) > 300*time.Millisecond }, 5*time.Second, time.Millisecond)
	assert.Equal(t, Ready, s.Snapshot().State)
}

func TestNVMLIsOpenedAgainWhereNoGPUIsSuspended(t *testing.T) {
	machine, gpus := library.Machine(t, "rtx-4080-super")
	gpus[0].SetProcesses()
	before := machine.Inits()
	k := newKernel(t)
	sleepy(t, k, 50*time.Millisecond, true)
	require.Eventually(t, func() bool { return machine.Inits() == before+2 }, 5*time.Second, time.Millisecond, "opened, closed, opened")
	begin := time.Now()
	require.Eventually(t, func() bool { return time.Since(begin) > 300*time.Millisecond }, 5*time.Second, time.Millisecond)
	assert.Equal(t, before+2, machine.Inits(), "and not closed again soon")
}

// One GPU is suspended and one, with a display, never is.
func TestAGPUThatIsNeverSuspendedDoesNotWakeTheOthers(t *testing.T) {
	machine, gpus := library.Machine(t, "rtx-4080-super", "rtx-4080-super")
	for _, g := range gpus {
		g.SetProcesses()
	}
	k := newKernel(t)
	k.add(t, "0000:02:00.0", "0x030000")
	before := machine.Inits()
	s := sleepy(t, k, 200*time.Millisecond, true)
	asleep := func() bool { return s.Snapshot().State == Asleep }
	require.Eventually(t, asleep, 5*time.Second, time.Millisecond)
	k.set(t, "suspended")
	closed := time.Now()
	require.Eventually(t, func() bool { return time.Since(closed) > 500*time.Millisecond }, 5*time.Second, time.Millisecond)
	assert.True(t, asleep(), "the other one stays as it was")
	assert.Equal(t, before+1, machine.Inits())

	require.Eventually(t, func() bool { return machine.Inits() == before+2 }, 5*time.Second, time.Millisecond, "it may have got work since")
	assert.Greater(t, time.Since(closed), 500*time.Millisecond)
	k.set(t, "active")
	require.Eventually(t, asleep, 5*time.Second, time.Millisecond)
	k.set(t, "suspended")
	closed = time.Now()
	require.Eventually(t, func() bool { return time.Since(closed) > 100*time.Millisecond }, 5*time.Second, time.Millisecond)
	require.True(t, asleep())
	k.set(t, "active")
	require.Eventually(t, func() bool { return machine.Inits() == before+3 }, 500*time.Millisecond, time.Millisecond, "it woke")
}
