// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	_ "embed"
	"errors"
	"fmt"
	"sync"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
	"go.yaml.in/yaml/v3"
)

// Kind sorts NVML's return codes by what follows from them; codes.yaml has them.
type Kind string

const (
	// Passing means that the next call may succeed.
	Passing Kind = ""
	// NotSupported is final for this GPU.
	NotSupported Kind = "not_supported"
	// Missing means that the loaded library does not have the function: final for the
	// process.
	Missing Kind = "missing"
	// Denied means that this user may not make the call.
	Denied Kind = "denied"
	// Lost means that the GPU is gone from the bus or needs a reset.
	Lost Kind = "lost"
	// DriverGone means that every handle is stale: the driver was unloaded or reloaded.
	DriverGone Kind = "driver_gone"
	// VersionMismatch means that the driver was upgraded under the loaded library: final
	// for the process.
	VersionMismatch Kind = "version_mismatch"
	// NoLibrary means that the library could not be loaded.
	NoLibrary Kind = "no_library"
)

// codeMissing stands for a function that was never called, because the library lacks it.
const codeMissing = gonvml.Return(-1)

// returnCode is one entry of codes.yaml.
type returnCode struct {
	Word string `yaml:"word"`
	Kind Kind   `yaml:"kind"`
}

//go:embed codes.yaml
var codesFile []byte

// codes reads codes.yaml once. The file is a part of the program: a mistake in it is a bug.
var codes = sync.OnceValue(func() (all map[gonvml.Return]returnCode) {
	if err := yaml.Unmarshal(codesFile, &all); err != nil {
		panic(fmt.Errorf("codes.yaml: %w", err))
	}
	return all
})

// Error is one failed call.
type Error struct {
	// Function is NVML's name of it.
	Function string
	code     gonvml.Return
}

// Kind is the kind of the error.
func (e *Error) Kind() Kind { return codes()[e.code].Kind }

// Code is NVML's return code as a word, such as gpu_is_lost.
func (e *Error) Code() string {
	if c, ok := codes()[e.code]; ok {
		return c.Word
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

// codeOf is the return code of an error that a call of this package returned, SUCCESS of
// all others.
func codeOf(err error) gonvml.Return {
	if err == nil {
		return gonvml.SUCCESS // without the allocation of errors.As
	}
	var e *Error
	if errors.As(err, &e) {
		return e.code
	}
	return gonvml.SUCCESS
}

// KindOf is the kind of an error that a call of this package returned.
func KindOf(err error) Kind { return codes()[codeOf(err)].Kind }

// IsUnsupported reports whether the GPU or the library lacks what a call asked for, so
// that the call need not be made again.
func IsUnsupported(err error) bool {
	kind := KindOf(err)
	return kind == NotSupported || kind == Missing
}

// IsDriverGone reports whether a call found the driver unloaded, reloaded or upgraded.
func IsDriverGone(err error) bool {
	kind := KindOf(err)
	return kind == DriverGone || kind == VersionMismatch
}

// errHangs is why a GPU is unresponsive.
var errHangs = errors.New("the call has not returned")

// IsNotFound reports whether a call found nothing at the place.
func IsNotFound(err error) bool { return codeOf(err) == gonvml.ERROR_NOT_FOUND }

// IsInvalid reports whether a call was given a number that the GPU does not have.
func IsInvalid(err error) bool { return codeOf(err) == gonvml.ERROR_INVALID_ARGUMENT }
