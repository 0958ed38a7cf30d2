// SPDX-License-Identifier: Apache-2.0

package gputimeline

import "time"

// powerCurve integrates instant power. At the edge of all use the reading of each side is
// the power up to the edge.
func (t *Timeline) powerCurve(active []Interval) *Curve {
	c := &Curve{Method: MethodInstant, Period: t.power.Period(), share: 1}
	values := t.power.dates
	total := 0.0
	for i := range values[:max(len(values)-1, 0)] {
		a, b := &values[i], &values[i+1]
		x := cell{Interval: Interval{a.at, b.at}, watts: b.value, doubts: [2]int64{a.doubt, b.doubt}}
		lead, tail, whole := idleEnds(active, x.Interval)
		seconds := func(from, to int64) float64 { return float64(to-from) / 1e9 }
		c.put(a.at, total)
		switch {
		case whole || lead == x.From && tail == x.To: // the same on both sides
			x.joules = (a.value + b.value) / 2 * seconds(a.at, b.at)
		case lead > x.From && tail == x.To:
			x.lead = &outside{to: lead, watts: a.value}
			c.put(lead, total+a.value*seconds(a.at, lead))
			x.joules = a.value*seconds(a.at, lead) + b.value*seconds(lead, b.at)
		case lead == x.From:
			x.tail = &outside{to: tail, watts: b.value}
			c.put(tail, total+a.value*seconds(a.at, tail))
			x.joules = a.value*seconds(a.at, tail) + b.value*seconds(tail, b.at)
		default:
			x.joules = (a.value + b.value) / 2 * seconds(a.at, b.at)
		}
		total += x.joules
		c.cells = append(c.cells, x)
	}
	if n := len(values); n > 0 {
		c.put(values[n-1].at, total)
	}
	return c
}

// averageWindow is over what time the driver averages power.
const averageWindow = int64(time.Second)

// averageCurve places each average in the time that it is of. It is an estimate: an edge
// within that time cannot be seen. Some drivers show the average of the last whole second
// until the next: then only the readings that show another value say when it was.
func (t *Timeline) averageCurve(active []Interval) *Curve {
	c := &Curve{Method: MethodAverage, share: 1, blur: float64(averageWindow) / 1e9}
	points := t.PowerAverage.Points
	changed := changes(points)
	whole := len(changed) > 1 && len(changed) < len(points)/2
	if whole {
		points, c.blur = changed, 2.2*c.blur
	}
	total := 0.0
	for i := range points[:len(points)-1] {
		p, q := points[i], points[i+1]
		x := cell{Interval: Interval{p.At - averageWindow/2, q.At - averageWindow/2}}
		x.joules = (p.Value + q.Value) / 2 * float64(x.Length()) / 1e9
		if whole {
			x.Interval = Interval{p.At, q.At}
			x.joules = q.Value * float64(x.Length()) / 1e9
		}
		c.put(x.From, total)
		total += x.joules
		c.put(x.To, total)
		c.cells = append(c.cells, x)
	}
	for i := range c.cells {
		if whole {
			c.refine(i, active, nil)
		}
	}
	return c
}

// changes are the points at which a value differs from the one before.
func changes(points []Point) (all []Point) {
	for i, p := range points {
		if i == 0 || p.Value != points[i-1].Value {
			all = append(all, p)
		}
	}
	return all
}
