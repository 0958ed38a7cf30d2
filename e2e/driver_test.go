// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakemachine"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

func TestNvidiasOwnLibrariesWithoutADriver(t *testing.T) {
	beside(t, working)
	for _, driver := range []string{"535", "470"} {
		t.Run(driver, func(t *testing.T) {
			library := fakemachine.NvidiaLibrary(t, driver)
			store := victoriaMetrics(t)
			c := collect(t, "default.yaml", []string{"OTELCOL_GPU_NVML_LIBRARY=" + library, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms",
				"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT=" + store.URL + "/api/v1/write"})
			eventually(t, store, `hw_gpu_count{state="healthy"} == 0`, atLeast(1))
			require.Eventually(t, func() bool { return logLines(t, c.Process, "driver is not loaded; retrying") == 1 }, patience, 20*time.Millisecond)
			real, err := store.Query(withPatience(t), `hw_gpu_count{gpu_simulated="true"}`)
			require.NoError(t, err)
			assert.Empty(t, real, "NVIDIA's library is not taken for simulated")
			// It goes on for two attempts (every 5 s) without saying it again.
			require.Eventually(t, func() bool { return c.counter("otelcol_receiver_nvml_up") == 0 && c.Alive() }, patience, 20*time.Millisecond)
			begin := time.Now()
			require.Eventually(t, func() bool { return time.Since(begin) > 6*time.Second }, patience, 100*time.Millisecond)
			assert.Equal(t, 1, logLines(t, c.Process, "driver is not loaded"))
			took, err := c.Stop(10 * time.Second)
			require.NoError(t, err, c.Tail())
			assert.Less(t, took, 2*time.Second)
		})
	}
}

// TestDriver470AndItsMissingFunctions reads a GPU through the test library
// that lacks what NVIDIA's 470 lacks.
func TestDriver470AndItsMissingFunctions(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Driver470, "rtx-2080-super")
	store := victoriaMetrics(t)
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	eventually(t, store, `hw_gpu_memory_usage_bytes == (211 + 400) * 1024 * 1024`, atLeast(1))
	none, err := store.Query(withPatience(t), `hw_gpu_memory_reserved_bytes`)
	require.NoError(t, err)
	assert.Empty(t, none)
	assert.True(t, c.Alive())
}

func TestDriverThatIsLoadedLaterIsTakenUp(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "h100")
	m.state.UnloadDriver()
	store := victoriaMetrics(t)
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	require.Eventually(t, func() bool { return logLines(t, c.Process, "driver is not loaded") == 1 }, patience, 20*time.Millisecond)
	m.state.LoadDriver()
	eventually(t, store, "hw_gpu_up == 1", atLeast(1))
}

func TestDriverUpgradeEndsTheCollectorWhereConfigured(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "h100")
	store := victoriaMetrics(t)
	c := collect(t, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"),
		"--config=yaml:receivers::nvml::exit_on_driver_upgrade: true")
	eventually(t, store, "hw_gpu_up == 1", atLeast(1))
	m.state.UpgradeDriver()
	select {
	case <-c.Exited():
	case <-withPatience(t).Done():
		t.Fatal("the collector goes on")
	}
	assert.Positive(t, logLines(t, c.Process, "the driver was upgraded"))
}

// TestMistakesAreNamed asks the built collector to validate wrong configurations.
func TestMistakesAreNamed(t *testing.T) {
	for _, test := range []struct{ config, key, remedy string }{
		{"colection_interval: 1s", "colection_interval", "did you mean collection_interval?"},
		{"card_timeout: -1s", "card_timeout", "use 1s or more"},
		{"card_timeout: 50ms", "card_timeout", "use 1s or more"},
		{"working_interval: 1s, collection_interval: 200ms", "working_interval", "use an interval such as 50ms"},
		{"collection_interval: 0s", "collection_interval", "positive"},
		{"timeout: 500ms", "timeout", "raise timeout"},
		{"library_path: lib/libnvidia-ml.so", "library_path", "absolute"},
		{"devices: {include: [foo]}", "devices::include", "UUID"},
		{"devices: {include: [0], exclude: [gpu0]}", "devices", "remove it from one"},
		{"devices: {only: [0]}", "devices::only", "exclude, include"},
		{"metrics: {hw.gpu.memory.uage: {enabled: false}}", "hw.gpu.memory.uage", "did you mean hw.gpu.memory.usage?"},
		{"forget_lost_after: -1h", "forget_lost_after", "positive duration"},
	} {
		t.Run(test.config, func(t *testing.T) {
			config := "receivers: {nvml: {" + test.config + "}}"
			config += "\nexporters: {nop: {}}\nservice: {pipelines: {metrics: {receivers: [nvml], exporters: [nop]}}}"
			out, err := exec.Command(binary(), "validate", "--config=yaml:"+config).CombinedOutput()
			require.Error(t, err)
			assert.Contains(t, string(out), test.key)
			assert.Contains(t, string(out), test.remedy)
		})
	}
}

func TestTwoLibraryPathsAreRefusedAtTheStart(t *testing.T) {
	m := newMachine(t, fakenvml.Current, "h100")
	config := filepath.Join(t.TempDir(), "config.yaml")
	require.NoError(t, os.WriteFile(config, []byte(`
receivers: {nvml: {library_path: "${env:OTELCOL_GPU_NVML_LIBRARY}"}, nvml/other: {library_path: /other/libnvidia-ml.so.1}}
exporters: {nop: {}}
service: {telemetry: {metrics: {level: none}}, pipelines: {metrics: {receivers: [nvml, nvml/other], exporters: [nop]}}}
`), 0o600))
	p := start(t, "otelcol-gpu", binary(), m.environment, "--config", config)
	select {
	case <-p.Exited():
	case <-withPatience(t).Done():
		t.Fatal("it started")
	}
	assert.Contains(t, p.Tail(), "library_path")
	assert.Contains(t, p.Tail(), "set the same library_path for all nvml and comfyui receivers")
}
