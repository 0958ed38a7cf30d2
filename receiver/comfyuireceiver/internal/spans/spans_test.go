// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// TestPatternsAreCompiledWhenTheBuilderIsMade: a configuration that was never validated
// redacts, too.
func TestPatternsAreCompiledWhenTheBuilderIsMade(t *testing.T) {
	b, err := NewBuilder(Capture{Redact: []string{`secret-\d+`}}, bounds, pcommon.NewResource(), "", nil, nil)
	require.NoError(t, err)
	assert.Equal(t, `open *** of ***: File "nodes.py"`, b.redactor.redact(`open grandmother_1950.png of secret-42: File "nodes.py"`))
	b, err = NewBuilder(Capture{FileNames: true}, bounds, pcommon.NewResource(), "", nil, nil)
	require.NoError(t, err)
	assert.Equal(t, "open a.png", b.redactor.redact("open a.png"))
	_, err = NewBuilder(Capture{Redact: []string{"a", "("}}, bounds, pcommon.NewResource(), "", nil, nil)
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

var bounds = protocol.Bounds{Label: 64, Message: 128, Stacktrace: 256, Nodes: 100}

func TestTextsAreBoundAfterPrivateDataAreRemoved(t *testing.T) {
	b, err := NewBuilder(Capture{}, bounds, pcommon.NewResource(), "", nil, nil)
	require.NoError(t, err)
	f := &protocol.Error{
		Message:   "\n cannot open grandmother_1950.png\n" + strings.Repeat("x", 400),
		Traceback: []string{strings.Repeat("y", 400), "\nopen(\"grandmother_1950.png\")"},
	}
	assert.Equal(t, "cannot open ***", b.summary(f))
	assert.Len(t, b.message(f), bounds.Message)
	assert.True(t, strings.HasPrefix(b.message(f), "cannot open ***\nxxx"))
	assert.True(t, strings.HasPrefix(b.messageLine(f), "cannot open *** xxx"), "a log record is one line")
	assert.Len(t, b.stacktrace(f), bounds.Stacktrace)
	assert.True(t, strings.HasSuffix(b.stacktrace(f), "open(\"***\")"), "the end remains")
}

func TestSizeClassesRoundUp(t *testing.T) {
	for side, want := range map[float64]string{1: "<=512", 512: "<=512", 513: "<=680", 1280: "<=1280", 4096: ">2048"} {
		assert.Equal(t, want, SizeClass(side))
	}
}
