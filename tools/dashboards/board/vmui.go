// SPDX-License-Identifier: Apache-2.0

package board

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// VMUIDashboard is a dashboard as vmui reads it.
type VMUIDashboard struct {
	Title string    `json:"title"`
	Rows  []VMUIRow `json:"rows"`
}

// VMUIRow is a heading of vmui and the panels below it. Only the first row is open.
type VMUIRow struct {
	Title  string      `json:"title"`
	Panels []VMUIPanel `json:"panels"`
}

// VMUIPanel is a line chart of vmui.
type VMUIPanel struct {
	Title       string   `json:"title"`
	Description string   `json:"description"`
	Unit        string   `json:"unit"`
	Width       int      `json:"width"`
	ShowLegend  bool     `json:"showLegend"`
	Expr        []string `json:"expr"`
	Alias       []string `json:"alias"`
}

// VMUIPage is the name and the title of a dashboard of vmui; files are shown in the order of
// their names.
type VMUIPage struct{ Name, Title string }

// VMUIMaxSeries is what vmui draws in a panel; it leaves out what is beyond.
const VMUIMaxSeries = 20

// vmuiUnits are how numbers are written, which vmui neither scales nor rounds.
var vmuiUnits = map[string]struct{ format, unit string }{
	"bytes": {"round((%s) / 2^30, 0.01)", "GiB"}, "percentunit": {"round((%s) * 100, 0.1)", "%"}, "hertz": {"(%s) / 1e6", "MHz"},
	"Bps": {"round((%s) / 1e6, 0.1)", "MB/s"}, "s": {"round(%s, 0.001)", "s"}, "watt": {"%s", "W"}, "joule": {"round(%s, 0.1)", "J"}, "celsius": {"%s", "°C"}, "short": {"%s", ""},
}

// VMUIFiles writes the pages of vmui, by name, from the panels of dashboards that are marked for it.
func VMUIFiles(pages []VMUIPage, dashboards []Dashboard) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, page := range pages {
		d := VMUIDashboard{Title: page.Title}
		for i := range dashboards {
			if err := d.add(page.Name, &dashboards[i]); err != nil {
				return nil, err
			}
		}
		for _, row := range d.Rows {
			width := 6
			if len(row.Panels)%3 == 0 {
				width = 4 // no hole beside the last one
			}
			for i := range row.Panels {
				row.Panels[i].Width = width
			}
		}
		raw, err := encode(d)
		if err != nil {
			return nil, err
		}
		files[page.Name] = raw
	}
	return files, nil
}

// add appends the panels of a dashboard that belong to a page.
func (d *VMUIDashboard) add(page string, from *Dashboard) error {
	for _, row := range from.Rows {
		for i := range row.Panels {
			p := &row.Panels[i]
			if p.VMUI == nil || p.VMUI.Page != page {
				continue
			}
			panel, err := p.vmui()
			if err != nil {
				return fmt.Errorf("%s: %s: %w", from.Name, p.Title, err)
			}
			at := slices.IndexFunc(d.Rows, func(r VMUIRow) bool { return r.Title == p.VMUI.Row })
			if at < 0 {
				d.Rows = append(d.Rows, VMUIRow{Title: p.VMUI.Row})
				at = len(d.Rows) - 1
			}
			d.Rows[at].Panels = append(d.Rows[at].Panels, panel)
		}
	}
	return nil
}

func (p *Panel) vmui() (VMUIPanel, error) {
	unit, ok := vmuiUnits[p.Unit]
	if !ok {
		return VMUIPanel{}, fmt.Errorf("%q is not a unit that is known for vmui", p.Unit)
	}
	if len(p.VMUI.Series) != len(p.Queries) {
		return VMUIPanel{}, fmt.Errorf("%d bounds of series for %d queries", len(p.VMUI.Series), len(p.Queries))
	}
	panel := VMUIPanel{Title: p.Title, Description: cmp.Or(p.VMUI.Description, p.Description), Unit: unit.unit, ShowLegend: true}
	if p.VMUI.When != "" {
		panel.Title += " (" + p.VMUI.When + ")"
		panel.Description += " Empty if " + p.Absent + "."
	}
	for i, q := range p.Queries {
		expr := vmuiExpr(cmp.Or(q.VMUI, q.Expr))
		panel.Expr = append(panel.Expr, fmt.Sprintf("topk_max(%d, %s)", p.VMUI.Series[i], fmt.Sprintf(unit.format, expr)))
		panel.Alias = append(panel.Alias, q.Legend)
	}
	return panel, nil
}

var (
	matcher  = regexp.MustCompile(`\$(?:GPU|HOST|SERVER)(?:,\s*)?`)
	interval = regexp.MustCompile(`\[\$__rate_interval\]`)
)

// vmuiExpr is an expression for all hosts, GPUs and servers. MetricsQL chooses the interval
// of a rate itself.
func vmuiExpr(expr string) string {
	expr = matcher.ReplaceAllString(expr, "")
	expr = interval.ReplaceAllString(expr, "")
	return strings.ReplaceAll(expr, "{}", "")
}
