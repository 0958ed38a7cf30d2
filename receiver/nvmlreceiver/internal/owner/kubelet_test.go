// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
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

func TestAllocationsAreThoseOfTheKubeletsAnswer(t *testing.T) {
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
	r := New(Settings{Proc: "/proc", Socket: s.Socket, Interval: time.Second, Observer: new(answers), Now: time.Now})
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

// The kubelet's answer is protobuf from outside the collector: any bytes give allocations, each
// once, or an error.
func FuzzAllocations(f *testing.F) {
	for _, pod := range []*podresources.PodResources{
		fakekubelet.Pod("photos", "comfyui-0", "comfyui", "nvidia.com/gpu", "GPU-1"),
		fakekubelet.Pod("photos", "shared-a", "main", "nvidia.com/gpu.shared", "GPU-2::0", "GPU-2::1"),
		fakekubelet.Pod("", "", "", "nvidia.com/", "nvidia0/gi3", ""),
	} {
		raw, err := proto.Marshal(&podresources.ListPodResourcesResponse{PodResources: []*podresources.PodResources{pod, pod}})
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var list podresources.ListPodResourcesResponse
		if proto.Unmarshal(raw, &list) != nil {
			return
		}
		seen := map[Allocation]bool{}
		for _, a := range allocations(&list) {
			require.False(t, seen[a], "%v comes twice", a)
			seen[a] = true
			require.Equal(t, a.Device.UUID == "", a.Device.Minor >= 0)
		}
	})
}

// answers records what the resolver observed.
type answers struct {
	mu   sync.Mutex
	errs []error
}

func (a *answers) KubeletAnswered(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.errs = append(a.errs, err)
}

// counts is how many answers failed, and the last answer.
func (a *answers) counts() (failed int, last error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, err := range a.errs {
		last = err
		if err != nil {
			failed++
		}
	}
	return failed, last
}

func TestKubeletThatStartsLateFailsAndRestarts(t *testing.T) {
	s := fakekubelet.New(t, fakekubelet.Pod("photos", "comfyui-0", "comfyui", "nvidia.com/gpu", "GPU-1"))
	var observed answers
	k := startKubelet(s.Socket, 10*time.Millisecond, &observed)
	defer k.close()
	assert.Empty(t, k.allocations())
	s.Start(t)
	require.Eventually(t, func() bool { return len(k.allocations()) == 1 }, 10*time.Second, 5*time.Millisecond)
	failed, _ := observed.counts()
	assert.Zero(t, failed, "a host without a kubelet is not a failure")

	s.Fail(errors.New("not now"))
	require.Eventually(t, func() bool {
		failed, _ := observed.counts()
		return failed >= staleAfter && len(k.allocations()) == 0
	}, 10*time.Second, time.Millisecond, "an old answer is void in the end")
	_, last := observed.counts()
	require.ErrorContains(t, last, "not now")
	s.Set(fakekubelet.Pod("a", "b", "c", "nvidia.com/gpu", "GPU-1"))
	require.Eventually(t, func() bool {
		_, last := observed.counts()
		return len(k.allocations()) == 1 && last == nil
	}, 10*time.Second, time.Millisecond)
}
