// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const modulePath = "github.com/otelcol-gpu/otelcol-gpu"

// scratchCopy copies what git tracks of the root module's product, its linter's
// settings included.
func scratchCopy(t *testing.T) string {
	t.Helper()
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard", "go.mod", "go.sum", ".golangci.yml", "receiver", "connector", "internal")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	dir := t.TempDir()
	for name := range strings.Lines(string(out)) {
		name = strings.TrimSpace(name)
		raw, err := os.ReadFile(filepath.Join(root, name))
		if os.IsNotExist(err) {
			continue // deleted, not yet committed
		}
		require.NoError(t, err)
		to := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o750))
		require.NoError(t, os.WriteFile(to, raw, 0o600))
	}
	return dir
}

// TestTheLinterRefusesImportsAcrossLayers lints a copy with one forbidden import each.
func TestTheLinterRefusesImportsAcrossLayers(t *testing.T) {
	beside(t, working)
	dir, lint := scratchCopy(t), tool(t, "golangci-lint")
	run := func(pkg string) (string, error) {
		cmd := exec.Command(lint, "run", "--enable-only", "depguard", "--allow-parallel-runners", "./"+pkg)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, test := range []struct{ pkg, imports, want string }{
		{"receiver/comfyuireceiver", modulePath + "/internal/testing/figure", "product code does not import test doubles"},
		{"internal/gputimeline", modulePath + "/internal/testing/gpuload", "product code does not import test doubles"},
		{"connector/gpucorrelationconnector/internal/join", "github.com/NVIDIA/go-nvml/pkg/nvml", "only internal/nvml calls NVML"},
		{"connector/gpucorrelationconnector/internal/join", "net/http", "the joiner is pure"},
		{"connector/gpucorrelationconnector", modulePath + "/receiver/nvmlreceiver", "components do not import each other"},
		{"receiver/comfyuireceiver", modulePath + "/receiver/nvmlreceiver", "components do not import each other"},
		{"receiver/nvmlreceiver", modulePath + "/connector/gpucorrelationconnector", "components do not import each other"},
		{"internal/nvml", "go.opentelemetry.io/collector/pdata/pmetric", "the session with NVML knows no pdata"},
		{"internal/gputimeline", modulePath + "/receiver/nvmlreceiver", "does not import a component"},
	} {
		t.Run(test.pkg+" "+filepath.Base(test.imports), func(t *testing.T) {
			out, err := run(test.pkg)
			require.NoError(t, err, "the package itself: %s", out)
			path := filepath.Join(dir, test.pkg, "forbidden.go")
			name := filepath.Base(test.pkg)
			require.NoError(t, os.WriteFile(path, []byte("package "+name+"\n\nimport _ \""+test.imports+"\"\n"), 0o600))
			defer os.Remove(path)
			out, err = run(test.pkg)
			require.Error(t, err)
			assert.Contains(t, out, test.want)
		})
	}
}

// TestTheDistributionHoldsNoTestDoubles reads what the built distribution consists of.
func TestTheDistributionHoldsNoTestDoubles(t *testing.T) {
	list := exec.Command("go", "list", "-deps", ".")
	list.Dir = filepath.Join(root, "_build")
	out, err := list.Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, modulePath+"/receiver/nvmlreceiver")
	for _, d := range deps {
		for _, forbidden := range []string{modulePath + "/internal/testing", modulePath + "/lab", modulePath + "/e2e", "gonum.org/v1/plot"} {
			assert.False(t, d == forbidden || strings.HasPrefix(d, forbidden+"/"), d)
		}
	}
}

// TestTheRootsGraphHoldsNoPlottingLibrary keeps what only the report needs out of the
// module that others import.
func TestTheRootsGraphHoldsNoPlottingLibrary(t *testing.T) {
	list := exec.Command("go", "list", "-m", "all")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	require.Contains(t, string(out), "github.com/NVIDIA/go-nvml")
	for _, module := range []string{"gonum.org/v1/plot", "codeberg.org/go-pdf/fpdf", "github.com/ajstarks/svgo", "github.com/golang/freetype"} {
		assert.NotContains(t, string(out), module)
	}
}
