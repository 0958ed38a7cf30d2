// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Package configfaults tries wrong configurations of every component. Each file under
// testdata holds configurations and the error that a user sees; -rewrite writes the
// errors again.
package configfaults

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector"
	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
)

var factories = map[string]component.Factory{
	"nvml":           nvmlreceiver.NewFactory(),
	"comfyui":        comfyuireceiver.NewFactory(),
	"gpuadvisor":     gpuadvisorconnector.NewFactory(),
	"gpucorrelation": gpucorrelationconnector.NewFactory(),
	"queue_check":    queuecheckextension.NewFactory(),
}

// check decodes and validates a configuration as the collector does.
func check(t *testing.T, kind, text string) string {
	t.Helper()
	var given map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(text), &given))
	cfg := factories[kind].CreateDefaultConfig()
	if err := confmap.NewFromStringMap(given).Unmarshal(cfg); err != nil {
		return err.Error() + "\n"
	}
	if err := confmap.Validate(cfg); err != nil {
		return err.Error() + "\n"
	}
	return "ok\n"
}

// cases counts the configurations of a file, and those that are right.
func cases(t *testing.T, path string) (all, right int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	all = strings.Count(string(raw), "\n----\n")
	right = strings.Count(string(raw), "\n----\nok\n")
	return all, right
}

func TestWrongConfigurationsAreRefusedWithKeyValueAndRemedy(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	require.NoError(t, err)
	wrong := 0
	for _, path := range paths {
		t.Run(filepath.Base(path), func(t *testing.T) {
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				if factories[d.Cmd] == nil {
					t.Fatalf("%s: %q is not a component", d.Pos, d.Cmd)
				}
				first := check(t, d.Cmd, d.Input)
				for range 5 { // joined errors keep their order
					require.Equal(t, first, check(t, d.Cmd, d.Input))
				}
				return first
			})
		})
		all, right := cases(t, path)
		assert.Positive(t, right, "%s: a right configuration shows that the check does not refuse all", path)
		wrong += all - right
	}
	assert.GreaterOrEqual(t, wrong, 60)
}
