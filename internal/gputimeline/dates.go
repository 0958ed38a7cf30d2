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
	// first: it is that of the first read, and may be a period older.
	first bool
}

// dater dates the refreshes of a quantity while its reads come in: what is made from the
// dates is the same for everybody who asks. What a new refresh says of those before, as far
// back as maxRevised, is used until somebody has asked for them.
type dater struct {
	cadence
	dates []dated
	// frozen are the times up to which dates stay as they are.
	frozen int64
}

// read adds a read, which is newer than those before.
func (d *dater) read(at int64, value float64) {
	before, old, first := d.at, d.value, d.reads == 0
	d.add(at, value)
	switch {
	case first:
		d.put(dated{at: at, value: value, after: at, by: at, doubt: usualPeriod.Nanoseconds() / 2, first: true})
	case value == old && d.reads < settledReads: // it is not known yet whether it was refreshed
	case d.isShort(): // refreshed within every read interval: the last refresh is as good as now
		d.put(dated{at: at, value: value, after: before, by: at, doubt: int64(d.interval / shortDoubt)})
	case value != old:
		d.refreshed(before, at, value)
	}
}

// late adds a read that is older than others: its value is taken to be of its own time, if
// nobody has asked for that yet.
func (d *dater) late(at int64, value float64) {
	i := d.search(at)
	if at <= d.frozen || i < len(d.dates) && d.dates[i].at == at {
		return
	}
	d.dates = slices.Insert(d.dates, i, dated{at: at, value: value, after: at, by: at, doubt: int64(d.interval / 2)})
}

// shortDoubt is what part of a read interval the date of a refresh may be off by if the
// period is shorter than that interval: the mean age of a refresh if the period is anything
// up to the interval.
const shortDoubt = 4

// readError is by how much the time of a read may be off, in ns: what passes between the
// receiver's look at its clock and the driver's at the counter.
const readError = 2_000_000

// refreshed dates a refresh between two reads.
func (d *dater) refreshed(after, by int64, value float64) {
	x := dated{value: value, after: after, by: by, at: (after + by) / 2, doubt: (by - after) / 2}
	if d.known() {
		x.after = max(after, by-int64(d.maxPeriod)) // the last of several
		if d.fit(float64(x.after-readError), float64(by+readError)); d.known() {
			x.at, x.doubt = int64((d.earliest+d.latest)/2), int64((d.latest-d.earliest)/2)
			d.revise()
		}
	}
	d.put(x)
}

// maxRevised bounds the dates that a new refresh can revise.
const maxRevised = 16

// revise narrows the dates of earlier refreshes by what is known of the last one.
func (d *dater) revise() {
	period := d.period()
	for i := len(d.dates) - 1; i >= max(len(d.dates)-maxRevised, 0); i-- {
		x := &d.dates[i]
		steps := math.Round(((d.earliest+d.latest)/2 - float64(x.at)) / period)
		if x.at <= d.frozen || steps < 1 {
			return
		}
		least, most := d.back(x, steps)
		for _, other := range [...]float64{steps - 1, steps + 1} { // it may be another number of steps
			if a, b := d.back(x, other); other >= 1 && a <= b {
				return
			}
		}
		if most < least || i > 0 && (least+most)/2 <= d.dates[i-1].at {
			return
		}
		x.at, x.doubt = (least+most)/2, (most-least)/2
	}
}

// back are the bounds of an earlier refresh, a number of steps before the last one.
func (d *dater) back(x *dated, steps float64) (least, most int64) {
	wide := slack * d.period()
	least = max(x.at-x.doubt, x.after, int64(d.earliest-steps*(d.maxPeriod+wide)))
	most = min(x.at+x.doubt, x.by, int64(d.latest-steps*(d.minPeriod-wide)))
	return least, most
}

// freeze keeps the dates up to a time as they are.
func (d *dater) freeze(at int64) { d.frozen = max(d.frozen, at) }

// put appends a refresh. No two are closer than they can be.
func (d *dater) put(x dated) {
	if n := len(d.dates); n > 0 {
		x.at = max(x.at, d.dates[n-1].at+max(d.Period().Nanoseconds()/4, 1))
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
