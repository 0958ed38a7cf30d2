// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"errors"
	"fmt"
	"testing"

	gonvml "github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/stretchr/testify/assert"
)

func TestReturnCodesHaveTheirWordsAndKinds(t *testing.T) {
	for _, test := range []struct {
		code gonvml.Return
		word string
		kind Kind
	}{
		{gonvml.ERROR_UNINITIALIZED, "uninitialized", DriverGone},
		{gonvml.ERROR_DRIVER_NOT_LOADED, "driver_not_loaded", DriverGone},
		{gonvml.ERROR_NOT_SUPPORTED, "not_supported", NotSupported},
		{gonvml.ERROR_ARGUMENT_VERSION_MISMATCH, "argument_version_mismatch", NotSupported},
		{gonvml.ERROR_NO_PERMISSION, "no_permission", Denied},
		{gonvml.ERROR_GPU_IS_LOST, "gpu_is_lost", Lost},
		{gonvml.ERROR_RESET_REQUIRED, "reset_required", Lost},
		{gonvml.ERROR_LIB_RM_VERSION_MISMATCH, "lib_rm_version_mismatch", VersionMismatch},
		{gonvml.ERROR_LIBRARY_NOT_FOUND, "library_not_found", NoLibrary},
		{codeMissing, "symbol_missing", Missing},
		{gonvml.ERROR_TIMEOUT, "timeout", Passing},
		{gonvml.ERROR_UNKNOWN, "unknown", Passing},
		{gonvml.Return(500), "code_500", Passing},
	} {
		err := &Error{Function: "nvmlInit_v2", code: test.code}
		assert.Equal(t, test.word, err.Code())
		assert.Equal(t, test.kind, KindOf(fmt.Errorf("read: %w", err)), test.word)
	}
	assert.Equal(t, Passing, KindOf(nil))
	assert.Equal(t, Passing, KindOf(errors.New("not NVML's")))
}

func TestEveryKindOfTheDataFileIsKnown(t *testing.T) {
	known := []Kind{Passing, NotSupported, Missing, Denied, Lost, DriverGone, VersionMismatch, NoLibrary}
	assert.Len(t, codes(), 32)
	for code, c := range codes() {
		assert.Contains(t, known, c.Kind, code)
		assert.NotEmpty(t, c.Word, code)
	}
}
