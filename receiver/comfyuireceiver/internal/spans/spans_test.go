// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// TestPatternsAreCompiledWhenTheBuilderIsMade: a configuration that was never validated
// redacts, too.
func TestPatternsAreCompiledWhenTheBuilderIsMade(t *testing.T) {
	b, err := NewBuilder(Capture{Redact: []string{`secret-\d+`}}, pcommon.NewResource(), "", nil)
	require.NoError(t, err)
	assert.Equal(t, `open *** of ***: File "nodes.py"`, b.redactor.redact(`open grandmother_1950.png of secret-42: File "nodes.py"`))
	b, err = NewBuilder(Capture{FileNames: true}, pcommon.NewResource(), "", nil)
	require.NoError(t, err)
	assert.Equal(t, "open a.png", b.redactor.redact("open a.png"))
	_, err = NewBuilder(Capture{Redact: []string{"a", "("}}, pcommon.NewResource(), "", nil)
	assert.ErrorContains(t, err, "capture::redact::1")
}

func TestOutOfMemoryIsRecognisedUnderAllItsNames(t *testing.T) {
	for _, e := range []protocol.Error{
		{Type: "torch.OutOfMemoryError"}, {Type: "torch.cuda.OutOfMemoryError"},
		{Type: "RuntimeError", Message: "CUDA error: out of memory"}, {Message: "CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"},
		{Message: "Allocation on device 0 would exceed allowed memory"},
	} {
		assert.True(t, IsOutOfMemory(&e), "%v", e)
	}
	assert.False(t, IsOutOfMemory(&protocol.Error{Type: "RuntimeError", Message: "shape mismatch"}))
}

func TestTextsAreBounded(t *testing.T) {
	long := make([]byte, 2*maxTraceback)
	for i := range long {
		long[i] = 'x'
	}
	assert.Len(t, firstLine(string(long)), maxMessage)
	assert.Len(t, traceback([]string{string(long), "end"}), maxTraceback)
	assert.Contains(t, traceback([]string{string(long), "end"}), "end", "the last lines remain")
	assert.Equal(t, "first", firstLine("\n first\nsecond"))
}

func TestSizeClassesRoundUp(t *testing.T) {
	for side, want := range map[float64]string{1: "<=512", 512: "<=512", 513: "<=680", 1280: "<=1280", 4096: ">2048"} {
		assert.Equal(t, want, SizeClass(side))
	}
}
