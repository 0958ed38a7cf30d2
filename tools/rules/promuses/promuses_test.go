// SPDX-License-Identifier: Apache-2.0

package promuses

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/tools/rules/mixin"
)

func TestAnExpressionNamesMetricsAndLabels(t *testing.T) {
	for expr, want := range map[string][]Use{
		`a{x="1",y!~"2"} > 0`:                                          {{Metric: "a", Labels: []string{"x", "y"}}},
		`a > 0 and on (i) b{s="t"} == 1`:                               {{Metric: "a", Labels: []string{"i"}}, {Metric: "b", Labels: []string{"i", "s"}}},
		`sum by (i, c) (rate(a_total{o="e"}[5m]))`:                     {{Metric: "a_total", Labels: []string{"c", "i", "o"}}},
		`max without (s) (a) / b`:                                      {{Metric: "a", Labels: []string{"s"}}, {Metric: "b"}},
		`a - ignoring (l) b{l="x"}`:                                    {{Metric: "a"}, {Metric: "b", Labels: []string{"l"}}},
		`{__name__="a",x="1"}`:                                         {{Metric: "a", Labels: []string{"x"}}},
		`min_over_time((a - on (h) sum by (h) (b))[30m:1m] offset 1h)`: {{Metric: "a", Labels: []string{"h"}}, {Metric: "b", Labels: []string{"h"}}},
		// Labels that the expression makes are none of the metric's.
		`sum by (k) (label_replace(a, "k", "v", "i", ".*"))`: {{Metric: "a"}},
		`sum by (hour) (count_values("hour", a))`:            {{Metric: "a"}},
		`vector(1)`: {},
	} {
		got, err := Expression("", expr)
		require.NoError(t, err, expr)
		for i := range got {
			if len(got[i].Labels) == 0 {
				got[i].Labels = nil
			}
		}
		assert.ElementsMatch(t, want, got, expr)
	}
	_, err := Expression("here", `{__name__=~"a|b"}`)
	assert.ErrorContains(t, err, "here: ")
	_, err = Expression("here", `a >`)
	assert.ErrorContains(t, err, "here: ")
}

func TestTextsOfAlertsNameLabels(t *testing.T) {
	uses, err := Rule("r", &mixin.Rule{
		Expr:        `a{x="1"} > b or label_replace(b, "made", "v", "i", ".*")`,
		Annotations: map[string]string{"summary": "{{ $labels.instance }} {{ $labels.made }}", "action": "{{ $labels.gpu }}"},
	})
	require.NoError(t, err)
	texts := uses[len(uses)-1]
	assert.Equal(t, Use{Where: "r (annotations)", Metric: "a", Labels: []string{"gpu", "instance"}, Alternatives: []string{"b"}}, texts)
}

func TestPagesNameMetrics(t *testing.T) {
	uses, err := Text("page", "# A\n\n```promql\na{x=\"1\"}\n\nsum(\n  b\n)\n```\n\n```console\nc\n```\n\n```promql\nd\n```\n")
	require.NoError(t, err)
	var metrics []string
	for _, u := range uses {
		metrics = append(metrics, u.Metric)
	}
	assert.Equal(t, []string{"a", "b", "d"}, metrics)
	_, err = Text("page", "```promql\na{\n```\n")
	assert.ErrorContains(t, err, "page: ")
}

func TestTheRepositoryNamesItsMetrics(t *testing.T) {
	uses, err := Repository("../../..")
	require.NoError(t, err)
	found := map[string]bool{}
	for _, u := range uses {
		found[u.Metric] = true
	}
	for _, metric := range []string{"hw_gpu_state", "comfyui_prompts_total", "otelcol_exporter_queue_size", "comfyui_queue_duration_seconds_bucket"} {
		assert.True(t, found[metric], metric)
	}
	for _, metric := range []string{"gpu:price:per_kwh", "dcgm_fb_used", "ALERTS"} {
		assert.False(t, found[metric], metric)
	}
}

func TestDashboardsNameMetricsAndLabels(t *testing.T) {
	uses, err := Dashboard("d.json", []byte(`{"panels": [{"title": "P", "targets": [
		{"expr": "sum by (x) (rate(a{y=~\"$y\"}[$__rate_interval])) / on () b", "legendFormat": "{{x}} {{z}}"}]}]}`))
	require.NoError(t, err)
	assert.Equal(t, []Use{
		{Where: "d.json: P", Metric: "a", Labels: []string{"x", "y"}}, {Where: "d.json: P", Metric: "b"},
		{Where: "d.json: P (legend)", Metric: "a", Labels: []string{"x", "z"}, Alternatives: []string{"b"}},
	}, uses)
	_, err = Dashboard("d.json", []byte(`{"panels": [{"title": "P", "targets": [{"expr": "a{"}]}]}`))
	assert.ErrorContains(t, err, "d.json: P: ")
	uses, err = Repository("../../..")
	require.NoError(t, err)
	assert.Contains(t, uses, Use{Where: "gpu.json: Active NVLinks", Metric: "hw_gpu_nvlink_state", Labels: []string{"hw_name", "instance"}})
}
