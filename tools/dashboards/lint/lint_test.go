// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	root     = "../../.."
	grafana  = root + "/deploy/grafana/dashboards"
	vmui     = root + "/deploy/vmui/dashboards"
	runbooks = root + "/docs/runbooks"
)

// broken copies a folder of dashboards, with a text of one file replaced once.
func broken(t *testing.T, folder, file, before, after string) string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	require.NoError(t, err)
	copied := t.TempDir()
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		text := string(raw)
		if filepath.Base(path) == file {
			require.True(t, strings.Contains(text, before), before) //nolint:testifylint // the whole file would be printed
			text = strings.Replace(text, before, after, 1)
		}
		require.NoError(t, os.WriteFile(filepath.Join(copied, filepath.Base(path)), []byte(text), 0o600))
	}
	return copied
}

func TestTheDashboardsHaveNoFault(t *testing.T) {
	faults, panels, err := Grafana(grafana, runbooks)
	require.NoError(t, err)
	assert.Empty(t, faults)
	assert.Greater(t, panels, 100)
	faults, panels, err = VMUI(vmui)
	require.NoError(t, err)
	assert.Empty(t, faults)
	assert.Greater(t, panels, 20)
}

// TestEachRuleFindsItsFault breaks one thing after another in a copy of the dashboards.
func TestEachRuleFindsItsFault(t *testing.T) {
	const stat = `"title": "GPUs by condition",`
	for name, test := range map[string]struct{ file, before, after, want string }{
		"an unknown field":               {"gpus.json", stat, stat + ` "subtitle": "x",`, "unexpected field 'subtitle'"},
		"a missing field":                {"gpus.json", `"schemaVersion": 42,`, "", "required field is missing"},
		"a wrong type":                   {"gpus.json", `"editable": true`, `"editable": "yes"`, "decode"},
		"a uid of another kind":          {"gpus.json", `"uid": "otelcol-gpu-gpus"`, `"uid": "a1b2c3"`, "links would break"},
		"two dashboards with one title":  {"gpus.json", `"title": "GPUs",`, `"title": "ComfyUI",`, "has the same title"},
		"a fixed data source":            {"gpus.json", `"uid": "${datasource}"`, `"uid": "P1809F7CD0C75ACF3"`, "data source is not a variable"},
		"a data source without variable": {"gpus.json", `"uid": "${datasource}"`, `"uid": "${metrics}"`, "data source is not a variable"},
		"a panel without unit":           {"gpus.json", `"unit": "watt",`, "", "it has no unit"},
		"a fixed interval":               {"gpus.json", "[$__rate_interval]", "[5m]", "is not over $__rate_interval"},
		"a whole range over time":        {"gpu.json", "(hw_gpu_io_bytes_total{instance=~\\\"$host\\\", hw_name=~\\\"$gpu(/.*)?\\\"}[$__rate_interval])", "(hw_gpu_io_bytes_total{instance=~\\\"$host\\\", hw_name=~\\\"$gpu(/.*)?\\\"}[$__range])", "is not over $__rate_interval"},
		"a mean over a fixed range":      {"capacity.json", "avg_over_time(comfyui:picture_joules:mean1h[$__range])", "avg_over_time(comfyui:picture_joules:mean1h[1h])", "not a moment's over $__range"},
		"a query without the host":       {"gpus.json", `max by (instance, hw_name) (hw_power_watts{instance=~\"$host\", `, `max by (instance, hw_name) (hw_power_watts{`, `lacks the matcher instance=~"$host"`},
		"a query without the GPU":        {"gpu.json", `hw_gpu_bar1_usage_bytes{instance=~\"$host\", hw_name=~\"$gpu(/.*)?\"}`, `hw_gpu_bar1_usage_bytes{instance=~\"$host\"}`, `lacks the matcher hw_name=~"$gpu(/.*)?"`},
		"a query without the server":     {"comfyui.json", `sum(comfyui_up{instance=~\"$server\"})`, `sum(comfyui_up)`, `lacks the matcher instance=~"$server"`},
		"an unknown variable":            {"gpus.json", `sum by (state) (hw_gpu_count{instance=~\"$host\"})`, `sum by (state) (hw_gpu_count{instance=~\"$host\", job=~\"$job\"})`, "the dashboard has no variable job"},
		"an unused variable":             {"gpus.json", `"name": "gpu",`, `"name": "card",`, "nothing uses the variable card"},
		"a query that does not parse":    {"gpus.json", `sum by (state) (hw_gpu_count`, `sum by state (hw_gpu_count`, "parse error"},
		"a query without a metric":       {"comfyui.json", `sum(comfyui_up{`, `sum({`, "names no metric"},
		"two panels with one title":      {"gpus.json", stat, `"title": "Power",`, "its title is not its own"},
		"two panels with one id":         {"gpus.json", `"id": 3,`, `"id": 2,`, "its id 2 is not its own"},
		"a panel outside of the columns": {"gpus.json", `"w": 4,`, `"w": 25,`, "outside of the 24 columns"},
		"panels that overlap":            {"gpus.json", `"w": 4,`, `"w": 5,`, "it overlaps"},
		"a panel that does not explain":  {"gpus.json", `"noValue": "no XID occurred in this range"`, `"noValue": "No data"`, "why it can be empty"},
		"a panel without description":    {"gpus.json", `"description": "Of all GPUs.",`, `"description": "",`, "it has no description"},
		"lines without a legend":         {"gpus.json", `"legendFormat": "{{instance}} {{hw_name}}",`, "", "it has no legend"},
		"a query of neither kind":        {"gpus.json", `"instant": true,`, `"instant": false,`, "either of a moment or of a range"},
		"exemplars of no bucket":         {"comfyui.json", `"expr": "sum by (instance, state) (comfyui_queue_length`, `"exemplar": true, "expr": "sum by (instance, state) (comfyui_queue_length`, "exemplars are those of buckets"},
		"a link to no dashboard":         {"gpus.json", "/d/otelcol-gpu-gpu?", "/d/otelcol-gpu-card?", "there is no dashboard with this uid"},
		"a link to no runbook":           {"gpus.json", "/docs/runbooks/${__value.raw}.md", "/docs/runbooks/alerts.md", "runbook of the alert"},
		"a link that leads nowhere":      {"comfyui.json", "/explore?", "/exploration?", "it leads nowhere"},
		"a link with a broken query":     {"comfyui.json", "panes=%7B", "panes=", "invalid character"},
		"a link to no data source":       {"comfyui.json", "${tempo}", "${zipkin}", "the dashboard has no variable zipkin"},
		"no link to the others":          {"gpus.json", `"includeVars": true`, `"includeVars": false`, "no link leads to the dashboards"},
		"a hidden link":                  {"gpus.json", `"asDropdown": true,`, `"asDropdown": true, "placement": "inControlsMenu",`, "a link is hidden"},
		"no link to the runbooks":        {"gpus.json", "docs/runbooks/README.md", "docs/README.md", "no link leads to the runbooks"},
	} {
		t.Run(name, func(t *testing.T) {
			faults, _, err := Grafana(broken(t, grafana, test.file, test.before, test.after), runbooks)
			require.NoError(t, err)
			text := ""
			for _, fault := range faults {
				text += fault.Error() + "\n"
			}
			assert.Contains(t, text, test.want)
		})
	}
}

