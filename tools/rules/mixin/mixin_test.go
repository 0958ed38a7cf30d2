// SPDX-License-Identifier: Apache-2.0

package mixin

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-jsonnet"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

const root = "../../.."

func evaluate(t *testing.T, field, config string) *Groups {
	t.Helper()
	groups, err := Evaluate(root, field, config)
	require.NoError(t, err)
	return groups
}

func TestTheMixinHasTheRecordingRules(t *testing.T) {
	want := map[string]Group{}
	for _, name := range []string{"history.yaml", "prices.yaml"} {
		groups, err := Read(filepath.Join(root, RulesDir, name))
		require.NoError(t, err)
		for _, g := range groups.Groups {
			want[g.Name] = g
		}
	}
	got := map[string]Group{}
	for _, g := range evaluate(t, "prometheusRules", "{}").Groups {
		got[g.Name] = g
	}
	for name, g := range want {
		for i := range g.Rules {
			// prices.yaml writes 0.30, as the mixin does.
			assert.Equal(t, g.Rules[i], got[name].Rules[i])
		}
	}
	assert.Len(t, got, len(want))
	prices := evaluate(t, "prometheusRules", `{ pricePerKWh: '0.41' }`)
	assert.Equal(t, "vector(0.41)", prices.Groups[len(prices.Groups)-1].Rules[0].Expr)
}

// TestSelectorsReachEachSeries adds matchers and finds them on each selector.
func TestSelectorsReachEachSeries(t *testing.T) {
	groups := evaluate(t, "prometheusAlerts", `{ gpuSelector: 'job="g"', comfyuiSelector: 'job="c"', telemetrySelector: 'job="t"' }`)
	selectors := 0
	for _, rule := range groups.All() {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(rule.Expr)
		require.NoError(t, err, rule.Alert)
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			s, ok := n.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			want := map[string]string{"hw": "g", "gpuadvisor": "g", "comfyui": "c", "otelcol": "t"}[strings.SplitN(s.Name, "_", 2)[0]]
			found := ""
			for _, m := range s.LabelMatchers {
				if m.Name == "job" {
					found = m.Value
				}
			}
			selectors++
			assert.Equal(t, want, found, "%s: %s", rule.Alert, s)
			return nil
		})
	}
	assert.Greater(t, selectors, 80)
}

// settings is the mixin's own configuration.
func settings(t *testing.T) map[string]any {
	t.Helper()
	out, err := jsonnet.MakeVM().EvaluateFile(filepath.Join(root, Dir, "config.libsonnet"))
	require.NoError(t, err)
	// _config is hidden from the output only where it is written with "::".
	require.JSONEq(t, "{}", out)
	vm := jsonnet.MakeVM()
	vm.Importer(&jsonnet.FileImporter{JPaths: []string{filepath.Join(root, Dir)}})
	out, err = vm.EvaluateAnonymousSnippet("config", "(import 'config.libsonnet')._config")
	require.NoError(t, err)
	var config map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &config))
	return config
}

// changed is another value of the same kind.
func changed(v any) any {
	switch v := v.(type) {
	case float64:
		return v + 1
	case string:
		if v == "" {
			return `a="b"`
		}
		if d, err := time.ParseDuration(strings.Replace(v, "d", "h", 1)); err == nil {
			return strconv.Itoa(int(d.Seconds())+7) + "s"
		}
		return v + "1"
	case []any:
		return v[:len(v)-1]
	case map[string]any:
		c := maps.Clone(v)
		for k := range c {
			c[k] = changed(c[k])
		}
		return c
	}
	return nil
}

// sources are the files of the mixin that use a setting. What lib.libsonnet uses reaches
// every alert.
func sources(t *testing.T, key string) (files []string) {
	t.Helper()
	for _, name := range []string{"lib.libsonnet", "alerts/gpu.libsonnet", "alerts/collector.libsonnet", "alerts/comfyui.libsonnet", "rules/rules.libsonnet"} {
		raw, err := os.ReadFile(filepath.Join(root, Dir, name))
		require.NoError(t, err)
		if !regexp.MustCompile(`config(\.` + key + `\b|\['` + key + `'\])`).Match(raw) {
			continue
		}
		if name == "lib.libsonnet" {
			name = "alerts/comfyui.libsonnet"
		}
		files = append(files, name)
	}
	return files
}

