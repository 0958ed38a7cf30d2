// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakekubelet"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// program starts a real process that does nothing, and returns its number.
func program(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func TestRealProcessesHaveTheirMemoryShareAndExecutable(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	worker, screen := program(t), program(t)
	gpus[0].SetProcesses(
		fakenvml.Process{PID: worker, Memory: 9 << 30, SM: 80, Enc: 25},
		fakenvml.Process{PID: screen, Memory: 100 << 20},
		fakenvml.Process{PID: screen, Memory: 100 << 20, Graphics: true}, // it also draws
		fakenvml.Process{PID: 1<<22 + 7, Memory: fakenvml.NotAvailable, SM: 101},
	)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.Processes.ProcPath = "/proc" }).ready(1)
	r.scrapeNow()
	m := r.scrapeNow()
	exe, err := filepath.EvalSymlinks(fmt.Sprintf("/proc/%d/exe", worker))
	require.NoError(t, err)
	p, ok := point(m, "hw.gpu.process.memory.usage", map[string]string{"process.pid": strconv.Itoa(worker)})
	require.True(t, ok)
	assert.EqualValues(t, 9<<30, p.IntValue())
	assert.Equal(t, filepath.Base(exe), p.Attributes().AsRaw()["process.executable.name"])
	for task, want := range map[string]float64{"general": 0.8, "encoder": 0.25, "decoder": 0} {
		p, ok := point(m, "hw.gpu.process.utilization", map[string]string{"process.pid": strconv.Itoa(worker), "hw.gpu.task": task})
		require.True(t, ok, task)
		assert.InDelta(t, want, number(p), 1e-9, task)
	}
	p, ok = point(m, "hw.gpu.process.utilization", map[string]string{"process.pid": strconv.Itoa(screen), "hw.gpu.task": "general"})
	require.True(t, ok, "an idle process is at 0")
	assert.InDelta(t, 0, number(p), 0)
	count := 0
	eachPoint(m, func(p pmetric.NumberDataPoint) {
		if pid, ok := p.Attributes().Get("process.pid"); ok && pid.Int() == int64(screen) {
			if _, isShare := p.Attributes().Get("hw.gpu.task"); !isShare {
				count++
			}
		}
	})
	assert.Equal(t, 1, count, "a process that computes and draws is one")
	_, ok = point(m, "hw.gpu.process.memory.usage", map[string]string{"process.pid": strconv.Itoa(1<<22 + 7)})
	assert.False(t, ok, "memory that the driver does not report has no sample")
}

func TestProcessThatEndsIsMarkedStaleOnce(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	first, second := fakenvml.Process{PID: 101, Memory: 1 << 30}, fakenvml.Process{PID: 102, Memory: 2 << 30}
	gpus[0].SetProcesses(first, second)
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	r.scrapeNow()
	gpus[0].SetProcesses(first)
	m := r.scrapeNow()
	ended := map[string]string{"process.pid": "102"}
	for _, name := range []string{"hw.gpu.process.memory.usage", "hw.gpu.process.utilization"} {
		p, ok := point(m, name, ended)
		require.True(t, ok, name)
		assert.True(t, p.Flags().NoRecordedValue(), name)
	}
	stays, _ := point(m, "hw.gpu.process.memory.usage", map[string]string{"process.pid": "101"})
	assert.False(t, stays.Flags().NoRecordedValue())
	_, ok := point(r.scrapeNow(), "hw.gpu.process.memory.usage", ended)
	assert.False(t, ok)
}

func TestProcessesBeyondTheLimitAreDroppedAndTheLargestStay(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	var all []fakenvml.Process
	for i := range 20 {
		all = append(all, fakenvml.Process{PID: 100 + i, Memory: int64(i+1) << 20})
	}
	gpus[0].SetProcesses(all...)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.Processes.Limit = 5 }).ready(1)
	m := r.scrapeNow()
	for i := range 20 {
		_, ok := point(m, "hw.gpu.process.memory.usage", map[string]string{"process.pid": strconv.Itoa(100 + i)})
		assert.Equal(t, i >= 15, ok, "process %d", i)
	}
}

