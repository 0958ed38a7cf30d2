// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestASecondLibraryPathIsRefusedByName(t *testing.T) {
	library.Machine(t, "h100")
	sessions := NewSessions(fast)
	_, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	defer sessions.Release(context.Background())
	_, err = sessions.Acquire("/other/libnvidia-ml.so.1", zap.NewNop())
	require.ErrorContains(t, err, "library_path")
	require.ErrorContains(t, err, "/other/libnvidia-ml.so.1")
	require.ErrorContains(t, err, library.Path)
}

func TestStartAndEndWaitForNoHangInTheDriver(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].SetHang("nvmlInit_v2", true)
	sessions := NewSessions(fast)
	begin := time.Now()
	s, err := sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	assert.Equal(t, Absent, s.Snapshot().State)
	require.Eventually(t, func() bool { return gpus[0].Calls("nvmlInit_v2") == 1 }, 5*time.Second, time.Millisecond)
	sessions.Release(context.Background())
	assert.Less(t, time.Since(begin), 2*time.Second)

	// The next session sends no second thread after the one that hangs.
	first := s
	s, err = sessions.Acquire(library.Path, zap.NewNop())
	require.NoError(t, err)
	waited := time.Now()
	require.Eventually(t, func() bool { return time.Since(waited) > 5*fast.Rescan }, time.Second, fast.Rescan)
	assert.EqualValues(t, 1, gpus[0].Calls("nvmlInit_v2"))
	gpus[0].SetHang("nvmlInit_v2", false)
	waitFor(t, s, func(s Snapshot) bool { return s.Enumerated })
	sessions.Release(context.Background())
	select { // the keeper that hung ends too, before another test loads the library
	case <-first.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the keeper of the first session does not end")
	}
}

func TestGPUThatHangsAtTheStartKeepsNobodyWaiting(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "h100", "h100")
	gpus[1].SetHang("nvmlDeviceGetUUID", true)
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return s.Enumerated })
	assert.Len(t, snapshot.GPUs, 2)
	assert.Equal(t, 1, snapshot.Unidentified)
	gpus[1].SetHang("nvmlDeviceGetUUID", false)
	snapshot = waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 3 && s.Unidentified == 0 })
	for i, c := range snapshot.GPUs {
		assert.Equal(t, i, c.Identity().Index)
	}
}

func TestGPUWithoutUUIDIsKnownByItsPCIAddress(t *testing.T) {
	_, gpus := library.Machine(t, "h100")
	gpus[0].SetReturn("nvmlDeviceGetUUID", 999)
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 1 })
	assert.Equal(t, "00000000:01:00.0", snapshot.GPUs[0].Identity().UUID)
}

func TestRemovedGPUIsLostAndTheOthersKeepTheirs(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "h200", "l40s")
	s := acquire(t, library.Path)
	before := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 3 })
	generation := before.GPUs[2].Generation()
	gpus[0].SetPresent(false)
	waitFor(t, s, func(Snapshot) bool { return before.GPUs[0].Err() != nil })
	require.Eventually(t, func() bool { return before.GPUs[2].Identity().Index == 1 }, 5*time.Second, 5*time.Millisecond)
	assert.NoError(t, before.GPUs[1].Err())
	assert.NoError(t, before.GPUs[2].Err())
	assert.Equal(t, generation, before.GPUs[2].Generation(), "a GPU that only moved is not a new one")
	on(t, before.GPUs[2], func(d Device) {
		name, err := d.Name()
		require.NoError(t, err)
		assert.Equal(t, "NVIDIA L40S", name)
	})
	gpus[0].SetPresent(true)
	waitFor(t, s, func(Snapshot) bool { return before.GPUs[0].Err() == nil && before.GPUs[0].Identity().Index == 0 })
}

func TestEnumerationThatFailsIsSaidOnceAndTheGPUsAreReadOn(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "l40s")
	core, logs := observer.New(zap.InfoLevel)
	sessions := NewSessions(fast)
	s, err := sessions.Acquire(library.Path, zap.New(core))
	require.NoError(t, err)
	defer sessions.Release(context.Background())
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 2 })
	gpus[0].SetReturn("nvmlDeviceGetCount_v2", 999)
	calls := gpus[0].Calls("nvmlDeviceGetCount_v2")
	require.Eventually(t, func() bool { return gpus[0].Calls("nvmlDeviceGetCount_v2") > calls+5 }, 10*time.Second, 5*time.Millisecond)
	assert.Len(t, logs.FilterMessageSnippet("cannot enumerate").All(), 1)
	require.NoError(t, snapshot.GPUs[1].Err())
	on(t, snapshot.GPUs[1], func(d Device) {
		_, err := d.Temperature()
		require.NoError(t, err)
	})
	gpus[0].SetReturn("nvmlDeviceGetCount_v2", 0)
	require.Eventually(t, func() bool { return logs.FilterMessageSnippet("enumerates the GPUs again").Len() == 1 }, 10*time.Second, 5*time.Millisecond)
}

func TestLibraryThatIsNotThereIsAnOrdinaryState(t *testing.T) {
	sessions := NewSessions(fast)
	s, err := sessions.Acquire("/no/such/libnvidia-ml.so.1", zap.NewNop())
	require.NoError(t, err)
	defer sessions.Release(context.Background())
	snapshot := waitFor(t, s, func(s Snapshot) bool { return s.Err != nil })
	assert.Equal(t, NoLibrary, KindOf(snapshot.Err))
}