// TestEachSettingHasAnEffect changes one setting after another, and evaluates the files
// that use it.
func TestEachSettingHasAnEffect(t *testing.T) {
	vm := jsonnet.MakeVM()
	vm.Importer(&jsonnet.FileImporter{JPaths: []string{filepath.Join(root, Dir)}})
	text := func(file, config string) string {
		out, err := vm.EvaluateAnonymousSnippet("rules", fmt.Sprintf(
			"local m = { prometheusAlerts:: {}, prometheusRules:: {} } + (import 'config.libsonnet') + (import '%s') + { _config+:: %s }; [m.prometheusAlerts, m.prometheusRules]", file, config))
		require.NoError(t, err)
		return out
	}
	before := map[string]string{}
	all := settings(t)
	require.Greater(t, len(all), 50)
	for key, value := range all {
		raw, err := json.Marshal(changed(value))
		require.NoError(t, err)
		operator := "+:"
		if _, object := value.(map[string]any); !object {
			operator = ":"
		}
		files := sources(t, key)
		assert.NotEmpty(t, files, "nothing uses %s", key)
		for _, file := range files {
			if before[file] == "" {
				before[file] = text(file, "{}")
			}
			assert.NotEqual(t, before[file], text(file, fmt.Sprintf("{ %q%s %s }", key, operator, raw)), "%s in %s", key, file)
		}
	}
}

func TestEachAlertHasItsFor(t *testing.T) {
	rules := evaluate(t, "prometheusAlerts", `{ "for"+: { GPULost: '77m' } }`).All()
	for _, rule := range rules {
		assert.Equal(t, rule.Alert == "GPULost", rule.For == "77m", rule.Alert)
	}
	assert.Len(t, settings(t)["for"], len(rules), "an entry in for is of no rule")
}

func TestXIDsAreThoseOfTheCatalogue(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, "internal", "xid", "catalogue.yaml"))
	require.NoError(t, err)
	var catalogue struct {
		XIDs []struct {
			XID  int
			Tier string
		} `yaml:"xids"`
	}
	require.NoError(t, yaml.Unmarshal(raw, &catalogue))
	want := map[string][]int{}
	for _, x := range catalogue.XIDs {
		key := map[string]string{"reset": "xidsCritical", "reboot": "xidsCritical", "workflow": "xidsWorkflow", "application": "xidsApplication"}[x.Tier]
		want[key] = append(want[key], x.XID)
	}
	config := settings(t)
	for _, key := range []string{"xidsCritical", "xidsWorkflow", "xidsApplication"} {
		var got []int
		for _, n := range config[key].([]any) {
			got = append(got, int(n.(float64)))
		}
		slices.Sort(want[key])
		assert.Equal(t, want[key], got, key)
	}
}

// TestBucketsExist compares the bounds that rules name with the histograms.
func TestBucketsExist(t *testing.T) {
	config := settings(t)
	read := func(path string, into any) {
		raw, err := os.ReadFile(filepath.Join(root, path))
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(raw, into))
	}
	var comfyui struct {
		Connectors struct {
			SpanMetrics struct {
				Histogram struct{ Explicit struct{ Buckets []string } }
			} `yaml:"span_metrics"`
		}
	}
	read("config/comfyui.yaml", &comfyui)
	assert.Contains(t, comfyui.Connectors.SpanMetrics.Histogram.Explicit.Buckets, config["latencyBucket"].(string)+"s")

	var nvml struct {
		Telemetry struct {
			Metrics map[string]struct {
				Histogram struct {
					Boundaries []float64 `yaml:"bucket_boundaries"`
				}
			}
		}
	}
	read("receiver/nvmlreceiver/metadata.yaml", &nvml)
	bound, err := strconv.ParseFloat(config["readingSlowBucket"].(string), 64)
	require.NoError(t, err)
	assert.Contains(t, nvml.Telemetry.Metrics["receiver.nvml.card.duration"].Histogram.Boundaries, bound)
}

