// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Allocation is one device that the kubelet allocated to one container.
type Allocation struct {
	Namespace, Pod, Container string
	Device                    DeviceID
}

// DeviceID is how a device plugin names a device.
type DeviceID struct {
	// UUID is the GPU's or the MIG device's; empty where the plugin counts.
	UUID string
	// Minor is the number in /dev/nvidia0; -1 where the UUID is known.
	Minor int
	// GPUInstance is a MIG device's GPU instance on the GPU Minor; -1 for a whole GPU.
	GPUInstance int
}

var (
	uuidDevice = regexp.MustCompile(`^(?:GPU|MIG)-[0-9A-Za-z/-]+$`)
	// nvidia0, nvidia0/gi3, nvidia0/vgpu1 (GKE); gpu-0 (NVIDIA's DRA driver).
	minorDevice = regexp.MustCompile(`^(?:nvidia|gpu-)(\d{1,4})(?:/gi(\d{1,4}))?(?:/vgpu\d{1,4})?$`)
)

// parseDeviceID understands the names of NVIDIA's device plugin (UUIDs, with a
// suffix ::n where GPUs are shared by time or by MPS), of Google's, and of
// NVIDIA's DRA driver.
func parseDeviceID(id string) (DeviceID, bool) {
	id, _, _ = strings.Cut(id, "::")
	if uuidDevice.MatchString(id) {
		return DeviceID{UUID: id, Minor: -1, GPUInstance: -1}, true
	}
	m := minorDevice.FindStringSubmatch(id)
	if m == nil {
		return DeviceID{}, false
	}
	d := DeviceID{GPUInstance: -1}
	d.Minor, _ = strconv.Atoi(m[1]) // at most four digits
	if m[2] != "" {
		d.GPUInstance, _ = strconv.Atoi(m[2])
	}
	return d, true
}

// nvidiaResource and nvidiaDriver identify NVIDIA's devices.
const (
	nvidiaResource = "nvidia.com/"
	nvidiaDriver   = "gpu.nvidia.com"
)

// allocations reads the kubelet's answer: each device of each container once,
// however many slices of it the container holds.
func allocations(list *podresources.ListPodResourcesResponse) []Allocation {
	var all []Allocation
	for _, pod := range list.GetPodResources() {
		for _, container := range pod.GetContainers() {
			add := func(id string) {
				if d, ok := parseDeviceID(id); ok {
					all = append(all, Allocation{Namespace: pod.GetNamespace(), Pod: pod.GetName(), Container: container.GetName(), Device: d})
				}
			}
			for _, devices := range container.GetDevices() {
				if strings.HasPrefix(devices.GetResourceName(), nvidiaResource) {
					for _, id := range devices.GetDeviceIds() {
						add(id)
					}
				}
			}
			for _, claimed := range container.GetDynamicResources() {
				for _, resource := range claimed.GetClaimResources() {
					if resource.GetDriverName() == nvidiaDriver {
						add(resource.GetDeviceName())
					}
				}
			}
		}
	}
	slices.SortFunc(all, func(a, b Allocation) int {
		return cmp.Or(
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container),
			cmp.Compare(a.Device.UUID, b.Device.UUID), cmp.Compare(a.Device.Minor, b.Device.Minor),
			cmp.Compare(a.Device.GPUInstance, b.Device.GPUInstance))
	})
	return slices.Compact(all)
}

const (
	// kubeletDeadline bounds one question.
	kubeletDeadline = 5 * time.Second
	// staleAfter is how many failed questions in a row make the last answer void.
	staleAfter = 6
	// maxAnswerBytes bounds the kubelet's answer.
	maxAnswerBytes = 16 << 20
	// MaxAllocations bounds the devices of containers. A node has a few hundred pods.
	MaxAllocations = 4096
)

// Observer is notified after each request to the kubelet; err is nil on success. It is
// called from a goroutine of the resolver, and not while there is no kubelet.
type Observer interface {
	KubeletAnswered(err error)
}

// omitted cuts an answer to MaxAllocations, which is an error.
func omitted(all *[]Allocation) error {
	over := len(*all) - MaxAllocations
	if over <= 0 {
		return nil
	}
	*all = (*all)[:MaxAllocations:MaxAllocations]
	return fmt.Errorf("the kubelet lists %d devices of containers; %d of them are omitted", over+MaxAllocations, over)
}

// Bounds implements [bounds.Registered]; nil holds nothing.
func (k *kubelet) Bounds() []bounds.Bound {
	return []bounds.Bound{{Name: "owner.kubelet.answer", Max: MaxAllocations, Size: len(k.allocations())}}
}

// kubelet asks the kubelet's PodResources API (v1, List) which container holds which
// device, from a goroutine of its own.
type kubelet struct {
	socket   string
	interval time.Duration
	observer Observer

	answer atomic.Pointer[[]Allocation]
	cancel context.CancelFunc
	done   chan struct{}
}

func startKubelet(socket string, interval time.Duration, observer Observer) *kubelet {
	k := &kubelet{socket: socket, interval: interval, observer: observer, done: make(chan struct{})}
	var ctx context.Context
	ctx, k.cancel = context.WithCancel(context.Background())
	go k.run(ctx)
	return k
}

func (k *kubelet) close() {
	k.cancel()
	<-k.done
}

// allocations is the last answer; nil without one.
func (k *kubelet) allocations() []Allocation {
	if k == nil {
		return nil
	}
	if a := k.answer.Load(); a != nil {
		return *a
	}
	return nil
}

func (k *kubelet) run(ctx context.Context) {
	defer close(k.done)
	conn, err := grpc.NewClient("unix://"+k.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)))
	if err != nil { // it connects with the first question
		k.observer.KubeletAnswered(err)
		return
	}
	defer conn.Close()
	ticker := time.NewTicker(k.interval)
	defer ticker.Stop()
	failures := 0
	for {
		list, err := k.ask(ctx, podresources.NewPodResourcesListerClient(conn))
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, fs.ErrNotExist): // no kubelet on this machine, or not yet
			k.answer.Store(nil)
			failures = 0
		case err != nil:
			if failures++; failures >= staleAfter {
				k.answer.Store(nil)
			}
			k.observer.KubeletAnswered(err)
		default:
			failures = 0
			all := allocations(list)
			over := omitted(&all)
			k.answer.Store(&all)
			k.observer.KubeletAnswered(over)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (k *kubelet) ask(ctx context.Context, client podresources.PodResourcesListerClient) (*podresources.ListPodResourcesResponse, error) {
	if _, err := os.Stat(k.socket); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, kubeletDeadline)
	defer cancel()
	return client.List(ctx, &podresources.ListPodResourcesRequest{}, grpc.WaitForReady(true))
}
