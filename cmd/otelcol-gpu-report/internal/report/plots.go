// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"fmt"
	"html/template"
	"image/color"
	"math"
	"regexp"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// palette can be distinguished by the colour-blind (Okabe and Ito).
var palette = []color.RGBA{{0, 114, 178, 255}, {230, 159, 0, 255}, {0, 158, 115, 255}, {204, 121, 167, 255}, {86, 180, 233, 255}, {213, 94, 0, 255}}

const plotWidth, plotHeight = 16 * vg.Centimeter, 6.5 * vg.Centimeter

// drawable replaces what is not a number, which the plotters refuse: its place stays
// empty.
func drawable(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

func newPlot(y string) *plot.Plot {
	p := plot.New()
	p.Y.Label.Text, p.Y.Min = y, 0
	for _, f := range []*font.Font{&p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font, &p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		f.Variant, f.Size = "Sans", 9
	}
	p.Legend.Top, p.Legend.Padding = true, vg.Points(3)
	p.Add(plotter.NewGrid())
	return p
}

// nominal names the places on the x axis, and leaves room at its ends and above the
// highest bar.
func nominal(p *plot.Plot, names []string) {
	p.NominalX(names...)
	p.X.Min, p.X.Max = -0.6, float64(len(names))-0.4
	p.Y.Max *= 1.25
}

// svg draws a plot; text stays text.
func svg(p *plot.Plot, title string) (template.HTML, error) {
	c := vgsvg.NewWith(vgsvg.UseWH(plotWidth, plotHeight))
	p.Draw(draw.New(c))
	var raw bytes.Buffer
	if _, err := c.WriteTo(&raw); err != nil {
		return "", fmt.Errorf("draw %s: %w", title, err)
	}
	text := declaration.ReplaceAllString(raw.String(), "")
	text = families.ReplaceAllString(text, "font-family:system-ui,sans-serif")
	label := template.HTMLEscapeString(title)
	text = size.ReplaceAllString(text, `<svg role="img" aria-label="`+label+`" `)
	return template.HTML(text), nil //nolint:gosec // made here, of numbers and escaped names
}

var (
	declaration = regexp.MustCompile(`(?s)^.*?-->\n`)
	families    = regexp.MustCompile(`font-family:Liberation [A-Za-z]+`)
	size        = regexp.MustCompile(`<svg width="[^"]*" height="[^"]*" `)
)

// hoursPlot shows the images of each hour of the day, classes upon each other.
func (r *Report) hoursPlot() (template.HTML, error) {
	p := newPlot("images per hour")
	names := make([]string, 24)
	for i := range names {
		names[i] = fmt.Sprintf("%02d", i)
	}
	var below *plotter.BarChart
	for i, c := range r.Classes {
		bars, err := plotter.NewBarChart(plotter.Values(c.Hours[:]), vg.Points(13))
		if err != nil {
			return "", err
		}
		bars.Color, bars.LineStyle.Width = palette[i%len(palette)], 0
		if below != nil {
			bars.StackOn(below)
		}
		below = bars
		p.Add(bars)
		p.Legend.Add(c.Name, bars)
	}
	p.Legend.Left = true
	nominal(p, names)
	p.X.Label.Text = "hour of the day, " + r.Zone.String()
	return svg(p, "Images in each hour of the day")
}

// gpusPlot shows how busy each GPU was.
func (r *Report) gpusPlot() (template.HTML, error) {
	p := newPlot("mean utilisation, %")
	values, names := make(plotter.Values, len(r.GPUs)), make([]string, len(r.GPUs))
	for i, c := range r.GPUs {
		values[i], names[i] = drawable(100*c.Utilization), c.Name
		if len(r.GPUs) <= 6 {
			names[i] = c.Instance + " " + c.Name
		}
	}
	bars, err := plotter.NewBarChart(values, vg.Points(max(6, min(40, 300/float64(max(len(values), 1))))))
	if err != nil {
		return "", err
	}
	bars.Color, bars.LineStyle.Width = palette[0], 0
	p.Add(bars)
	nominal(p, names)
	p.Y.Max = min(max(p.Y.Max, 1), 100)
	return svg(p, "Mean utilisation of each GPU")
}

// pairsPlot shows concurrency against utilisation.
func (r *Report) pairsPlot() (template.HTML, error) {
	p := newPlot("utilisation, %")
	points := make(plotter.XYs, len(r.Concurrency))
	for i := range points {
		points[i] = plotter.XY{X: r.Concurrency[i], Y: 100 * r.Utilization[i]}
	}
	dots, err := plotter.NewScatter(points)
	if err != nil {
		return "", err
	}
	dots.GlyphStyle = draw.GlyphStyle{Color: palette[0], Radius: vg.Points(1.6), Shape: draw.CircleGlyph{}}
	p.Add(dots)
	p.X.Label.Text, p.X.Min = "prompts that run or wait", 0
	p.X.Max *= 1.05
	p.Y.Max = min(max(1.25*p.Y.Max, 1), 100)
	return svg(p, "Concurrency against utilisation")
}

// modelsPlot shows how long each model takes.
func (r *Report) modelsPlot() (template.HTML, error) {
	p := newPlot("execution, s")
	mean, p95, names := make(plotter.Values, len(r.Models)), make(plotter.Values, len(r.Models)), make([]string, len(r.Models))
	for i, m := range r.Models {
		mean[i], p95[i], names[i] = drawable(m.Mean), drawable(m.P95), m.Name
	}
	const width = 16
	for i, v := range []plotter.Values{mean, p95} {
		bars, err := plotter.NewBarChart(v, vg.Points(width))
		if err != nil {
			return "", err
		}
		bars.Color, bars.LineStyle.Width, bars.Offset = palette[i], 0, vg.Points(float64(2*i-1)*width/2)
		p.Add(bars)
		p.Legend.Add([]string{"mean", "95th percentile"}[i], bars)
	}
	nominal(p, names)
	p.Legend.Left = true
	return svg(p, "Time by model")
}