// TestThePagesForTheCommandLineEvaluate evaluates what the mixin's README names.
func TestThePagesForTheCommandLineEvaluate(t *testing.T) {
	for page, field := range map[string]string{"alerts.jsonnet": "prometheusAlerts", "rules.jsonnet": "prometheusRules"} {
		vm := jsonnet.MakeVM()
		vm.StringOutput = true
		out, err := vm.EvaluateFile(filepath.Join(root, Dir, page))
		require.NoError(t, err)
		path := filepath.Join(t.TempDir(), "rules.yaml")
		require.NoError(t, os.WriteFile(path, []byte(out), 0o600))
		groups, err := Read(path)
		require.NoError(t, err)
		assert.Equal(t, evaluate(t, field, "{}"), groups)
	}
}

// TestTheReadmesExampleEvaluates evaluates the example as it is when the mixin is vendored.
func TestTheReadmesExampleEvaluates(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root, Dir, "README.md"))
	require.NoError(t, err)
	_, text, _ := strings.Cut(string(raw), "```jsonnet\n")
	example, _, found := strings.Cut(text, "```")
	require.True(t, found)
	vm := jsonnet.MakeVM()
	vm.StringOutput = true
	vm.Importer(&jsonnet.FileImporter{JPaths: []string{filepath.Dir(filepath.Join(root, Dir))}})
	out, err := vm.EvaluateAnonymousSnippet("example", example)
	require.NoError(t, err)
	for _, want := range []string{`hw_gpu_memory_limit_bytes{job="otelcol-gpu"}`, "> 0.9\n", "https://wiki.example.com/runbooks/GPULost", `"for": "3m"`, "group by (cluster, instance)"} {
		assert.True(t, strings.Contains(out, want), want) //nolint:testifylint // the whole file would be printed
	}
}

// Every for, window and interval of the alerts is shorter, and nothing else differs.
func TestShorterTimesAreAllThatDiffers(t *testing.T) {
	config, err := Shorter(root, 30)
	require.NoError(t, err)
	shipped, short := evaluate(t, "prometheusAlerts", "{}"), evaluate(t, "prometheusAlerts", config)
	duration := regexp.MustCompile(`\b(\d+(ms|[smhd]))+\b`)
	require.Len(t, short.Groups, len(shipped.Groups))
	for i := range shipped.Groups {
		a, b := &shipped.Groups[i], &short.Groups[i]
		assert.Equal(t, thirtieth(t, a.Interval), b.Interval, a.Name)
		for k := range a.Rules {
			assert.Equal(t, thirtieth(t, a.Rules[k].For), b.Rules[k].For, a.Rules[k].Alert)
			want := duration.ReplaceAllStringFunc(a.Rules[k].Expr, func(s string) string { return thirtieth(t, s) })
			want = strings.Replace(want, "* 21600\n", "* 720\n", 1) // the leak's six hours, in seconds
			assert.Equal(t, want, b.Rules[k].Expr, a.Rules[k].Alert)
		}
	}
}

func thirtieth(t *testing.T, text string) string {
	t.Helper()
	d, err := model.ParseDuration(text)
	require.NoError(t, err, text)
	return (d / 30).String()
}

// TestTheMixinHasTheDashboards compares them with those of deploy/grafana.
func TestTheMixinHasTheDashboards(t *testing.T) {
	want := map[string]any{}
	paths, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "dashboards", "*.json"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		var dashboard any
		require.NoError(t, json.Unmarshal(raw, &dashboard))
		want[filepath.Base(path)] = dashboard
	}
	vm := jsonnet.MakeVM()
	vm.Importer(&jsonnet.FileImporter{JPaths: []string{filepath.Join(root, Dir)}})
	out, err := vm.EvaluateAnonymousSnippet("dashboards", "(import 'mixin.libsonnet').grafanaDashboards")
	require.NoError(t, err)
	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &got))
	assert.Equal(t, want, got)
}
