// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/NVIDIA/go-nvml/pkg/dl"
	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// DefaultPath is the name by which the loader finds the driver's library.
const DefaultPath = "libnvidia-ml.so.1"

// usualPlaces is where drivers put the library on systems whose loader does not
// know it: containers, driver containers, WSL.
var usualPlaces = []string{
	"/usr/local/nvidia/lib64/libnvidia-ml.so.1",
	"/usr/local/nvidia/lib/libnvidia-ml.so.1",
	"/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
	"/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
	"/usr/lib64/libnvidia-ml.so.1",
	"/run/nvidia/driver/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
	"/usr/lib/wsl/lib/libnvidia-ml.so.1",
}

// simulatedMarker is exported by the test library and by no other.
const simulatedMarker = "otelcolGpuSimulated"

// Library is the loaded NVML. Each of its functions is resolved before it is called: the
// loader ends the process at a call of a function that does not exist.
type Library struct {
	path string

	mu  sync.RWMutex
	api gonvml.Interface
	has map[string]bool
	// addresses are the functions that are called without go-nvml.
	addresses map[string]unsafe.Pointer
	// symbols is a second handle of the library, opened once and never closed: functions
	// can be resolved while NVML is not initialised, and a call that returns late finds
	// the code still loaded.
	symbols *dl.DynamicLibrary
	// reason is the loader's, why the library could not be opened the last time.
	reason string

	// driverMajor is the first part of the driver's version, as of the last initialisation;
	// 0 if it is unknown.
	driverMajor atomic.Int64

	workers workers
	// keeper is held by the session that inspects the machine, so that a keeper that hangs
	// is not joined by the next session's.
	keeper sync.Mutex
}

func newLibrary(path string, now func() time.Time) *Library {
	return &Library{
		path: path, has: map[string]bool{}, addresses: map[string]unsafe.Pointer{}, workers: workers{now: now, byIndex: map[int]*worker{}},
	}
}

// Path is where the library was found, or is expected.
func (l *Library) Path() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.path
}

// Has reports whether the library exports a function. Alternatives are joined
// by "|" (nvmlDeviceGetPciInfo_v3|nvmlDeviceGetPciInfo_v2): one is enough.
func (l *Library) Has(function string) bool {
	l.mu.RLock()
	known, ok := l.has[function]
	l.mu.RUnlock()
	if ok {
		return known
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.symbols == nil {
		return false
	}
	found := false
	for name := range strings.SplitSeq(function, "|") {
		found = found || l.symbols.Lookup(name) == nil
	}
	l.has[function] = found
	return found
}

// Simulated reports whether this is the test library and not NVIDIA's.
func (l *Library) Simulated() bool { return l.Has(simulatedMarker) }

// versions guards what go-nvml keeps for the whole process when it loads and closes a
// library: which versions of the functions there are.
var versions sync.Mutex

// init loads the library and initialises NVML (nvmlInit_v2).
func (l *Library) init() error {
	if !l.open() {
		return result("nvmlInit_v2", gonvml.ERROR_LIBRARY_NOT_FOUND)
	}
	if err := l.need("nvmlInit_v2|nvmlInit"); err != nil {
		return err
	}
	versions.Lock()
	defer versions.Unlock()
	return result("nvmlInit_v2", l.api.Init())
}

// open finds the library and opens the handle that resolves functions. A file name
// without a folder is also searched for in the usual places.
func (l *Library) open() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.symbols != nil {
		return true
	}
	places := []string{l.path}
	if l.path == DefaultPath {
		places = append(places, usualPlaces...)
	}
	l.reason = ""
	fileFound := false
	for _, path := range places {
		symbols := dl.New(path, dl.RTLD_LAZY|dl.RTLD_GLOBAL)
		err := symbols.Open()
		if err == nil {
			l.symbols, l.path = symbols, path
			l.api = gonvml.New(gonvml.WithLibraryPath(path))
			return true
		}
		// A file that is there and is not a library says more than one that is not there.
		_, missing := os.Stat(path)
		if l.reason == "" || missing == nil && !fileFound {
			l.reason, fileFound = err.Error(), missing == nil
		}
	}
	return false
}

// loadError is the loader's reason why the library could not be opened.
func (l *Library) loadError() string {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.reason
}

// shutdown ends NVML (nvmlShutdown). Handles from before are stale.
func (l *Library) shutdown() error {
	if err := l.need("nvmlShutdown"); err != nil {
		return err
	}
	versions.Lock()
	defer versions.Unlock()
	return result("nvmlShutdown", l.api.Shutdown())
}

// need returns an error if the library lacks one of the functions.
func (l *Library) need(functions ...string) error {
	for _, function := range functions {
		if !l.Has(function) {
			return result(function, codeMissing)
		}
	}
	return nil
}

// ask makes one call: of a GPU's handle, or of the library itself.
func ask[H, T any](l *Library, function string, handle H, call func(H) (T, gonvml.Return)) (T, error) {
	if !l.Has(function) {
		var none T
		return none, result(function, codeMissing)
	}
	v, code := call(handle)
	return v, result(function, code)
}

// driverVersion is the driver's version (nvmlSystemGetDriverVersion).
func (l *Library) driverVersion() (string, error) {
	version, err := ask(l, "nvmlSystemGetDriverVersion", l.api, gonvml.Interface.SystemGetDriverVersion)
	first, _, _ := strings.Cut(version, ".")
	major, parseErr := strconv.Atoi(first)
	if err != nil || parseErr != nil {
		major = 0
	}
	l.driverMajor.Store(int64(major))
	return version, err
}

// cudaVersion is the newest CUDA version that the driver supports, as "13.2"
// (nvmlSystemGetCudaDriverVersion_v2).
func (l *Library) cudaVersion() (string, error) {
	v, err := ask(l, "nvmlSystemGetCudaDriverVersion_v2", l.api, gonvml.Interface.SystemGetCudaDriverVersion_v2)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d.%d", v/1000, v%1000/10), nil
}

// deviceCount counts the GPUs (nvmlDeviceGetCount_v2).
func (l *Library) deviceCount() (int, error) {
	return ask(l, "nvmlDeviceGetCount_v2|nvmlDeviceGetCount", l.api, gonvml.Interface.DeviceGetCount)
}

// device is the GPU at an index (nvmlDeviceGetHandleByIndex_v2). Indices change
// when GPUs come and go.
func (l *Library) device(index int) (Device, error) {
	h, err := ask(l, "nvmlDeviceGetHandleByIndex_v2|nvmlDeviceGetHandleByIndex", index, l.api.DeviceGetHandleByIndex)
	return Device{lib: l, handle: h}, err
}

func result(function string, code gonvml.Return) error {
	if code == gonvml.SUCCESS {
		return nil
	}
	name, _, _ := strings.Cut(function, "|")
	return &Error{Function: name, code: code}
}
