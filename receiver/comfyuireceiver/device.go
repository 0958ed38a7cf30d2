// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/procfs"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// deviceAuto finds the GPU by the process that listens on the upstream's port.
const deviceAuto = "auto"

// isUUID reports whether a name is that of a GPU or of a part of one.
func isUUID(name string) bool { return gpuname.IsUUID(name) || gpuname.IsMIG(name) }

// deviceFinder tells which GPU a ComfyUI server uses.
type deviceFinder struct {
	wanted string
	index  int // the GPU's, if one was named by it; else -1
	port   uint64
	local  bool
	gpus   *gpusOf

	opened bool

	mu    sync.Mutex
	found string
	pid   int // of the server's process, once its GPU is found
	fake  bool
}

func newDeviceFinder(wanted string, base *url.URL, gpus *gpusOf) *deviceFinder {
	f := &deviceFinder{wanted: wanted, index: -1, gpus: gpus}
	if n, ok := gpuname.Index(wanted); ok {
		f.index = n
	} else if isUUID(wanted) {
		f.found = wanted
	}
	port := base.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[base.Scheme]
	}
	f.port, _ = strconv.ParseUint(port, 10, 16)
	f.local = onThisHost(base)
	return f
}

// id is the GPU's hw.id; empty while it is not known.
func (f *deviceFinder) id() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.found
}

// process is the server's process, if it is on this host and its GPU is known; else 0.
func (f *deviceFinder) process() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pid
}

func (f *deviceFinder) simulated() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fake
}

// How often the GPU is looked for. One that was found is looked for again: a server
// that restarts may get another one. A server has none before it has loaded a model.
const (
	lookEvery  = time.Second
	lookAgain  = 10 * time.Second
	firstLooks = time.Second // how long the start waits for NVML's first look
)

// begin opens NVML, and learns whether the GPUs are simulated before the first
// prompt can come.
func (f *deviceFinder) begin() {
	asks := f.index >= 0 || isUUID(f.wanted) || f.wanted == deviceAuto && f.findable()
	if !asks || !f.gpus.open() {
		return
	}
	f.opened = true
	f.gpus.wait(firstLooks)
	found := ""
	if f.index >= 0 {
		found = f.gpus.at(f.index)
	}
	f.note(found, 0, f.gpus.simulated())
}

// findable reports whether the server's process can be looked for.
func (f *deviceFinder) findable() bool { return f.local && f.port != 0 }

// end is for a start that failed.
func (f *deviceFinder) end() {
	if f.opened {
		f.gpus.close()
	}
}

func (f *deviceFinder) note(found string, pid int, fake bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if found != "" {
		f.found, f.pid = found, pid
	}
	f.fake = fake
}

func (f *deviceFinder) run(ctx context.Context) {
	switch {
	case f.opened:
		defer f.gpus.close()
	case !isUUID(f.wanted) || !f.findable():
		return // there is nothing to look for
	}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	var last time.Time
	for pid := 0; ; {
		if f.id() == "" || f.process() == 0 || time.Since(last) >= lookAgain {
			last = time.Now()
			if f.findable() {
				pid = processOn("/proc", f.port, pid)
			}
			found := f.id()
			switch {
			case f.index >= 0:
				found = f.gpus.at(f.index)
			case f.wanted == deviceAuto && pid != 0:
				found = f.gpus.of(ctx, pid)
			case f.wanted == deviceAuto:
				found = ""
			}
			f.note(found, pid, f.opened && f.gpus.simulated())
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// processOn is the process that listens on a TCP port; 0 if none can be told. The
// one that did before is looked at first: looking at all takes long on large
// machines.
func processOn(root string, port uint64, before int) int {
	fs, err := procfs.NewFS(root)
	if err != nil {
		return 0
	}
	inodes := map[string]bool{}
	const listen = 0x0A
	// These read files that everybody may read; a netlink socket would tell the same.
	for _, table := range []func() (procfs.NetTCP, error){fs.NetTCP, fs.NetTCP6} { //nolint:staticcheck // see above
		lines, err := table()
		if err != nil {
			continue
		}
		for _, line := range lines {
			if line.St == listen && line.LocalPort == port {
				inodes["socket:["+strconv.FormatUint(line.Inode, 10)+"]"] = true
			}
		}
	}
	if len(inodes) == 0 {
		return 0
	}
	holds := func(p procfs.Proc) bool {
		targets, err := p.FileDescriptorTargets()
		return err == nil && slices.ContainsFunc(targets, func(t string) bool { return inodes[t] }) // an error: another user's
	}
	if p, err := fs.Proc(before); before != 0 && err == nil && holds(p) {
		return before
	}
	all, err := fs.AllProcs()
	if err != nil {
		return 0
	}
	for _, p := range all {
		if holds(p) {
			return p.PID
		}
	}
	return 0
}
