// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakekubelet"
)

func TestDeviceIDsOfEachPlugin(t *testing.T) {
	for text, want := range map[string]DeviceID{
		"GPU-aaaaaaaa-0000-4000-8000-000000000001":     {"GPU-aaaaaaaa-0000-4000-8000-000000000001", -1, -1},
		"GPU-aaaaaaaa-0000-4000-8000-000000000001::7":  {"GPU-aaaaaaaa-0000-4000-8000-000000000001", -1, -1},
		"MIG-bbbbbbbb-0000-4000-8000-000000000001":     {"MIG-bbbbbbbb-0000-4000-8000-000000000001", -1, -1},
		"MIG-GPU-aaaaaaaa-0000-4000-8000-00000001/3/0": {"MIG-GPU-aaaaaaaa-0000-4000-8000-00000001/3/0", -1, -1},
		"nvidia0":           {"", 0, -1},
		"nvidia12/gi3":      {"", 12, 3},
		"nvidia1/vgpu2":     {"", 1, -1},
		"gpu-4":             {"", 4, -1},
		"nvidia0/gi3/vgpu1": {"", 0, 3},
	} {
		got, ok := parseDeviceID(text)
		assert.True(t, ok, text)
		assert.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "nvidia", "GPU-", "nvidia0/x", "0000:01:00.0", "gpu-99999999999999999999"} {
		_, ok := parseDeviceID(text)
		assert.False(t, ok, text)
	}
}

func FuzzDeviceID(f *testing.F) {
	for _, seed := range []string{"GPU-1::0", "nvidia0/gi3", "gpu-1", "::", "MIG-GPU-a/1/2"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, ok := parseDeviceID(text)
		if ok && (d.UUID == "") == (d.Minor < 0) {
			t.Errorf("%q gives neither a UUID nor a number: %+v", text, d)
		}
	})
}

func TestAllocationsAreWhatTheKubeletSays(t *testing.T) {
	s := fakekubelet.New(t,
		fakekubelet.Pod("photos", "comfyui-0", "comfyui", "nvidia.com/gpu", "GPU-1"),
		fakekubelet.Pod("photos", "shared-a", "main", "nvidia.com/gpu.shared", "GPU-2::0", "GPU-2::1"),
		fakekubelet.Pod("photos", "shared-b", "main", "nvidia.com/gpu.shared", "GPU-2::2"),
		fakekubelet.Pod("photos", "part", "main", "nvidia.com/mig-1g.10gb", "MIG-3"),
		fakekubelet.Pod("photos", "network", "main", "intel.com/sriov", "0000:01:00.0"),
		&podresources.PodResources{Namespace: "photos", Name: "claims", Containers: []*podresources.ContainerResources{{
			Name: "main", DynamicResources: []*podresources.DynamicResource{{
				ClaimName: "gpu", ClaimResources: []*podresources.ClaimResource{
					{DriverName: "gpu.nvidia.com", PoolName: "node", DeviceName: "gpu-4"},
					{DriverName: "other.example.com", PoolName: "node", DeviceName: "gpu-5"},
				},
			}},
		}}})
	s.Start(t)
	r := New(Settings{Proc: "/proc", Socket: s.Socket, Interval: time.Second, Say: func(error) {}, Failed: func() {}})
	defer r.Close()
	require.Eventually(t, func() bool { return len(r.Allocations()) > 0 }, 10*time.Second, 5*time.Millisecond)
	assert.ElementsMatch(t, []Allocation{
		{"photos", "comfyui-0", "comfyui", DeviceID{"GPU-1", -1, -1}},
		{"photos", "shared-a", "main", DeviceID{"GPU-2", -1, -1}},
		{"photos", "shared-b", "main", DeviceID{"GPU-2", -1, -1}},
		{"photos", "part", "main", DeviceID{"MIG-3", -1, -1}},
		{"photos", "claims", "main", DeviceID{"", 4, -1}},
	}, r.Allocations())
}

func TestKubeletThatComesLateFailsAndRestarts(t *testing.T) {
	s := fakekubelet.New(t, fakekubelet.Pod("photos", "comfyui-0", "comfyui", "nvidia.com/gpu", "GPU-1"))
	var mu sync.Mutex
	var said []error
	var failed atomic.Int64
	k := startKubelet(s.Socket, 10*time.Millisecond, func(err error) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, err)
	}, func() { failed.Add(1) })
	defer k.end()
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(said)
	}
	assert.Empty(t, k.allocations())
	s.Start(t)
	require.Eventually(t, func() bool { return len(k.allocations()) == 1 }, 10*time.Second, 5*time.Millisecond)
	assert.Zero(t, count(), "a machine without a kubelet is nothing to talk about")

	s.Fail(errors.New("not now"))
	require.Eventually(t, func() bool { return failed.Load() >= 1 && count() == 1 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return failed.Load() >= staleAfter && len(k.allocations()) == 0 }, 10*time.Second, time.Millisecond, "an old answer is void in the end")
	s.Set(fakekubelet.Pod("a", "b", "c", "nvidia.com/gpu", "GPU-1"))
	require.Eventually(t, func() bool { return len(k.allocations()) == 1 && count() == 2 }, 10*time.Second, time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	require.ErrorContains(t, said[0], "not now")
	assert.NoError(t, said[1])
}
