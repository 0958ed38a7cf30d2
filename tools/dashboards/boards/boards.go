// SPDX-License-Identifier: Apache-2.0

// Package boards holds the dashboards: what they show, by which expressions, and why a panel
// may be empty.
package boards

import "github.com/otelcol-gpu/otelcol-gpu/tools/dashboards/board"

// All are the dashboards of Grafana, in the order of the documentation.
func All() []board.Dashboard {
	return []board.Dashboard{gpus(), gpu(), comfyui(), capacity()}
}

// Pages are the dashboards of vmui, which shows the first one first.
func Pages() []board.VMUIPage {
	return []board.VMUIPage{
		{Name: pageGPUs, Title: "GPUs"},
		{Name: pageDepth, Title: "GPUs in depth"},
		{Name: pageComfyUI, Title: "ComfyUI"},
	}
}

// Pages of vmui, by file name.
const (
	pageGPUs    = "1-gpus"
	pageDepth   = "2-gpus-in-depth"
	pageComfyUI = "3-comfyui"
)

// Reasons why a panel is empty.
const (
	noSamples    = "no samples in this range: is the collector running on this host?"
	noMIG        = "the GPU is in MIG mode, for which the driver reports no utilisation"
	noProfiling  = "the GPU has no profiling metrics (they need Hopper or newer)"
	noNVLink     = "the GPU has no NVLink"
	noECC        = "the GPU has no ECC, or ECC is disabled"
	noXID        = "no XID occurred in this range"
	noThrottling = "no GPU was throttled in this range"
	noTelemetry  = "the collector's own telemetry is not scraped: docs/telemetry.md"
	noPrompts    = "no prompts ran in this range"
	noHistory    = "no recorded history: load the recording rules (docs/history.md) and run some prompts"
)

// Widths of panels, in columns.
const (
	whole   = 24
	half    = 12
	third   = 8
	quarter = 6
	sixth   = 4
)

// Heights of panels.
const (
	low  = 4
	tall = 8
)

// units of the values, as Grafana calls them.
const (
	byteSize = "bytes"
	share    = "percentunit"
	number   = "short"
	seconds  = "s"
	watts    = "watt"
	joules   = "joule"
	celsius  = "celsius"
	hertz    = "hertz"
	rate     = "Bps"
)

const gpuLegend = "{{instance}} {{hw_name}}"

func source() board.Variable { return board.Variable{Name: "datasource", Label: "Metrics"} }

func hosts() board.Variable {
	return board.Variable{Name: "host", Label: "Host", Query: "label_values(hw_gpu_count, instance)"}
}

func someGPUs() board.Variable {
	return board.Variable{Name: "gpu", Label: "GPU", Query: `label_values(hw_gpu_up{instance=~"$host"}, hw_name)`}
}

// chart is lines over time.
func chart(title, unit string, width uint32, absent, description string, queries ...board.Query) board.Panel {
	p := board.Panel{Kind: board.TimeSeries, Title: title, Unit: unit, Width: width, Height: tall, Absent: absent, Description: description, Queries: queries}
	if unit == share {
		p.Max = 1
	}
	return p
}

// value is a number of this moment, or of the whole range.
func value(title, unit string, width uint32, absent, description, expr, legend string) board.Panel {
	return board.Panel{Kind: board.Stat, Title: title, Unit: unit, Width: width, Height: low, Absent: absent, Description: description,
		Queries: []board.Query{{Expr: expr, Legend: legend}}}
}

// on puts a panel on a page of vmui.
func on(page, row, when string, p board.Panel, series ...int) board.Panel {
	p.VMUI = &board.VMUI{Page: page, Row: row, When: when, Series: series}
	return p
}

// inVMUI gives a panel another description in vmui, where the one of Grafana would be false.
func inVMUI(description string, p board.Panel) board.Panel {
	p.VMUI.Description = description
	return p
}

func q(expr, legend string) board.Query { return board.Query{Expr: expr, Legend: legend} }

// risen is by how much counters rose, by labels: also those whose first sample is not 0, of
// which Prometheus sees no increase.
func risen(by, counter, legend string) board.Query {
	increase := `increase(` + counter + `[$__rate_interval])`
	return board.Query{
		Expr:   `sum by (` + by + `) (` + increase + ` > 0 or (` + counter + ` > 0 unless ` + counter + ` offset $__rate_interval))`,
		VMUI:   `sum by (` + by + `) (increase(` + counter + `[5m])) > 0`, // a point of one moment is not seen
		Legend: legend,
	}
}

// counted is by how much counters rose that are older than the collector, such as those of the
// driver: MetricsQL's increase would count all of a first sample.
func counted(by, counter, legend string) board.Query {
	return board.Query{
		Expr:   `sum by (` + by + `) (increase(` + counter + `[$__rate_interval]))`,
		VMUI:   `sum by (` + by + `) (increase_prometheus(` + counter + `[5m]))`,
		Legend: legend,
	}
}

// firing lists the alerts of hosts, GPUs or servers, with their runbooks.
func firing(title string, width uint32, matcher string) board.Panel {
	return board.Panel{
		Kind: board.Table, Title: title, Unit: "none", Width: width, Height: tall, Absent: "no alert is firing",
		Description: "Alerts of deploy/prometheus/rules/alerts.yaml, evaluated by Prometheus or vmalert. Click an alert for its runbook.",
		Queries:     []board.Query{q(`max by (alertname, severity, instance, hw_name) (ALERTS{`+matcher+`, alertstate="firing"})`, "")},
		Columns: []board.Column{
			{Field: "alertname", Title: "Alert", Link: &board.Link{Title: "Runbook", URL: board.Runbooks + "${__value.raw}.md"}},
			{Field: "severity", Title: "Severity"}, {Field: "instance", Title: "Host or server"}, {Field: "hw_name", Title: "GPU"},
		},
	}
}
