// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

// Package inventory keeps docs/inventory.txt: every metric, attribute, event and own
// instrument of the components, and every configuration key with its type and default.
// What users depend on changes only together with that list.
package inventory

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/confmap"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpucorrelationconnector"
	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension"
	"github.com/otelcol-gpu/otelcol-gpu/extension/shutdownlimitextension"
	"github.com/otelcol-gpu/otelcol-gpu/internal/configkeys"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
)

var update = flag.Bool("update", false, "write docs/inventory.txt again")

type instrument struct {
	Unit       string
	Enabled    bool
	Attributes []string
	Gauge, Sum *struct {
		ValueType string `yaml:"value_type"`
		Monotonic bool
	}
	Histogram *struct {
		ValueType string `yaml:"value_type"`
	}
}

func (i instrument) kind() string {
	switch {
	case i.Sum != nil && i.Sum.Monotonic:
		return "counter"
	case i.Sum != nil:
		return "updowncounter"
	case i.Histogram != nil:
		return "histogram"
	}
	return "gauge"
}

type metadata struct {
	Attributes map[string]struct {
		NameOverride string `yaml:"name_override"`
		Enum         []string
	}
	ResourceAttributes map[string]any `yaml:"resource_attributes"`
	Metrics            map[string]instrument
	Telemetry          struct{ Metrics map[string]instrument }
}

// emitted lists the attributes of an instrument under the names that are emitted.
func (m metadata) emitted(keys []string) string {
	out := make([]string, 0, len(keys))
	for _, k := range keys {
		if n := m.Attributes[k].NameOverride; n != "" {
			k = n
		}
		out = append(out, k)
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// namePattern matches the names of attributes, events, metrics and spans in code.
var namePattern = regexp.MustCompile(`^(comfyui|gpu|hw|process|k8s|container|host|http|error|exception|network|service|url|client|server)\.[a-z0-9_.]+$`)

// literals lists the names that the hand-written code of a folder holds.
func literals(t *testing.T, dir string) []string {
	t.Helper()
	found := map[string]bool{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || strings.HasPrefix(d.Name(), "generated_") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				if text, err := strconv.Unquote(l.Value); err == nil && namePattern.MatchString(text) {
					found[text] = true
				}
			}
			return true
		})
		return nil
	}))
	return slices.Sorted(maps.Keys(found))
}

// keys lists configuration keys below a value, with type and default.
func keys(prefix string, v reflect.Value, into *[]string) {
	for _, k := range configkeys.Keys(v.Type()) {
		value := fieldOf(v, k)
		name := prefix + k
		inner, _ := configkeys.Underlying(value.Type())
		if inner.Kind() == reflect.Struct && len(configkeys.Keys(inner)) > 0 {
			if inner != value.Type() { // optional or a pointer: without a default
				value = reflect.Zero(inner)
			}
			keys(name+confmap.KeyDelimiter, value, into)
			continue
		}
		text := fmt.Sprintf("%v", value.Interface())
		if value.IsZero() {
			text = "-"
		}
		*into = append(*into, fmt.Sprintf("config %s %s %s", name, typeOf(value.Type()), text))
	}
}

// typeOf names a type as a user would: lists of groups have no name of their own.
func typeOf(t reflect.Type) string {
	if t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct {
		return "list of groups"
	}
	return t.String()
}

// fieldOf is the field of a key, squashed structs included.
func fieldOf(v reflect.Value, key string) reflect.Value {
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("mapstructure"), ",")
		switch {
		case strings.Contains(options, "squash"):
			if f := fieldOf(v.Field(i), key); f.IsValid() {
				return f
			}
		case name == key:
			return v.Field(i)
		}
	}
	return reflect.Value{}
}

func TestTheInventoryIsComplete(t *testing.T) {
	root, err := figure.Root()
	require.NoError(t, err)
	var lines []string
	for _, c := range []struct {
		folder string
		config component.Config
	}{
		{"receiver/nvmlreceiver", nvmlreceiver.NewFactory().CreateDefaultConfig()},
		{"receiver/comfyuireceiver", comfyuireceiver.NewFactory().CreateDefaultConfig()},
		{"connector/gpuadvisorconnector", gpuadvisorconnector.NewFactory().CreateDefaultConfig()},
		{"connector/gpucorrelationconnector", gpucorrelationconnector.NewFactory().CreateDefaultConfig()},
		{"extension/queuecheckextension", queuecheckextension.NewFactory().CreateDefaultConfig()},
		{"extension/shutdownlimitextension", shutdownlimitextension.NewFactory().CreateDefaultConfig()},
	} {
		raw, err := os.ReadFile(filepath.Join(root, c.folder, "metadata.yaml"))
		require.NoError(t, err)
		var md metadata
		require.NoError(t, yaml.Unmarshal(raw, &md))
		var all []string
		for name, m := range md.Metrics {
			all = append(all, fmt.Sprintf("metric %s unit=%s %s enabled=%t {%s}", name, m.Unit, m.kind(), m.Enabled, md.emitted(m.Attributes)))
		}
		for name, m := range md.Telemetry.Metrics {
			all = append(all, fmt.Sprintf("own instrument otelcol_%s unit=%s %s {%s}", name, m.Unit, m.kind(), md.emitted(m.Attributes)))
		}
		for name, a := range md.Attributes {
			if len(a.Enum) > 0 {
				all = append(all, fmt.Sprintf("attribute %s = %s", md.emitted([]string{name}), strings.Join(a.Enum, ", ")))
			}
		}
		for name := range md.ResourceAttributes {
			all = append(all, "resource attribute "+name)
		}
		keys("", reflect.ValueOf(c.config).Elem(), &all)
		slices.Sort(all)
		all = slices.Compact(all)
		lines = append(lines, "# "+c.folder)
		lines = append(lines, all...)
	}
	lines = append(lines, "# names of spans, attributes, events and metrics in the code of all components")
	found := map[string]bool{}
	for _, folder := range []string{"receiver", "connector", "extension", filepath.Join("internal", "semconv"), filepath.Join("internal", "gputimeline")} {
		for _, name := range literals(t, filepath.Join(root, folder)) {
			found[name] = true
		}
	}
	lines = append(lines, slices.Sorted(maps.Keys(found))...)
	got := strings.Join(lines, "\n") + "\n"
	path := filepath.Join(root, "docs", "inventory.txt")
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "go test ./internal/testing/inventory -update writes docs/inventory.txt again; a changed line is a change that users see")
}
