// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gpuname"
)

// Identity describes a GPU. It changes only when the GPU comes back.
type Identity struct {
	// UUID is nvmlDeviceGetUUID, or the PCI address where that cannot be read.
	UUID string
	// Index is NVML's; it changes when other GPUs come and go.
	Index                                                   int
	PCIBusID, Model, Architecture, Serial, BoardPart, VBIOS string
	// NUMANode is the host's, from sysfs; empty where unknown.
	NUMANode string
	// MIG is [MIGOn] or [MIGOff], empty where the GPU cannot be divided.
	MIG string
	// Minor is the number in /dev/nvidia0; -1 where unknown.
	Minor int
}

// The values of Identity.MIG.
const (
	MIGOn  = "enabled"
	MIGOff = "disabled"
)

// ga100 matches the products with the chip GA100.
var ga100 = regexp.MustCompile(`\bA100\b|\bA800\b|\bA30\b|\bA30X\b|\bA100X\b|CMP 170HX`)

// HasInstantPower reports whether [Device.PowerUsage] is the present power: before Ampere and
// on GA100; on others it is an average over a second (nvmlDeviceGetPowerUsage).
func (i *Identity) HasInstantPower() bool {
	switch i.Architecture {
	case "Kepler", "Maxwell", "Pascal", "Volta", "Turing":
		return true
	case "Ampere":
		return ga100.MatchString(i.Model)
	}
	return false
}

// GPU is one GPU that the session has seen, present or lost. Its methods may
// be called from any goroutine.
type GPU struct {
	mu       sync.Mutex
	identity Identity
	device   Device
	// worker runs the GPU's jobs, open is how many wait or run there. next is the worker of the
	// index that the GPU has moved to, nil if it is worker: the jobs of a GPU never run beside
	// each other, so that next takes over when none is open.
	worker, next *worker
	open         int
	// listed has a lock of its own.
	listed processList
	// err is why the GPU is not present; nil while it is.
	err error
	// generation counts how often the GPU was found again, after it was lost or the driver
	// was reloaded: what it supports may have changed.
	generation int
	// hung is the begin of the call that has not returned within the deadline, and hungErr
	// describes it; 0 if there is none.
	hung    int64
	hungErr error
	// reported is true while the GPU is reported as unresponsive, since a call hung that
	// returned at returned; recovered is when it was last reported as responding again, and
	// holdsBack delays the next such report.
	reported, holdsBack bool
	returned, recovered time.Time

	recent recent
}

// Identity is the GPU's description as of its last enumeration.
func (g *GPU) Identity() Identity {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.identity
}

// Err is why the GPU cannot be read; nil while it is present.
func (g *GPU) Err() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// Generation changes when the GPU was found again.
func (g *GPU) Generation() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.generation
}

// Submit queues a job for the GPU's worker and returns at once; false if the GPU's queue
// is full. The job runs when the jobs before it have ended,
// which may be never if one hangs: do not wait for it without a deadline.
//
// Jobs of a GPU run one at a time and in their order, also while other GPUs come and go and
// its index changes.
func (g *GPU) Submit(run func()) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.worker.submit(job{run: run, of: g}) {
		return false
	}
	g.open++
	return true
}

// done counts a job that has ended.
func (g *GPU) done() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	g.useNext()
}

// moveTo has a worker run the jobs that are submitted once those before have ended. The caller
// holds mu.
func (g *GPU) moveTo(w *worker) {
	g.next = w
	g.useNext()
}

// useNext makes the next worker the GPU's, where no job is open. The caller holds mu.
func (g *GPU) useNext() {
	if g.open == 0 && g.next != nil {
		g.worker, g.next = g.next, nil
	}
}

// Device is the GPU's present handle, for use inside a job.
func (g *GPU) Device() Device { return g.DeviceFor(nil) }

// DeviceFor is the handle for an asker, who shares readings with the others.
func (g *GPU) DeviceFor(by *Asker) Device {
	g.mu.Lock()
	defer g.mu.Unlock()
	d := g.device.calledBy(g.worker)
	d.listed = &g.listed
	d.recent, d.by = &g.recent, by
	return d
}

func (g *GPU) lose(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

// describe reads what does not change while a GPU is present. Only the UUID or
// the PCI address must be readable; what a GPU does not have stays empty.
func describe(d Device, index int) (Identity, error) {
	id := Identity{Index: index}
	pci, pciErr := d.PCIBusID()
	id.PCIBusID = pci
	uuid, err := d.UUID()
	switch {
	case err == nil:
		id.UUID = uuid
	case pciErr == nil && KindOf(err) != Lost && KindOf(err) != DriverGone:
		id.UUID = pci
	default:
		return id, err
	}
	id.Model, _ = d.Name()
	id.Architecture, _ = d.Architecture()
	id.Serial, _ = d.Serial()
	id.BoardPart, _ = d.BoardPartNumber()
	id.VBIOS, _ = d.VbiosVersion()
	if id.Minor, err = d.MinorNumber(); err != nil {
		id.Minor = -1
	}
	id.readMIG(d)
	id.NUMANode = numaNode("/sys/bus/pci/devices", pci)
	return id, nil
}

// readMIG reads the MIG mode; if it cannot be read, it stays as it was.
func (id *Identity) readMIG(d Device) {
	on, err := d.MIGEnabled()
	switch {
	case err != nil:
	case on:
		id.MIG = MIGOn
	default:
		id.MIG = MIGOff
	}
}

// numaNode asks sysfs.
func numaNode(devices, pci string) string {
	if !gpuname.IsPCI(pci) {
		return ""
	}
	raw, err := os.ReadFile(filepath.Join(devices, gpuname.PCI(pci), "numa_node"))
	if err != nil {
		return ""
	}
	node := strings.TrimSpace(string(raw))
	if node == "-1" { // unknown to the firmware
		return ""
	}
	return node
}
