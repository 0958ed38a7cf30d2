// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/procfs"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/memory"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// deviceAuto finds the GPU by the process that listens on the upstream's port.
const deviceAuto = "auto"

// isUUID reports whether a name is the UUID of a GPU or of a MIG device.
func isUUID(name string) bool { return gpuname.IsUUID(name) || gpuname.IsMIG(name) }

// deviceFinder finds the GPU that a ComfyUI server uses. Its exported methods may be
// called from any goroutine.
type deviceFinder struct {
	setting string
	// index is the GPU's index if that is configured, else -1.
	index int
	port  uint64
	// findable is true if the server's process can be found: it runs on this host.
	findable bool
	gpus     *gpuProcesses
	opened   bool // gpus is open
	isolated bool // there is no NVML
	now      func() time.Time

	found atomic.Pointer[spans.Device] // by the last search
}

func newDeviceFinder(setting string, base *url.URL, gpus *gpuProcesses, now func() time.Time) *deviceFinder {
	f := &deviceFinder{setting: setting, index: -1, gpus: gpus, now: now}
	f.found.Store(&spans.Device{})
	if n, ok := gpuname.Index(setting); ok {
		f.index = n
	} else if isUUID(setting) {
		f.found.Store(&spans.Device{ID: setting})
	}
	f.port, _ = strconv.ParseUint(cmp.Or(base.Port(), map[string]string{"http": "80", "https": "443"}[base.Scheme]), 10, 16)
	f.findable = onThisHost(base) && f.port != 0
	return f
}

// isolate has the finder take the configured GPU and a process for the server's.
func (f *deviceFinder) isolate(pid int) {
	f.isolated = true
	f.found.Store(&spans.Device{ID: f.setting, PID: pid})
}

// Device implements [spans.DeviceFinder].
func (f *deviceFinder) Device() spans.Device { return *f.found.Load() }

const (
	// searchInterval is how often a GPU is searched that is not found yet: a server uses
	// none before it has loaded a model.
	searchInterval = time.Second
	// verifyInterval is how often a GPU that was found is verified: a server that restarts
	// may get another one.
	verifyInterval = 10 * time.Second
	// maxInspection is how long start waits for NVML's first inspection of the GPUs.
	maxInspection = time.Second
)

// begin opens NVML, and finds out whether the GPUs are simulated before the first prompt
// can arrive.
func (f *deviceFinder) begin() {
	needsNVML := f.index >= 0 || isUUID(f.setting) || f.setting == deviceAuto && f.findable
	if !needsNVML || f.isolated || !f.gpus.open() {
		return
	}
	f.opened = true
	f.gpus.wait(maxInspection)
	f.set(0, f.gpus.at(f.index))
}

// set stores a result; no GPU leaves the last ones.
func (f *deviceFinder) set(pid int, ids ...string) {
	found := f.Device()
	if ids = slices.DeleteFunc(ids, func(id string) bool { return id == "" }); len(ids) > 0 {
		found.ID, found.IDs, found.PID = ids[0], ids, pid
	}
	found.Simulated = f.opened && f.gpus.simulated()
	f.found.Store(&found)
}

// run searches until ctx ends, and then closes what begin has opened.
func (f *deviceFinder) run(ctx context.Context) {
	switch {
	case f.opened:
		defer f.gpus.close()
	case !isUUID(f.setting) || !f.findable:
		// there is nothing to search for
		return
	}
	var last time.Time
	pid := 0
	every(ctx, searchInterval, func() {
		if now, found := f.now(), f.Device(); found.ID == "" || found.PID == 0 || now.Sub(last) >= verifyInterval {
			last = now
			pid = f.search(ctx, pid)
		}
	})
}

// search finds the server's process and GPU; before is the process of the last search.
func (f *deviceFinder) search(ctx context.Context, before int) (pid int) {
	if f.findable {
		pid = processOn("/proc", f.port, before)
	}
	ids := []string{f.Device().ID}
	switch {
	case f.index >= 0:
		ids = []string{f.gpus.at(f.index)}
	case f.setting == deviceAuto && pid != 0:
		ids = f.gpus.of(ctx, pid)
	case f.setting == deviceAuto:
		ids = nil
	}
	f.set(pid, ids...)
	return pid
}

// verified is after what time the server's process may be another one.
func (f *deviceFinder) verified() time.Duration {
	switch {
	case !f.opened || !f.findable:
		return time.Hour
	case f.Device().PID == 0:
		return searchInterval
	}
	return verifyInterval
}

// process is the server's process; the zero value if it is unknown.
func (f *deviceFinder) process() memory.Process {
	pid := f.Device().PID
	if pid == 0 {
		return memory.Process{}
	}
	p, err := procfs.NewProc(pid)
	if err != nil {
		return memory.Process{}
	}
	stat, err := p.Stat()
	if err != nil {
		return memory.Process{}
	}
	return memory.Process{PID: pid, Started: stat.Starttime}
}

// memory is the memory of the server's process in bytes, by the last list of the GPU's
// processes, and when that was read; ok is false if it is unknown.
func (f *deviceFinder) memory() (bytes uint64, at time.Time, ok bool) {
	d := f.Device()
	if !f.opened || d.PID == 0 || d.ID == "" {
		return 0, time.Time{}, false
	}
	return f.gpus.memory(d.ID, d.PID)
}

// readProcesses reads the list of the GPU's processes.
func (f *deviceFinder) readProcesses(ctx context.Context) {
	if d := f.Device(); f.opened && d.PID != 0 && d.ID != "" {
		f.gpus.list(ctx, d.ID)
	}
}

// processOn returns the process that listens on a TCP port; 0 if none is found. The
// process that did before is checked first, since a host may have many.
func processOn(root string, port uint64, before int) int {
	fs, err := procfs.NewFS(root)
	if err != nil {
		return 0
	}
	inodes := map[string]bool{}
	const listen = 0x0A
	// These read files that every user may read; a netlink socket would need more.
	for _, table := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} { //nolint:staticcheck // see above
		lines, _ := table() // none without IPv6
		for _, line := range lines {
			if line.St == listen && line.LocalPort == port {
				inodes["socket:["+strconv.FormatUint(line.Inode, 10)+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return 0
	}
	all, err := fs.AllProcs()
	if err != nil {
		return 0
	}
	if p, err := fs.Proc(before); err == nil {
		all = slices.Insert(all, 0, p)
	}
	for _, p := range all {
		targets, err := p.FileDescriptorTargets()
		// an error: the process of another user
		if err == nil && slices.ContainsFunc(targets, func(t string) bool { return inodes[t] }) {
			return p.PID
		}
	}
	return 0
}