func TestGPUWithoutProcessUtilizationHasProcessMemory(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	gpus[0].SetReturn("nvmlDeviceGetProcessUtilization", fakenvml.NotSupported)
	gpus[0].SetProcesses(fakenvml.Process{PID: 101, Memory: 1 << 30, SM: 10})
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	for range 3 {
		m := r.scrapeNow()
		_, ok := point(m, "hw.gpu.process.memory.usage", nil)
		assert.True(t, ok)
		_, ok = point(m, "hw.gpu.process.utilization", nil)
		assert.False(t, ok)
	}
	assert.EqualValues(t, 1, gpus[0].Calls("nvmlDeviceGetProcessUtilization"), "read once")
}

// containers makes a procfs in which each process is in a container of a pod, and
// the kubelet's log folder that names the pods.
func containers(t *testing.T, pods map[int]string) (proc, logs string) {
	t.Helper()
	proc, logs = t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(logs, "containers"), 0o750))
	for pid, pod := range pods {
		id := fmt.Sprintf("%064x", pid)
		dir := filepath.Join(proc, strconv.Itoa(pid))
		require.NoError(t, os.MkdirAll(dir, 0o750))
		stat := fmt.Sprintf("%d (python3) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n", pid)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600))
		cgroup := fmt.Sprintf("0::/kubepods.slice/kubepods-pod11111111_2222_3333_4444_%012x.slice/cri-containerd-%s.scope\n", pid, id)
		require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup"), []byte(cgroup), 0o600))
		require.NoError(t, os.Symlink("/nowhere", filepath.Join(logs, "containers", pod+"_photos_main-"+id+".log")))
	}
	return proc, logs
}

// TestPodsOfASharedGPUGetTheirOwnFigures has two pods that share a GPU by time. Each must
// have what its processes use, and not a copy of the GPU's figures.
func TestPodsOfASharedGPUGetTheirOwnFigures(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "h100-mig")
	var uuid, migUUID string
	proc, logs := containers(t, map[int]string{201: "a", 202: "b", 203: "part"})
	gpus[0].SetProcesses(
		fakenvml.Process{PID: 201, Memory: 3 << 30, SM: 20},
		fakenvml.Process{PID: 202, Memory: 5 << 30, SM: 70},
	)
	gpus[1].SetProcesses(fakenvml.Process{PID: 203, Memory: 1 << 30, MIG: true, GPUInstance: 2})
	kubelet := fakekubelet.New(t).Start(t)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) {
		c.Processes = ProcessesConfig{Limit: 64, ProcPath: proc, LogPath: logs, PodResources: kubelet.Socket, PodResourcesInterval: time.Second}
	}).ready(2)
	first := r.scrapeNow()
	gpu, _ := point(first, "hw.gpu.info", map[string]string{"hw.name": "gpu0"})
	uuid = gpu.Attributes().AsRaw()["hw.id"].(string)
	mig, _ := point(first, "hw.gpu.info", map[string]string{"hw.name": "gpu1/mig0"})
	migUUID = mig.Attributes().AsRaw()["hw.id"].(string)
	kubelet.Set(
		fakekubelet.Pod("photos", "a", "main", "nvidia.com/gpu.shared", uuid+"::0"),
		fakekubelet.Pod("photos", "b", "main", "nvidia.com/gpu.shared", uuid+"::1"),
		fakekubelet.Pod("photos", "part", "main", "nvidia.com/mig-3g.40gb", migUUID),
		fakekubelet.Pod("photos", "idle", "main", "nvidia.com/gpu", "nvidia1/gi3"),
	)
	m := r.until("the kubelet's answer is known", func(m pmetric.Metrics) bool {
		_, ok := point(m, "hw.gpu.allocated", map[string]string{"k8s.pod.name": "idle"})
		return ok
	})
	for pod, want := range map[string]struct {
		memory, share float64
		name          string
	}{
		"a": {3 << 30, 0.2, "gpu0"}, "b": {5 << 30, 0.7, "gpu0"}, "part": {1 << 30, -1, "gpu1/mig0"},
	} {
		at := map[string]string{"k8s.pod.name": pod, "k8s.namespace.name": "photos", "k8s.container.name": "main", "hw.name": want.name}
		p, ok := point(m, "hw.gpu.process.memory.usage", at)
		require.True(t, ok, pod)
		assert.InDelta(t, want.memory, number(p), 0, pod)
		at["hw.gpu.task"] = "general"
		p, ok = point(m, "hw.gpu.process.utilization", at)
		assert.Equal(t, want.share >= 0, ok, pod)
		if ok {
			assert.InDelta(t, want.share, number(p), 1e-9, pod)
		}
		delete(at, "hw.gpu.task")
		p, ok = point(m, "hw.gpu.allocated", at)
		require.True(t, ok, pod)
		assert.InDelta(t, 1, number(p), 0)
	}
	idle, _ := point(m, "hw.gpu.allocated", map[string]string{"k8s.pod.name": "idle"})
	assert.Equal(t, "gpu1/mig1", idle.Attributes().AsRaw()["hw.name"], "a pod that holds a device and runs nothing")

	// A lost GPU is still allocated; a pod that ends releases its device.
	gpus[0].SetLost(true)
	m = r.until("lost", func(m pmetric.Metrics) bool { return isUp(m, "gpu0") == 0 })
	p, ok := point(m, "hw.gpu.allocated", map[string]string{"k8s.pod.name": "a"})
	assert.True(t, ok && !p.Flags().NoRecordedValue())
	kubelet.Set()
	r.until("released", func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.allocated", map[string]string{"k8s.pod.name": "a"})
		return ok && p.Flags().NoRecordedValue()
	})
}

