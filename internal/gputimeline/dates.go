// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"time"
)

// dated is a value of a quantity and when the driver refreshed it to that value.
type dated struct {
	at    int64
	value float64
	// after and by are the reads between which the change lies.
	after, by int64
}

// refreshes finds when a quantity was refreshed, from reads of it. With a period, the last
// refresh of each change lies between two reads, and all lie on a grid; without, the time
// of a refresh is that of the read. doubt is the half-width of what the dates may be off
// by, in ns.
func refreshes(reads []Point, period int64, late int64) (all []dated, doubt float64) {
	for i, p := range reads {
		if i > 0 && p.Value == reads[i-1].Value && period > 0 {
			continue
		}
		d := dated{at: p.At, value: p.Value, after: p.At, by: p.At}
		if period > 0 {
			if d.after = p.At - period; i > 0 {
				d.after = max(d.after, reads[i-1].At)
			}
		}
		all = append(all, d)
	}
	if period == 0 {
		for i := range all {
			all[i].at -= late
		}
		return all, 0
	}
	if len(all) > 0 && len(reads) > 1 { // its own change may be long ago
		all[0].after = all[0].by - period
	}
	for from := 0; from < len(all); from += gridBlock {
		doubt = max(doubt, grid(all[from:min(from+gridBlock, len(all))], period))
	}
	for i := range all {
		all[i].at -= late
		if i > 0 && all[i].at <= all[i-1].at {
			all[i].at = all[i-1].at + 1
		}
	}
	return all, doubt
}

// gridBlock is how many refreshes are put on one grid: the period is not known well
// enough for more.
const gridBlock = 32

// grid puts refreshes on the grid of a period that fits all of them best, and returns the
// half-width of the grids that fit.
func grid(all []dated, period int64) (doubt float64) {
	p := float64(period)
	middle := func(d *dated) float64 { return float64(d.after+d.by-2*all[0].by) / 2 }
	least, most := math.Inf(-1), math.Inf(1)
	mean, first := 0.0, middle(&all[0])
	if len(all) > 1 {
		first = middle(&all[1])
	}
	for i := range all {
		d := &all[i]
		step := math.Round((middle(d) - first) / p)
		least = max(least, float64(d.after-all[0].by)-step*p)
		most = min(most, float64(d.by-all[0].by)-step*p)
		mean += (middle(d) - step*p) / float64(len(all))
	}
	at := (least + most) / 2
	if doubt = (most - least) / 2; doubt < 0 { // no grid fits all: a change of period, late reads
		at, doubt = mean, p/8
	}
	base := all[0].by
	for i := range all {
		d := &all[i]
		step := math.Round((middle(d) - first) / p)
		d.at = min(max(base+int64(at+step*p), d.after), d.by)
	}
	return doubt
}

// inAnyOf reports whether any of the intervals, which are sorted and apart, has a part in
// common with a time.
func inAnyOf(active []Interval, w Interval) bool {
	for _, a := range active {
		if a.From < w.To && a.To > w.From {
			return true
		}
	}
	return false
}

// fresh is the age up to which instant power shows where energy was used within a step of
// the counter.
const fresh = 25 * time.Millisecond
