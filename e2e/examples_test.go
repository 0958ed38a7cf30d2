// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")

// TestExamplesOfTheReadmesAreValid validates the whole configurations among the examples
// of the components' READMEs with the built collector. Components that an example only
// names are added.
func TestExamplesOfTheReadmesAreValid(t *testing.T) {
	beside(t, working)
	paths, err := filepath.Glob(filepath.Join(root, "*", "*", "README.md"))
	require.NoError(t, err)
	checked := 0
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		for i, block := range yamlBlock.FindAllStringSubmatch(string(raw), -1) {
			text := block[1]
			if !strings.Contains(text, "pipelines:") {
				continue
			}
			name := fmt.Sprintf("%s/%d", filepath.Base(filepath.Dir(path)), i)
			t.Run(name, func(t *testing.T) {
				arguments := []string{"validate"}
				for _, named := range []string{
					"receivers: {otlp: {protocols: {grpc: {endpoint: 127.0.0.1:4317}}}, nvml: {}}", "processors: {memory_limiter: {check_interval: 1s, limit_mib: 400}}",
					"exporters: {otlp_grpc: {endpoint: 127.0.0.1:4319}, prometheus_remote_write: {endpoint: http://127.0.0.1:9090/api/v1/write}}",
				} {
					arguments = append(arguments, "--config=yaml:"+named)
				}
				file := filepath.Join(t.TempDir(), "example.yaml")
				require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
				out, err := exec.Command(binary(), append(arguments, "--config", file)...).CombinedOutput()
				assert.NoError(t, err, string(out))
			})
			checked++
		}
	}
	require.GreaterOrEqual(t, checked, 3, "examples")
}
