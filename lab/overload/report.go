// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"fmt"
	"math"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// row is one of the [Figures] as it is printed.
type row struct {
	name  string
	of    func(f *Figures) *float64
	least bool    // the least is the worst
	goal  float64 // in percent; NaN where there is none
	unit  string
	scale float64
}

// rows are all figures. The goals are those of a response, in overload, on set-ups whose servers fit.
var rows = []row{
	{"useful", func(f *Figures) *float64 { return &f.Useful }, true, 95, "%", 100},
	{"dead_work", func(f *Figures) *float64 { return &f.Dead }, false, math.NaN(), "%", 100},
	{"core_within_objective", func(f *Figures) *float64 { return &f.Core }, true, 99, "%", 100},
	{"batch_within_objective", func(f *Figures) *float64 { return &f.Batch }, true, math.NaN(), "%", 100},
	{"batch_of_what_core_leaves", func(f *Figures) *float64 { return &f.BatchOfRest }, true, 90, "%", 100},
	{"out_of_memory", func(f *Figures) *float64 { return &f.OutOfMemory }, false, math.NaN(), "%", 100},
	{"idle_while_wanted", func(f *Figures) *float64 { return &f.Idle }, false, 2, "%", 100},
	{"drain_error_p95", func(f *Figures) *float64 { return &f.DrainError }, false, math.NaN(), "%", 100},
	{"core_covered_least", func(f *Figures) *float64 { return &f.CoreCovered }, true, 86, "%", 100},
	{"core_covered_largest", func(f *Figures) *float64 { return &f.CoreCoveredMax }, false, 97, "%", 100},
	{"batch_covered_least", func(f *Figures) *float64 { return &f.BatchCovered }, true, 86, "%", 100},
	{"batch_covered_largest", func(f *Figures) *float64 { return &f.BatchCoveredMax }, false, 97, "%", 100},
	{"core_band_width", func(f *Figures) *float64 { return &f.CoreWidth }, false, math.NaN(), "%", 100},
	{"core_band_widths", func(f *Figures) *float64 { return &f.CoreWidths }, true, math.NaN(), "predictions", 1},
	{"retries", func(f *Figures) *float64 { return &f.Retries }, false, math.NaN(), "per_client", 1},
	{"first_retry_accepted", func(f *Figures) *float64 { return &f.FirstRetry }, true, math.NaN(), "%", 100},
}

// Worst are the worst of each figure; those that a run does not have do not count.
func Worst(runs []Figures) (worst Figures) {
	for _, row := range rows {
		at := row.of(&worst)
		*at = math.NaN()
		for i := range runs {
			v := *row.of(&runs[i])
			if math.IsNaN(*at) || row.least && v < *at || !row.least && v > *at {
				*at = v
			}
		}
	}
	return worst
}

// goalOf is a figure's goal in a run with a response; NaN where there is none.
func (r *row) goalOf(setup Setup, offered float64) float64 {
	switch r.name {
	case "useful", "batch_of_what_core_leaves":
		if offered < 2 {
			return math.NaN() // there is not as much to do
		}
	case "core_band_width": // a prompt's speed halves with what comes to the neighbour
		if offered < 2 {
			return math.NaN() // of a dozen predictions a run at most: see core_band_widths
		}
		if setup.Servers > 1 {
			return 60
		}
		return 30
	}
	return r.goal
}

// Report prints figures of a set-up at an offered load, without those that a run does not have. With
// goals each is printed beside its goal.
func Report(setup Setup, offered float64, response string, f Figures, goals bool) {
	for _, row := range rows {
		v, goal := *row.of(&f)*row.scale, row.goalOf(setup, offered)
		name := fmt.Sprintf("overload.%s.%gx.%s.%s", setup.Name, offered, response, row.name)
		switch {
		case math.IsNaN(v):
		case !goals || math.IsNaN(goal):
			figure.Print(name, v, row.unit)
		case row.least:
			figure.AtLeast(name, v, row.unit, goal)
		default:
			figure.AtMost(name, v, row.unit, goal)
		}
	}
}
