// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// bill is what one span's time on a GPU came to. Pointers are nil where the
// samples do not show it.
type bill struct {
	memoryBill
	meanUtilization *float64 // 1, divided among those that shared the GPU
	peakUtilization *float64 // 1, the GPU's
	energyBill
	temperature *float64 // Cel, the highest
	gpuTime     float64  // s of the GPU, divided among those that shared it
	throttle    map[string]float64
	xids        []xidEvent

	simulated  bool
	samples    int           // within the time
	gap        time.Duration // the longest between two samples that the figures depend on
	shared     time.Duration // with others
	foreign    time.Duration // beside processes without traces
	concurrent int           // that used the GPU at once, the span's own trace included
	length     time.Duration // of the time
}

// maxSpanXIDs bounds the XIDs that become events of one span.
const maxSpanXIDs = 16

// billOf adds up what a GPU did in the intervals of a span, which are within those of the
// view; pid is that of the span's process, 0 if it is not known.
func billOf(g *view, intervals []gputimeline.Interval, pid int64, late gputimeline.Lateness, settings *EnergySettings) *bill {
	b := &bill{concurrent: 1, simulated: g.Simulated}
	b.countSamples(g, intervals)
	b.addLoad(g, intervals)
	b.addForeign(g, intervals, pid)
	b.addMemory(g, intervals, pid)
	b.energyBill = energyOf(g, intervals, late, settings)
	b.addTemperature(g, intervals)
	b.addThrottling(g, intervals)
	for _, x := range g.xids {
		for _, w := range intervals {
			if x.at >= w.From && x.at <= w.To && len(b.xids) < maxSpanXIDs {
				b.xids = append(b.xids, x)
				break
			}
		}
	}
	return b
}

// countSamples counts the samples that the figures depend on.
func (b *bill) countSamples(g *view, intervals []gputimeline.Interval) {
	for _, w := range intervals {
		b.length += time.Duration(w.Length())
		from := g.Pace.Search(w.From)
		last := w.From // what is before the first sample is a gap, too
		if from > 0 {
			last = g.Pace.Points[from-1].At
		}
		i := from
		for ; i < len(g.Pace.Points) && g.Pace.Points[i].At <= w.To; i++ {
			b.samples++
			b.gap = max(b.gap, time.Duration(g.Pace.Points[i].At-last))
			last = g.Pace.Points[i].At
		}
		next := w.To
		if i < len(g.Pace.Points) {
			next = g.Pace.Points[i].At
		}
		b.gap = max(b.gap, time.Duration(next-last))
	}
}

// addIfBoth is the sum of two figures; nil if one is not known: a part of a sum would pass for the
// whole.
func addIfBoth(a, b *float64) *float64 {
	if a == nil || b == nil {
		return nil
	}
	s := *a + *b
	return &s
}

func larger(a *float64, v float64) *float64 {
	if a != nil && *a >= v {
		return a
	}
	return &v
}

// sharesWithin are the shares that have a part of a window of the view.
func (v *view) sharesWithin(w gputimeline.Interval) []share {
	first, _ := slices.BinarySearchFunc(v.shares, w.From, func(s share, from int64) int { return cmp.Compare(s.To, from) })
	end := first
	for end < len(v.shares) && v.shares[end].From <= w.To {
		end++
	}
	return v.shares[first:end]
}

// addLoad adds up utilisation and time, each part divided by those that shared it.
func (b *bill) addLoad(g *view, intervals []gputimeline.Interval) {
	var busy float64
	var busySeen int64
	for _, w := range intervals {
		for _, s := range g.sharesWithin(w) {
			part, _ := w.Clip(s.Interval)
			n := float64(s.n)
			b.gpuTime += float64(part.Length()) / 1e9 / n
			if s.n > 1 && part.Length() > 0 {
				b.shared += time.Duration(part.Length())
				b.concurrent = max(b.concurrent, s.n)
			}
			u, seen := g.Utilization.HeldIntegral(part)
			busy += u / n
			busySeen += seen
		}
		// The value at a time is the average of the time before.
		if v, ok := g.Utilization.Max(w); ok {
			b.peakUtilization = larger(b.peakUtilization, v)
		}
	}
	if busySeen > 0 {
		mean := busy / (float64(busySeen) / 1e9)
		b.meanUtilization = &mean
	}
}

func (b *bill) addTemperature(g *view, intervals []gputimeline.Interval) {
	for _, w := range intervals {
		if v, ok := g.Temperature.Max(w); ok {
			b.temperature = larger(b.temperature, v)
		} else if v, ok := g.Temperature.Nearest(w.To); ok {
			b.temperature = larger(b.temperature, v)
		}
	}
}

// addThrottling adds how long the GPU was throttled, by reason, in s. Reasons overlap.
func (b *bill) addThrottling(g *view, intervals []gputimeline.Interval) {
	for reason, s := range g.Throttle {
		total := 0.0
		for _, w := range intervals {
			rise, _ := s.Rise(w)
			total += rise
		}
		if total > 0 {
			if b.throttle == nil {
				b.throttle = map[string]float64{}
			}
			b.throttle[reason] = total
		}
	}
}

// add adds another GPU's bill to this one: a request that used two.
func (b *bill) add(other *bill) {
	b.addMemoryOf(&other.memoryBill)
	b.energy, b.marginal = addIfBoth(b.energy, other.energy), addIfBoth(b.marginal, other.marginal)
	b.rest, b.restMemory = b.rest+other.rest, b.restMemory+other.restMemory
	b.uncertainty = math.Hypot(b.uncertainty, other.uncertainty)
	b.reason, b.noRest = cmp.Or(b.reason, other.reason), b.noRest || other.noRest
	b.division = coarser(b.division, other.division)
	b.method = lessExact(b.method, other.method)
	b.gpuTime += other.gpuTime
	if b.meanUtilization != nil && other.meanUtilization != nil && b.length+other.length > 0 {
		mean := (*b.meanUtilization*float64(b.length) + *other.meanUtilization*float64(other.length)) / float64(b.length+other.length)
		b.meanUtilization = &mean
	}
	if other.peakUtilization != nil {
		b.peakUtilization = larger(b.peakUtilization, *other.peakUtilization)
	}
	if other.temperature != nil {
		b.temperature = larger(b.temperature, *other.temperature)
	}
	for reason, seconds := range other.throttle {
		if b.throttle == nil {
			b.throttle = map[string]float64{}
		}
		b.throttle[reason] = max(b.throttle[reason], seconds) // by the clock, at the same time
	}
	b.simulated = b.simulated || other.simulated
	b.xids = append(b.xids, other.xids...)
	b.samples = min(b.samples, other.samples)
	b.gap = max(b.gap, other.gap)
	b.shared, b.foreign = max(b.shared, other.shared), max(b.foreign, other.foreign)
	b.concurrent = max(b.concurrent, other.concurrent)
	b.length += other.length
}
