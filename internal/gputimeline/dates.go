// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"cmp"
	"math"
	"slices"
)

// dated is a value of a quantity, and when the driver refreshed it to that value.
type dated struct {
	at    int64
	value float64
	// after and by are the reads between which the refresh lies, doubt is the half-width of
	// what its date may be off by.
	after, by, doubt int64
}

// dater dates the refreshes of a quantity while its reads come in, once and for all: what
// is made from the dates is the same for everybody who asks.
//
// Where the period is known, each refresh lies on a grid. Of the last refresh it knows the
// earliest and the latest time; each new one must lie a number of periods later and between
// two reads, so that the two times approach each other as reads come at different phases
// of the grid.
type dater struct {
	cadence
	dates []dated
	// least and most are the earliest and the latest time of the last refresh, if onGrid.
	least, most float64
	onGrid      bool
}

// read adds a read, which is newer than those before.
func (d *dater) read(at int64, value float64) {
	before, old, first := d.at, d.value, d.reads == 0
	d.add(at, value)
	switch {
	case first:
		d.put(dated{at: at, value: value, after: at, by: at})
	case d.isShort(): // refreshed within every read interval: the last refresh is as good as now
		d.onGrid = false
		d.put(dated{at: at, value: value, after: before, by: at, doubt: int64(d.interval / shortDoubt)})
	case value != old:
		d.refreshed(before, at, value)
	}
}

// shortDoubt is what part of a read interval the date of a refresh may be off by if the
// period is shorter than that interval: the mean age of a refresh if the period is anything
// up to the interval.
const shortDoubt = 4

// refreshed dates a refresh between two reads.
func (d *dater) refreshed(after, by int64, value float64) {
	x := dated{value: value, after: after, by: by}
	if d.period > 0 {
		x.after = max(after, by-int64(d.period)) // the last of several
		d.fit(float64(x.after), float64(by))
		x.at, x.doubt = int64((d.least+d.most)/2), int64((d.most-d.least)/2)
	} else {
		d.onGrid = false
		x.at, x.doubt = (after+by)/2, (by-after)/2
	}
	d.put(x)
}

// fit narrows the earliest and the latest time of a refresh between two reads by those of
// the refresh before.
func (d *dater) fit(after, by float64) {
	if !d.onGrid {
		d.least, d.most, d.onGrid = after, by, true
		return
	}
	steps := math.Round(((after+by)/2 - (d.least+d.most)/2) / d.period)
	drift := steps * d.drift()
	least, most := d.least+steps*d.period-drift, d.most+steps*d.period+drift
	switch {
	case most < after: // later than the grid says: as little as possible
		d.least, d.most = after, min(by, after+(after-most))
	case least > by:
		d.least, d.most = max(after, by-(least-by)), by
	default:
		d.least, d.most = max(least, after), min(most, by)
	}
}

// put appends a refresh. No two are closer than they can be.
func (d *dater) put(x dated) {
	if n := len(d.dates); n > 0 {
		x.at = max(x.at, d.dates[n-1].at+max(int64(d.period/4), 1))
	}
	d.dates = append(d.dates, x)
}

// forget drops what is before a time, but for the last before it, and all but the newest.
func (d *dater) forget(before int64, limit int) {
	from := max(d.search(before)-1, len(d.dates)-limit, 0)
	d.dates = d.dates[from:]
}

// bound drops the oldest refresh beyond a limit. A scrape may bring any number of reads.
func (d *dater) bound(limit int) {
	if len(d.dates) > limit {
		d.dates = d.dates[1:]
	}
}

// search is the place of the first refresh that is not before a time.
func (d *dater) search(at int64) int {
	i, _ := slices.BinarySearchFunc(d.dates, at, func(x dated, at int64) int { return cmp.Compare(x.at, at) })
	return i
}

// around copies the refreshes of an interval, and the ones before and after it.
func (d *dater) around(w Interval) dater {
	c := *d
	from := max(d.search(w.From)-1, 0)
	to := min(d.search(w.To)+1, len(d.dates))
	c.dates = slices.Clone(d.dates[from:max(to, from)])
	return c
}
