// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
)

// Settings are what the resolver reads.
type Settings struct {
	// Proc is the procfs of the host (in a container with the host's /proc mounted
	// elsewhere: there).
	Proc string
	// Logs is the folder with the kubelet's log folders; empty: not read.
	Logs string
	// Socket is the kubelet's PodResources socket; empty: not asked.
	Socket string
	// Interval is how often the kubelet is asked.
	Interval time.Duration
	// Observer is notified of the kubelet's answers.
	Observer Observer
	// Now is the clock.
	Now func() time.Time
}

// Resolver finds the owners of processes. Its methods may be called from any goroutine.
type Resolver struct {
	now     func() time.Time
	fs      procfs.FS
	fsErr   error // why the process table cannot be read
	pods    podNames
	kubelet *kubelet

	mu    sync.Mutex
	cache processCache // guarded by mu
}

// maxExecutable bounds the name of an executable, in bytes.
const maxExecutable = 256

// New starts a resolver. Close it in the end.
func New(s Settings) *Resolver {
	r := &Resolver{now: s.Now, pods: podNames{logs: s.Logs}, cache: newProcessCache()}
	if r.fs, r.fsErr = procfs.NewFS(s.Proc); r.fsErr != nil {
		r.fsErr = fmt.Errorf("the process table cannot be read: %w", r.fsErr)
	}
	if s.Socket != "" {
		r.kubelet = startKubelet(s.Socket, s.Interval, s.Observer)
	}
	return r
}

// Close ends the questions to the kubelet.
func (r *Resolver) Close() {
	if r.kubelet != nil {
		r.kubelet.close()
	}
}

// Allocations are the devices that the kubelet allocated to containers, by its last
// answer.
func (r *Resolver) Allocations() []Allocation { return r.kubelet.allocations() }

// Owner returns the owner of a process that runs on a device (its UUID). A process that
// has ended, or is in another PID namespace than the procfs, has none.
func (r *Resolver) Owner(pid int, device string) Owner {
	p, ok := r.process(pid)
	if !ok {
		return Owner{}
	}
	o := Owner{Executable: p.executable, ContainerID: p.cgroup.containerID}
	if p.cgroup.containerID == "" && p.cgroup.podUID == "" {
		return o // a process of the host
	}
	if name, ok := r.pods.find(p.cgroup, r.now()); ok {
		o.Namespace, o.Pod, o.Container = name.namespace, name.pod, name.container
		if o.Container == "" { // it is the one container of the pod that holds the device
			a, _ := r.onlyHolder(device, func(a Allocation) bool { return a.Namespace == name.namespace && a.Pod == name.pod })
			o.Container = a.Container
		}
		return o
	}
	if p.cgroup.podUID == "" && r.kubelet.allocations() == nil {
		return o // a container outside of Kubernetes
	}
	// Without the kubelet's folders, the device identifies the pod if one container
	// alone holds it. If several do, the pod stays empty.
	if a, ok := r.onlyHolder(device, func(Allocation) bool { return true }); ok && p.cgroup.podUID != "" {
		o.Namespace, o.Pod, o.Container = a.Namespace, a.Pod, a.Container
	}
	return o
}

// onlyHolder is the one allocation of the device that matches; false if there are none or
// several.
func (r *Resolver) onlyHolder(device string, matches func(Allocation) bool) (Allocation, bool) {
	holders := slices.DeleteFunc(slices.Clone(r.kubelet.allocations()), func(a Allocation) bool {
		return a.Device.UUID != device || !matches(a)
	})
	if len(holders) != 1 {
		return Allocation{}, false
	}
	return holders[0], true
}

// process reads what does not change while a process lives, once.
func (r *Resolver) process(pid int) (cached, bool) {
	if r.fsErr != nil {
		return cached{}, false
	}
	proc, err := r.fs.Proc(pid)
	if err != nil {
		return cached{}, false
	}
	stat, err := proc.Stat()
	if err != nil {
		return cached{}, false
	}
	r.mu.Lock()
	p, known := r.cache.find(pid)
	r.mu.Unlock()
	if !known || p.start != stat.Starttime {
		p = cached{pid: pid, start: stat.Starttime, executable: stat.Comm, cgroup: cgroupOf(proc)}
		if exe, err := proc.Executable(); err == nil && exe != "" {
			// The kernel marks a file that was replaced.
			p.executable = path.Base(strings.TrimSuffix(exe, " (deleted)"))
		}
		// A file may have any name: invalid UTF-8 would cost the whole batch elsewhere.
		p.executable = boundtext.Line(p.executable, maxExecutable)
	}
	p.used = r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cache.store(p)
	return p, true
}

// Omitted reports whether the folders of the kubelet had more names than are read.
func (r *Resolver) Omitted() bool {
	r.pods.mu.Lock()
	defer r.pods.mu.Unlock()
	return r.pods.omitted
}

// Bounds implements [bounds.Registered].
func (r *Resolver) Bounds() []bounds.Bound {
	r.mu.Lock()
	all := r.cache.Bounds()
	r.mu.Unlock()
	return append(append(all, r.pods.Bounds()...), r.kubelet.Bounds()...)
}

func cgroupOf(proc procfs.Proc) cgroupOwner {
	groups, err := proc.Cgroups()
	if err != nil {
		return cgroupOwner{}
	}
	paths := make([]string, 0, len(groups))
	for _, g := range groups {
		paths = append(paths, filepath.ToSlash(g.Path))
	}
	o := parseCgroups(paths)
	if o.containerID == "" {
		if mounts, err := proc.MountInfo(); err == nil {
			roots := make([]string, 0, len(mounts))
			for _, m := range mounts {
				roots = append(roots, m.Root)
			}
			o.containerID = parseMounts(roots)
		}
	}
	return o
}

// Check returns an error if the process table cannot be read.
func (r *Resolver) Check() error { return r.fsErr }
