// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"gib":     func(v float64) string { return known(v, fmt.Sprintf("%.2f GiB", v/(1<<30))) },
	"percent": func(v float64) string { return known(v, fmt.Sprintf("%.1f %%", 100*v)) },
	"seconds": func(v float64) string { return known(v, fmt.Sprintf("%.2f s", v)) },
	"joules":  func(v float64) string { return known(v, fmt.Sprintf("%.0f J", v)) },
	"kwh":     func(v float64) string { return known(v, fmt.Sprintf("%.1f kWh", v/3.6e6)) },
	"count":   func(v float64) string { return known(v, fmt.Sprintf("%.0f", math.Round(v))) },
	"times":   func(v float64) string { return known(v, fmt.Sprintf("%.1f", v)) },
	"money":   func(v float64, currency string) string { return known(v, fmt.Sprintf("%.5f %s", v, currency)) },
	"hour":    func(h int) string { return fmt.Sprintf("%02d:00", h) },
	"indent":  func(depth int) float64 { return 0.6 + 1.2*float64(depth) },
	"isnan":   math.IsNaN,
	"names": func(gpus []GPU) string {
		all := make([]string, len(gpus))
		for i, c := range gpus {
			all[i] = c.Name
		}
		return strings.Join(all, ", ")
	},
	"days": func(window time.Duration) string {
		if window < 48*time.Hour {
			return fmt.Sprintf("%.4g hours", window.Hours())
		}
		return fmt.Sprintf("%.0f days", math.Ceil(window.Hours()/24))
	},
}).Parse(pageText))

// known is a text with a value, or "unknown" if the value is not a number.
func known(v float64, text string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "unknown"
	}
	return text
}

// HTML is the report as one page without scripts and without external resources.
func (r *Report) HTML() ([]byte, error) {
	data := struct {
		*Report
		HoursPlot, GPUsPlot, PairsPlot, ModelsPlot template.HTML
	}{Report: r}
	for _, item := range []struct {
		to   *template.HTML
		draw func() (template.HTML, error)
		has  bool
	}{
		{&data.HoursPlot, r.hoursPlot, len(r.Classes) > 0 && r.PeakHour >= 0},
		{&data.GPUsPlot, r.gpusPlot, len(r.GPUs) > 0},
		{&data.PairsPlot, r.pairsPlot, len(r.Concurrency) > 2},
		{&data.ModelsPlot, r.modelsPlot, len(r.Models) > 0},
	} {
		if !item.has {
			continue
		}
		drawn, err := item.draw()
		if err != nil {
			return nil, err
		}
		*item.to = drawn
	}
	var out bytes.Buffer
	if err := page.Execute(&out, data); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
