// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import "time"

// bill is what one span's time on a GPU came to. Pointers are nil where the
// samples do not tell.
type bill struct {
	peak, start, end *float64 // memory, By
	process          bool     // the memory is the process's own, else the GPU's
	meanUtilization  *float64 // 1, divided among those that shared the GPU
	peakUtilization  *float64 // 1, the GPU's
	energy           *float64 // J, divided among those that shared the GPU
	marginal         *float64 // J, the same without the power at rest
	rest             float64  // W
	temperature      *float64 // Cel, the highest
	gpuTime          float64  // s of the GPU, divided among those that shared it
	throttle         map[string]float64
	xids             []xidEvent

	simulated bool
	samples   int           // within the time
	gap       time.Duration // the longest between two samples that the figures stand on
	shared    time.Duration // with others
	most      int           // that used the GPU at once, the span's own trace included
	length    time.Duration // of the time
}

// billOf adds up what a GPU did in the windows of a span. shares divides (at least)
// these windows among the traces that used the GPU; pid is that of the span's
// process, 0 if it is not known.
func billOf(t *timeline, windows []window, shares []share, pid int64) *bill {
	b := &bill{most: 1, simulated: t.simulated}
	b.account(t, windows)
	b.memory(t, windows, pid)
	b.load(t, windows, shares)
	b.heat(t, windows)
	b.heldBack(t, windows)
	for _, x := range t.xids {
		for _, w := range windows {
			if x.at >= w.from && x.at <= w.to {
				b.xids = append(b.xids, x)
				break
			}
		}
	}
	return b
}

// account counts the samples that the figures stand on.
func (b *bill) account(t *timeline, windows []window) {
	for _, w := range windows {
		b.length += time.Duration(w.length())
		from := t.pace.search(w.from)
		last := w.from // what is before the first sample is a gap, too
		if from > 0 {
			last = t.pace.points[from-1].at
		}
		i := from
		for ; i < len(t.pace.points) && t.pace.points[i].at <= w.to; i++ {
			b.samples++
			b.gap = max(b.gap, time.Duration(t.pace.points[i].at-last))
			last = t.pace.points[i].at
		}
		next := w.to
		if i < len(t.pace.points) {
			next = t.pace.points[i].at
		}
		b.gap = max(b.gap, time.Duration(next-last))
	}
}

// memory takes the process's memory where it was sampled, else the GPU's.
func (b *bill) memory(t *timeline, windows []window, pid int64) {
	usage, most := &t.memory, &t.memoryMax
	if own := t.processMemory[pid]; pid != 0 && own != nil && coversAny(own, windows) {
		usage, most, b.process = own, nil, true
	}
	if len(usage.points) == 0 {
		return
	}
	for _, w := range windows {
		if v, ok := usage.most(w); ok {
			b.peak = larger(b.peak, v)
		}
		if most != nil { // those of steps that lie within the window
			most.steps(w, func(_, q point, _ window, share float64) {
				if share == 1 {
					b.peak = larger(b.peak, q.v)
				}
			})
		}
	}
	start, ok := usage.nearest(windows[0].from)
	if !ok {
		return
	}
	end, _ := usage.nearest(windows[len(windows)-1].to)
	b.start, b.end = &start, &end
	if b.peak == nil { // no sample lies within
		b.peak = larger(&start, end)
	}
}

// coversAny reports whether a process's memory is known around any of the windows.
func coversAny(s *stream, windows []window) bool {
	newest, ok := s.newest()
	if !ok {
		return false
	}
	for _, w := range windows {
		if _, ok := w.clip(window{s.points[0].at, newest}); ok {
			return true
		}
	}
	return false
}

func larger(a *float64, v float64) *float64 {
	if a != nil && *a >= v {
		return a
	}
	return &v
}

// load adds up energy and utilisation, each part divided by those that shared it.
func (b *bill) load(t *timeline, windows []window, shares []share) {
	var joules, rest, busy float64
	var joulesSeen, busySeen int64
	watts, restKnown := t.rest.watts()
	for _, w := range windows {
		for _, s := range shares {
			part, ok := w.clip(s.window)
			if !ok {
				continue
			}
			n := float64(s.n)
			b.gpuTime += float64(part.length()) / 1e9 / n
			if s.n > 1 && part.length() > 0 {
				b.shared += time.Duration(part.length())
				b.most = max(b.most, s.n)
			}
			j, seen := t.joules(part)
			joules += j / n
			rest += watts * float64(seen) / 1e9 / n
			joulesSeen += seen
			u, seen := t.utilization.held(part)
			busy += u / n
			busySeen += seen
		}
		// The value at a time is the average of the time before.
		if v, ok := t.utilization.most(w); ok {
			b.peakUtilization = larger(b.peakUtilization, v)
		}
	}
	if joulesSeen > 0 || b.length == 0 && len(t.energy.points) > 0 {
		b.energy = &joules
		if restKnown {
			marginal := max(joules-rest, 0)
			b.marginal, b.rest = &marginal, watts
		}
	}
	if busySeen > 0 {
		mean := busy / (float64(busySeen) / 1e9)
		b.meanUtilization = &mean
	}
}

func (b *bill) heat(t *timeline, windows []window) {
	for _, w := range windows {
		if v, ok := t.temperature.most(w); ok {
			b.temperature = larger(b.temperature, v)
		} else if v, ok := t.temperature.nearest(w.to); ok {
			b.temperature = larger(b.temperature, v)
		}
	}
}

// heldBack is how long the GPU was throttled, by reason, in s. Reasons overlap.
func (b *bill) heldBack(t *timeline, windows []window) {
	for reason, s := range t.throttle {
		total := 0.0
		for _, w := range windows {
			rise, _ := s.rise(w)
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