func TestResourceOfAGPUNamesTheOneContainerThatHoldsIt(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "l40s")
	kubelet := fakekubelet.New(t).Start(t)
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) {
		c.PerCardResource = true
		c.Processes.PodResources, c.Processes.PodResourcesInterval = kubelet.Socket, time.Second
	}).ready(2)
	kubelet.Set(
		fakekubelet.Pod("photos", "a", "main", "nvidia.com/gpu.shared", gpus[0].UUID()+"::0"),
		fakekubelet.Pod("photos", "b", "main", "nvidia.com/gpu.shared", gpus[0].UUID()+"::1"),
		fakekubelet.Pod("photos", "alone", "main", "nvidia.com/gpu", gpus[1].UUID()),
	)
	m := r.until("the kubelet's answer is known", func(m pmetric.Metrics) bool {
		_, ok := point(m, "hw.gpu.allocated", map[string]string{"k8s.pod.name": "alone"})
		return ok
	})
	for i, pod := range []any{nil, "alone"} {
		a := m.ResourceMetrics().At(i).Resource().Attributes().AsRaw()
		assert.Equal(t, gpus[i].UUID(), a["hw.id"])
		assert.Equal(t, pod, a["k8s.pod.name"])
		if pod != nil {
			assert.Equal(t, []any{"photos", "main"}, []any{a["k8s.namespace.name"], a["k8s.container.name"]})
		}
	}
}

func TestKubeletThatFailsIsLoggedOnceAndWhenItRespondsAgain(t *testing.T) {
	library.Machine(t, "l40s")
	kubelet := fakekubelet.New(t).Start(t)
	kubelet.Fail(errors.New("out of order"))
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) {
		c.Processes.PodResources, c.Processes.PodResourcesInterval = kubelet.Socket, time.Second
	}).ready(1)
	failing := func() int { return r.logs.FilterMessageSnippet("Cannot read from the kubelet").Len() }
	responds := func() int { return r.logs.FilterMessageSnippet("The kubelet reports again").Len() }
	require.Eventually(t, func() bool { return failing() == 1 }, 10*time.Second, 5*time.Millisecond)
	r.KubeletAnswered(errors.New("out of order, in other words"))
	assert.Equal(t, 1, failing())
	kubelet.Set()
	require.Eventually(t, func() bool { return responds() == 1 }, 10*time.Second, 5*time.Millisecond)
	r.KubeletAnswered(nil)
	assert.Equal(t, 1, responds())
}
