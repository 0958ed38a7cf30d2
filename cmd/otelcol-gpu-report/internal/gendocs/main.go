// SPDX-License-Identifier: Apache-2.0

// Command gendocs writes docs/history.md from the report's questions and the
// recording rules. Its argument is the repository's root; `make generate` runs it.
package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/cmd/otelcol-gpu-report/internal/report"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gendocs ROOT")
		os.Exit(2)
	}
	if err := generate(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "gendocs:", err)
		os.Exit(1)
	}
}

func generate(root string) error {
	history, err := historyPage(root)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "docs", "history.md"), history, 0o644)
}

// historyText is what docs/history.md says besides its tables.
const historyText = `# The history of a photo service

<!-- Written by make generate: the questions stand in cmd/otelcol-gpu-report/internal/report/questions.go, the rules in deploy/prometheus/rules. -->

What [config/comfyui.yaml](../config/comfyui.yaml) writes to the store answers these questions: when the peak is, what people's photos take against those of
buildings, which GPUs were bought and are idle, how fast each model version is, how concurrency and utilisation go together, and what an image costs in joules,
card-seconds and money. Three ways lead to the answers.

## A page

` + "```console" + `
make report STORE=http://127.0.0.1:8428 WINDOW=7d     # or: otelcol-gpu-report -store … -window 24h, 7d, 30d
` + "```" + `

It asks Prometheus, VictoriaMetrics or whatever speaks their API, and writes one HTML file without scripts and without anything from elsewhere. ` + "`-timezone`" + ` sets the
hours of the day, ` + "`-price-kwh`" + ` and ` + "`-price-card-hour`" + ` the costs, ` + "`-token-file`" + ` a bearer token. Here on a simulated week, in which the facts were planted that a
test reads out of the page again (peak at 20:00, buildings with 2.6 times the memory of people, GPU 3 idle):

![The report on a simulated week](images/report.png)

With ` + "`TRACES=http://127.0.0.1:16686`" + ` (` + "`-traces`" + `, Jaeger's query API) it tells of the slowest images too, and why each was slow: the wait for others, a node, a GPU that
held itself back; with every span, its time, energy and peak memory. Here after a rush of photos in ` + "`make run`" + `:

![The slowest images: most of the time they waited for others](images/slow.png)

## PromQL

` + "`$window`" + ` is the time to look at, such as 7d. Questions over time are asked with a range query; ` + "`$grain`" + ` is the distance of the points that a
subquery looks at, 5m for a week.

`

const rulesText = `
## Recording rules

[deploy/prometheus/rules/history.yaml](../deploy/prometheus/rules/history.yaml) keeps the answers as series, for dashboards and alerts; prices stand in
[prices.yaml](../deploy/prometheus/rules/prices.yaml). ` + "`promtool test rules deploy/prometheus/tests/*.yaml`" + ` (part of ` + "`make test`" + `) shows each with figures.

The peak hour (UTC) and the mean day:

` + "```promql" + `
topk(1, avg_over_time(comfyui:pictures_per_hour:by_hour[7d]))
avg_over_time(comfyui:pictures_per_hour:by_hour[7d])
` + "```" + `

Buildings against people; GPUs that are idle for a day:

` + "```promql" + `
avg_over_time(comfyui:gpu_memory_peak_bytes:mean1h{comfyui_task_class="buildings"}[7d]) / ignoring(comfyui_task_class) avg_over_time(comfyui:gpu_memory_peak_bytes:mean1h{comfyui_task_class="people"}[7d])
avg_over_time(gpu:idle:ratio1h[1d]) > 0.95
` + "```" + `

`

// historyPage is docs/history.md.
func historyPage(root string) ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(historyText)
	for _, q := range report.Questions {
		over := ""
		if q.Range {
			over = " (over time)"
		}
		fmt.Fprintf(&out, "%s%s:\n\n```promql\n%s\n```\n\n", q.Text, over, q.PromQL)
	}
	out.WriteString(strings.TrimLeft(rulesText, "\n"))
	out.WriteString("| series | expression |\n| --- | --- |\n")
	for _, name := range []string{"history.yaml", "prices.yaml"} {
		raw, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "rules", name))
		if err != nil {
			return nil, err
		}
		var file struct {
			Groups []struct {
				Rules []struct{ Record, Expr string }
			}
		}
		if err := yaml.Unmarshal(raw, &file); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		for _, g := range file.Groups {
			for _, r := range g.Rules {
				fmt.Fprintf(&out, "| `%s` | `%s` |\n", r.Record, strings.ReplaceAll(r.Expr, "|", "\\|"))
			}
		}
	}
	return out.Bytes(), nil
}
