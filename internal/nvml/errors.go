// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"errors"
	"fmt"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// Kind sorts NVML's return codes by what follows from them.
type Kind int

const (
	// Passing means that the next call may succeed.
	Passing Kind = iota
	// NotSupported is final for this GPU.
	NotSupported
	// Missing means that the loaded library does not have the function: final for the
	// process.
	Missing
	// Denied means that this user may not make the call.
	Denied
	// Lost means that the GPU is gone from the bus or needs a reset.
	Lost
	// DriverGone means that every handle is stale: the driver was unloaded or reloaded.
	DriverGone
	// VersionMismatch means that the driver was upgraded under the loaded library: final
	// for the process.
	VersionMismatch
	// NoLibrary means that the library could not be loaded.
	NoLibrary
)

// codeMissing stands for a function that was never called, because the library lacks it.
const codeMissing = gonvml.Return(-1)

// codes has NVML's return codes (nvmlReturn_t in nvml.h) as words, and their kinds.
var codes = map[gonvml.Return]struct {
	word string
	kind Kind
}{
	codeMissing:                            {"symbol_missing", Missing},
	gonvml.ERROR_UNINITIALIZED:             {"uninitialized", DriverGone},
	gonvml.ERROR_INVALID_ARGUMENT:          {"invalid_argument", Passing},
	gonvml.ERROR_NOT_SUPPORTED:             {"not_supported", NotSupported},
	gonvml.ERROR_NO_PERMISSION:             {"no_permission", Denied},
	gonvml.ERROR_NOT_FOUND:                 {"not_found", Passing},
	gonvml.ERROR_INSUFFICIENT_SIZE:         {"insufficient_size", Passing},
	gonvml.ERROR_INSUFFICIENT_POWER:        {"insufficient_power", Passing},
	gonvml.ERROR_DRIVER_NOT_LOADED:         {"driver_not_loaded", DriverGone},
	gonvml.ERROR_TIMEOUT:                   {"timeout", Passing},
	gonvml.ERROR_IRQ_ISSUE:                 {"irq_issue", Passing},
	gonvml.ERROR_LIBRARY_NOT_FOUND:         {"library_not_found", NoLibrary},
	gonvml.ERROR_FUNCTION_NOT_FOUND:        {"function_not_found", NotSupported},
	gonvml.ERROR_CORRUPTED_INFOROM:         {"corrupted_inforom", Passing},
	gonvml.ERROR_GPU_IS_LOST:               {"gpu_is_lost", Lost},
	gonvml.ERROR_RESET_REQUIRED:            {"reset_required", Lost},
	gonvml.ERROR_OPERATING_SYSTEM:          {"operating_system", Passing},
	gonvml.ERROR_LIB_RM_VERSION_MISMATCH:   {"lib_rm_version_mismatch", VersionMismatch},
	gonvml.ERROR_IN_USE:                    {"in_use", Passing},
	gonvml.ERROR_MEMORY:                    {"memory", Passing},
	gonvml.ERROR_NO_DATA:                   {"no_data", Passing},
	gonvml.ERROR_INSUFFICIENT_RESOURCES:    {"insufficient_resources", Passing},
	gonvml.ERROR_ARGUMENT_VERSION_MISMATCH: {"argument_version_mismatch", NotSupported},
	gonvml.ERROR_DEPRECATED:                {"deprecated", NotSupported},
	gonvml.ERROR_NOT_READY:                 {"not_ready", Passing},
	gonvml.ERROR_GPU_NOT_FOUND:             {"gpu_not_found", Passing},
	gonvml.ERROR_INVALID_STATE:             {"invalid_state", Passing},
	gonvml.ERROR_UNKNOWN:                   {"unknown", Passing},
	gonvml.ERROR_VGPU_ECC_NOT_SUPPORTED:    {"vgpu_ecc_not_supported", NotSupported},
	gonvml.ERROR_FREQ_NOT_SUPPORTED:        {"freq_not_supported", NotSupported},
	gonvml.ERROR_RESET_TYPE_NOT_SUPPORTED:  {"reset_type_not_supported", NotSupported},
	gonvml.ERROR_ALREADY_INITIALIZED:       {"already_initialized", Passing},
}

// Error is one failed call.
type Error struct {
	// Function is NVML's name of it.
	Function string
	code     gonvml.Return
}

// Kind is the kind of the error.
func (e *Error) Kind() Kind { return codes[e.code].kind }

// Code is NVML's return code as a word, such as gpu_is_lost.
func (e *Error) Code() string {
	if c, ok := codes[e.code]; ok {
		return c.word
	}
	return fmt.Sprintf("code_%d", e.code)
}

func (e *Error) Error() string {
	switch e.Kind() {
	case Missing:
		return e.Function + ": the loaded NVML library does not have this function"
	case VersionMismatch:
		return e.Function + ": the driver was upgraded while this process kept the older library (lib_rm_version_mismatch): start the process again"
	case DriverGone:
		return e.Function + ": NVIDIA's driver is not loaded (" + e.Code() + ")"
	}
	return fmt.Sprintf("%s: %s (%d)", e.Function, e.Code(), e.code)
}

// KindOf is the kind of an error that a call of this package returned.
func KindOf(err error) Kind {
	if err == nil {
		return Passing // without the allocation of errors.As
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind()
	}
	return Passing
}

// sameCode reports whether two calls failed alike, whichever they were.
func sameCode(a, b error) bool {
	var x, y *Error
	return errors.As(a, &x) && errors.As(b, &y) && x.code == y.code
}

func hasCode(err error, code gonvml.Return) bool {
	if err == nil {
		return false
	}
	var e *Error
	return errors.As(err, &e) && e.code == code
}
