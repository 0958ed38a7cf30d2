// SPDX-License-Identifier: Apache-2.0

package calibration

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatIsWrittenIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "calibration.yaml")
	want := []Counter{{GPU: "GPU-1", Model: "NVIDIA L40S", Period: 100 * time.Millisecond, Lag: 50 * time.Millisecond, Share: 0.25, Ratio: 1.01}}
	require.NoError(t, Write(path, want))
	got, err := Read(path)
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

func TestAFileThatIsNotACalibrationIsRefusedWithTheRemedy(t *testing.T) {
	dir := t.TempDir()
	_, err := Read(filepath.Join(dir, "none.yaml"))
	assert.ErrorContains(t, err, "make gpu-check CALIBRATE=")
	for _, text := range []string{"counters: 3", "counter: []", "counters: [{gpu: GPU-1, share: 2}]", "counters: [{lag: 1ms, share: 1}]", "counters: [{gpu: a, lag: 2s, share: 1}]"} {
		path := filepath.Join(dir, "bad.yaml")
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		_, err := Read(path)
		assert.ErrorContains(t, err, path, text)
	}
}
