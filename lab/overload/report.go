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

// Report prints figures of a set-up at an offered load, without those that a run does not have. With
// goals each is printed beside its goal.
func Report(setup Setup, offered float64, response string, f Figures, goals bool) {
	for _, row := range rows {
		v := *row.of(&f) * row.scale
		name := fmt.Sprintf("overload.%s.%gx.%s.%s", setup.Name, offered, response, row.name)
		switch {
		case math.IsNaN(v):
		case !goals || math.IsNaN(row.goal):
			figure.Print(name, v, row.unit)
		case row.least:
			figure.AtLeast(name, v, row.unit, row.goal)
		default:
			figure.AtMost(name, v, row.unit, row.goal)
		}
	}
}