func TestLibraryThatTheLoaderDoesNotKnowIsFoundInTheUsualPlaces(t *testing.T) {
	library.Machine(t, "h100")
	places := usualPlaces
	usualPlaces = []string{"/no/such/libnvidia-ml.so.1", library.Path}
	defer func() { usualPlaces = places }()
	s := acquire(t, "")
	waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 1 })
	assert.Equal(t, library.Path, s.lib.Path())
}

func TestNumaNodeIsReadFromSysfs(t *testing.T) {
	devices := t.TempDir()
	for address, node := range map[string]string{"0000:3b:00.0": "1\n", "0000:01:00.0": "-1\n", "10000:01:00.0": "3\n"} {
		require.NoError(t, os.MkdirAll(filepath.Join(devices, address), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(devices, address, "numa_node"), []byte(node), 0o600))
	}
	assert.Equal(t, "1", numaNode(devices, "00000000:3B:00.0"))
	assert.Equal(t, "3", numaNode(devices, "00010000:01:00.0"))
	assert.Empty(t, numaNode(devices, "00000000:01:00.0"), "-1 is no node")
	assert.Empty(t, numaNode(devices, "00000000:99:00.0"))
	assert.Empty(t, numaNode(devices, ""))
}

func FuzzNumaNode(f *testing.F) {
	f.Add("00000000:01:00.0")
	f.Add("../../etc/passwd")
	devices := f.TempDir()
	f.Fuzz(func(t *testing.T, pci string) {
		assert.Empty(t, numaNode(devices, pci))
	})
}

func FuzzFieldNumber(f *testing.F) {
	f.Add(uint32(1), []byte{1, 2, 3, 4, 5, 6, 7, 8})
	f.Add(uint32(5), []byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, kind uint32, value []byte) {
		v := FieldValue{ValueType: kind}
		copy(v.Value[:], value)
		n, _ := FieldNumber(&v)
		if kind > 6 {
			assert.True(t, math.IsNaN(n), "an unknown type is not a number")
		}
	})
}

// TestEveryJobRunsWhileIndicesMove takes a GPU out and puts it back while jobs are
// given to its neighbours, whose indices and workers change with it: each that was
// taken is run, and none is refused.
func TestEveryJobRunsWhileIndicesMove(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "l40s", "l40s")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 3 })
	last := snapshot.GPUs[2]
	stop := make(chan struct{})
	var giving sync.WaitGroup
	var taken, ran, refused atomic.Int64
	for range 2 {
		giving.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if taken.Load()-ran.Load() > jobQueue/2 {
					runtime.Gosched() // its queue is to be refused for no other reason
					continue
				}
				if last.Submit(func() { ran.Add(1) }) {
					taken.Add(1)
				} else {
					refused.Add(1)
				}
			}
		})
	}
	for range 20 {
		gpus[0].SetPresent(false)
		waitFor(t, s, func(Snapshot) bool { return last.Identity().Index == 1 })
		gpus[0].SetPresent(true)
		waitFor(t, s, func(Snapshot) bool { return last.Identity().Index == 2 })
	}
	close(stop)
	giving.Wait()
	require.Eventually(t, func() bool { return ran.Load() == taken.Load() }, 10*time.Second, time.Millisecond, "%d of %d jobs ran", ran.Load(), taken.Load())
	assert.Zero(t, refused.Load())
	assert.Positive(t, taken.Load())
}

// TestJobsOfAGPUThatMovesRunOneAfterTheOther has a job under way while the GPU's index changes:
// what readers keep of a GPU belongs to its jobs, so that the next one, for another worker,
// waits for it.
func TestJobsOfAGPUThatMovesRunOneAfterTheOther(t *testing.T) {
	_, gpus := library.Machine(t, "h100", "l40s", "l40s")
	s := acquire(t, library.Path)
	snapshot := waitFor(t, s, func(s Snapshot) bool { return len(s.GPUs) == 3 })
	moves := snapshot.GPUs[1]
	began, release := make(chan struct{}), make(chan struct{})
	require.True(t, moves.Submit(func() { close(began); <-release }))
	<-began
	gpus[0].SetPresent(false)
	waitFor(t, s, func(Snapshot) bool { return moves.Identity().Index == 0 })
	var second atomic.Bool
	ended := make(chan struct{})
	require.True(t, moves.Submit(func() { second.Store(true); close(ended) }))
	inspected := func() { // twice whole, so that every worker has answered meanwhile
		gpus[0].SetPresent(true)
		waitFor(t, s, func(Snapshot) bool { return snapshot.GPUs[0].Err() == nil })
		gpus[0].SetPresent(false)
		waitFor(t, s, func(Snapshot) bool { return snapshot.GPUs[0].Err() != nil })
	}
	inspected()
	assert.False(t, second.Load(), "the first has not ended")
	close(release)
	<-ended
	waitFor(t, s, func(Snapshot) bool { // its own worker again, and the one that it left is ended
		moves.mu.Lock()
		defer moves.mu.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		return moves.next == nil && moves.worker == s.slots[0].worker && len(s.retiring) == 0
	})
}
