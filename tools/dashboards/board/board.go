// SPDX-License-Identifier: Apache-2.0

// Package board describes dashboards once, and writes them for Grafana and for vmui, the page
// of VictoriaMetrics.
package board

import "strings"

// Kind is how Grafana draws a panel.
type Kind string

// The kinds of panels. A TimeSeries, a Heatmap and a StateTimeline query the time range, the
// others one moment.
const (
	TimeSeries    Kind = "timeseries"
	Heatmap       Kind = "heatmap"
	StateTimeline Kind = "state-timeline"
	Stat          Kind = "stat"
	BarGauge      Kind = "bargauge"
	BarChart      Kind = "barchart"
	Table         Kind = "table"
)

// Dashboard is one page.
type Dashboard struct {
	// Name is the file's name without its extension; the UID is made of it.
	Name, Title, Description string
	// From is the beginning of the time range, such as now-6h.
	From      string
	Variables []Variable
	Rows      []Row
}

// UID is the same in each version, so that links and bookmarks last.
func (d *Dashboard) UID() string { return UIDPrefix + d.Name }

// UIDPrefix begins each UID.
const UIDPrefix = "otelcol-gpu-"

// Runbooks is where the runbook of each alert is.
const Runbooks = "https://github.com/otelcol-gpu/otelcol-gpu/blob/main/docs/runbooks/"

// Variable is a choice at the top of a dashboard.
type Variable struct {
	Name, Label string
	// Query lists the values: label_values(…).
	Query string
	// Single allows only one value, otherwise several or all.
	Single bool
}

// Row is a heading and the panels below it.
type Row struct {
	Title  string
	Panels []Panel
}

// Panel is one chart, number or table.
type Panel struct {
	Kind        Kind
	Title       string
	Description string
	// Absent says why the panel is empty where it is: Grafana shows it instead of "No data".
	Absent  string
	Unit    string
	Queries []Query
	// Width is in columns of 24; Height in Grafana's units.
	Width, Height uint32
	// Max bounds the axis, such as 1 for shares.
	Max float64
	// Values are texts for numbers.
	Values []Value
	// Columns are those of a table, in order; labels and values without one are hidden.
	Columns []Column
	// Category is the label along the horizontal axis of a BarChart.
	Category string
	// Links lead from a value elsewhere.
	Links []Link
	// VMUI puts the panel on a dashboard of vmui, too.
	VMUI *VMUI
}

// Query is one expression. In its selectors $GPU, $HOST and $SERVER stand for the matchers
// of a dashboard's variables.
type Query struct {
	Expr, Legend string
	// Exemplars asks for them too, which lead to traces.
	Exemplars bool
	// VMUI is the expression for vmui, where it is not the same.
	VMUI string
	// RightUnit puts the series on an axis of their own, with this unit.
	RightUnit string
}

// Value is the text of a number and its colour.
type Value struct{ Number, Text, Color string }

// Column is a column of a table: a label, or "Value #A" for the first query.
type Column struct {
	Field, Title, Unit string
	Link               *Link
}

// Link leads from a value to another page. Grafana fills in what is in ${}.
type Link struct{ Title, URL string }

// VMUI says how a panel is shown by vmui, which draws nothing but lines.
type VMUI struct {
	// Page is the name of the dashboard, and Row the title of the row.
	Page, Row string
	// Description replaces that of Grafana, where it mentions what vmui does not have.
	Description string
	// When says in the title when there is something to see, if that is not always so.
	When string
	// Series are the most series that a query may have, by query; those with the largest
	// values are shown.
	Series []int
}

// matchers are what stands for a dashboard's variables in a selector. The expression that
// follows the GPU's name matches its fans and MIG devices.
var matchers = map[string]string{
	"$GPU":    `instance=~"$host", hw_name=~"$gpu(/.*)?"`,
	"$HOST":   `instance=~"$host"`,
	"$SERVER": `instance=~"$server"`,
}

// grafanaExpr is an expression with the variables' matchers.
func grafanaExpr(expr string) string {
	for name, text := range matchers {
		expr = strings.ReplaceAll(expr, name, text)
	}
	return expr
}
