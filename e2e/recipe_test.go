// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// recipe reads one part of the recipe in the nvml receiver's README: the fenced block
// after the comment <!-- recipe: NAME -->.
func recipe(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root, "receiver", "nvmlreceiver", "README.md"))
	require.NoError(t, err)
	_, after, ok := strings.Cut(string(raw), "<!-- recipe: "+name+" -->")
	require.True(t, ok, "the README has no recipe part %s", name)
	_, block, ok := strings.Cut(after, "```")
	require.True(t, ok)
	_, block, _ = strings.Cut(block, "\n") // the language
	block, _, ok = strings.Cut(block, "```")
	require.True(t, ok)
	return block
}

// TestTheRecipeOfTheReceiversReadmeWorks builds a collector of one's own with the nvml
// receiver, by the files and commands of its README, and scrapes it. Only the module's
// version is replaced by this checkout, and ports are free ones.
func TestTheRecipeOfTheReceiversReadmeWorks(t *testing.T) {
	beside(t, working)
	dir := t.TempDir()
	builder := recipe(t, "builder.yaml") + fmt.Sprintf("\nreplaces:\n  - %s => %s\n", modulePath, root)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "builder.yaml"), []byte(builder), 0o600))
	address := fmt.Sprintf("127.0.0.1:%d", port(t))
	config := recipe(t, "config.yaml")
	require.Contains(t, config, "endpoint: 127.0.0.1:9500")
	config = strings.ReplaceAll(config, "127.0.0.1:9500", address)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.yaml"), []byte(config), 0o600))

	var commands []string
	for line := range strings.Lines(recipe(t, "commands")) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		if line != "" && line[0] != '#' {
			commands = append(commands, line)
		}
	}
	require.GreaterOrEqual(t, len(commands), 2, "build, run: %q", commands)
	bin := t.TempDir()
	environment := append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=mod", "PATH="+bin+":"+os.Getenv("PATH"))
	for _, c := range commands[:len(commands)-1] {
		cmd := exec.Command("bash", "-ec", c)
		cmd.Dir, cmd.Env = dir, environment
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", c, out)
	}
	m := newMachine(t, fakenvml.Current, "h100")
	run := strings.Fields(commands[len(commands)-1])
	arguments := []string{"--config=yaml:service::telemetry::metrics::level: none"}
	for i, a := range run[1:] {
		if run[i] == "--config" {
			a = filepath.Join(dir, a)
		}
		arguments = append(arguments, a)
	}
	for _, e := range m.environment { // the README's configuration finds NVIDIA's library by itself
		if library, ok := strings.CutPrefix(e, "OTELCOL_GPU_NVML_LIBRARY="); ok {
			arguments = append(arguments, "--config=yaml:receivers::nvml::library_path: "+library)
		}
	}
	p := start(t, "own-collector", filepath.Join(dir, run[0]), m.environment, arguments...)
	require.Eventually(t, func() bool {
		out, err := get("http://" + address + "/metrics")
		return err == nil && strings.Contains(out, "hw_gpu_memory_usage_bytes")
	}, patience, 200*time.Millisecond)
	_, err := p.Stop(10 * time.Second)
	require.NoError(t, err)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "nop.yaml"), []byte(recipe(t, "nop.yaml")), 0o600))
	alone := slices.Clone(arguments)
	for i, a := range alone {
		if strings.HasSuffix(a, "config.yaml") {
			alone[i] = filepath.Join(dir, "nop.yaml")
		}
	}
	p = start(t, "own-collector-alone", filepath.Join(dir, run[0]), m.environment, alone...)
	require.Eventually(t, func() bool {
		return logLines(t, p, "NVML initialised") == 1 && logLines(t, p, "GPU found") == 1 && logLines(t, p, "Everything is ready") == 1
	}, patience, 50*time.Millisecond)
	// A collector takes signals a moment after it has logged that it is ready; until then they end it as any
	// program. It has read the GPU some more times by then.
	read := m.gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2")
	require.Eventually(t, func() bool { return m.gpus[0].Calls("nvmlDeviceGetMemoryInfo_v2") >= read+2 }, patience, 50*time.Millisecond)
	_, err = p.Stop(10 * time.Second)
	require.NoError(t, err)
}