// TestEachRuleOfVMUIFindsItsFault does so in a copy of the dashboards of vmui, which itself
// ignores what it does not know.
func TestEachRuleOfVMUIFindsItsFault(t *testing.T) {
	const file, expr = "1-gpus.json", `topk_max(20, max by (instance, hw_name) (hw_power_watts))`
	for name, test := range map[string]struct{ before, after, want string }{
		"an unknown key":                 {`"unit": "W",`, `"unit": "W", "stacked": true,`, "unknown field"},
		"a file that does not parse":     {`"rows": [`, `"rows": [[`, "invalid character"},
		"too many series":                {"topk_max(20, ", "topk_max(21, ", "21 series, and vmui draws 20"},
		"series without a bound":         {expr, "hw_power_watts", "not bounded by topk_max"},
		"a variable":                     {"(hw_power_watts)", "(hw_power_watts[$__rate_interval])", "vmui has no variables"},
		"an alias too few":               {`"alias": [` + "\n" + `      "{{instance}} {{hw_name}}"` + "\n     ]", `"alias": []`, "1 expressions and 0 aliases"},
		"a panel without title":          {`"title": "Power by GPU"`, `"title": ""`, "it has no title"},
		"two panels with one title":      {`"title": "Power by GPU"`, `"title": "Temperature"`, "is there twice"},
		"a panel without description":    {`"description": "Of the GPU itself."`, `"description": ""`, "it has no description"},
		"a title that promises a reason": {" Empty if no XID occurred in this range.", "", "its description not why"},
		"a description of Grafana":       {`"description": "Of the GPU itself."`, `"description": "Points are single prompts."`, `mentions "Points"`},
		"a trace":                        {`"description": "Of the GPU itself."`, `"description": "Each leads to its trace."`, "vmui has neither exemplars nor links"},
		"a panel that is too wide":       {`"width": 6`, `"width": 13`, "not 1 to 12"},
		"a panel without legend":         {`"showLegend": true`, `"showLegend": false`, "it has no legend"},
	} {
		t.Run(name, func(t *testing.T) {
			faults, _, err := VMUI(broken(t, vmui, file, test.before, test.after))
			require.NoError(t, err)
			text := ""
			for _, fault := range faults {
				text += fault.Error() + "\n"
			}
			assert.Contains(t, text, test.want)
		})
	}
	nine := broken(t, vmui, file, `"rows": [`, `"rows": [{"title": "More", "panels": [{"title": "Ninth", "description": "x", "unit": "", "width": 6, "showLegend": true, "expr": ["topk_max(1, x)"], "alias": ["x"]}]},`)
	faults, _, err := VMUI(nine)
	require.NoError(t, err)
	require.Len(t, faults, 1)
	assert.ErrorContains(t, faults[0], "it has 9 panels")
}
