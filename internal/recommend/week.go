// SPDX-License-Identifier: Apache-2.0

package recommend

import (
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
)

// Week holds what became of a week's requests. It is not safe for concurrent use; the cost of a
// request does not grow with what it holds.
type Week struct {
	settings Settings
	// hours are a ring of hoursHeld, by their numbers.
	hours []hour
	// arrivals are requests in the order in which they ended, from first on.
	arrivals []arrival
	first    int
	sources  []source
	byKey    map[sourceKey]uint16
	// unused are places of sources that no arrival has.
	unused []uint16
	// parts are a ring, by their numbers: parts of the time whose arrivals are held, or not. Of
	// 2^level parts one is held from now on.
	parts [partsHeld]part
	level int
	// again are refused requests that may come again.
	again again
	// usual is what the last hundred or so requests used on average, in seconds.
	usual float64
	// newest is the latest end of a request.
	newest time.Time
	// Dropped counts requests that found no room, were too old, or whose times cannot be.
	Dropped int64
}

// arrival is a request as the replay needs it.
type arrival struct {
	came   int64   // ms since 1970
	work   float32 // seconds of a whole GPU, without loading
	load   float32 // of its model, in seconds
	source uint16
	side   uint16
	// ordered is true if its server's queue was sorted, counts if its end says something about sizes
	// and GPUs.
	ordered, counts bool
}

// sourceKey is what requests have in common but for their size.
type sourceKey struct {
	server, gpu, product, class, workflow, model string
	batch, steps                                 int
}

type source struct {
	sourceKey
	// used is by how many arrivals, largest the largest side that was made, in pixels.
	used, largest int
}

// part is a part of the time.
type part struct {
	number int64 // since 1970
	held   bool
}

const (
	// partLength is how long a part of the time is, partsHeld how many there are in the window, and
	// some more.
	partLength = 10 * time.Minute
	partsHeld  = 1024
	// maxLevel is for one part in 64: one each 10 h 40 min.
	maxLevel = 6
	// maxSources bounds the sources.
	maxSources = 2048
	// maxSide bounds sides, in pixels.
	maxSide = 1<<16 - 1
)

// New makes a week of which nothing is known.
func New(s Settings) *Week {
	if s.Requests <= 0 {
		s.Requests = DefaultRequests
	}
	return &Week{settings: s, hours: make([]hour, hoursHeld), byKey: map[sourceKey]uint16{}, again: newAgain()}
}

// Add adds a request that has ended, not later than now.
func (w *Week) Add(r *Request) {
	if r.Ended.Before(r.Came) || r.Came.Unix() <= 0 {
		w.Dropped++
		return
	}
	if r.Ended.After(w.newest) {
		w.newest = r.Ended
	}
	w.expire(w.newest)
	for _, t := range w.again.over(w.newest) {
		w.add(&t.Request, t.shortOfMemory)
	}
	shortOfMemory := false
	if before, ok := w.again.find(r); ok { // it came before, and was refused
		r.Came = before.Came
		shortOfMemory = before.shortOfMemory
	}
	if r.Outcome == Refused && r.RetryAfter > 0 {
		by, counts := r.judge(new(w.settings.class(r.Class)), shortOfMemory)
		if !counts {
			return
		}
		if early, full := w.again.wait(r, by == Memory); full {
			w.add(&early.Request, early.shortOfMemory)
		}
		return
	}
	w.add(r, shortOfMemory)
}

// add counts a request that does not come again.
func (w *Week) add(r *Request, shortOfMemory bool) {
	class := w.settings.class(r.Class)
	by, counts := r.judge(&class, shortOfMemory)
	if !counts && r.Used <= 0 {
		return
	}
	work := r.work()
	switch {
	case r.Outcome == Made && work > 0:
		if w.usual == 0 {
			w.usual = work
		}
		w.usual += (work - w.usual) / 100
	case work == 0 && (r.Outcome == Refused || r.Outcome == OutOfMemory || r.Outcome == GivenUp): // nothing is known of its kind
		work = w.usual
	}
	h := w.hourOf(r.Came)
	if h == nil {
		w.Dropped++
		return
	}
	w.hold(r, work, counts)
	if !counts {
		return
	}
	of := w.on(h, r.GPU, r.Product)
	of.Requests++
	of.Work += work
	switch by {
	case Memory:
		of.Memory += work
		if r.Outcome == OutOfMemory {
			of.Memory, of.Dead = of.Memory+r.Used, of.Dead+r.Used
		}
	case Time:
		of.Time += work
	case Size:
		of.Size += work
	}
	if by != None {
		of.Missed++
	}
}

// hold keeps a request to be replayed, if its part of the time is held.
func (w *Week) hold(r *Request, work float64, counts bool) {
	number := r.Came.UnixMilli() / partLength.Milliseconds()
	p := &w.parts[number%partsHeld]
	switch {
	case p.number > number:
		return // older than the window
	case p.number < number:
		if w.level > 0 && w.count() < w.settings.Requests/4 {
			w.level--
		}
		*p = part{number, w.isHeld(number)}
	}
	if !p.held {
		return
	}
	source, ok := w.sourceOf(r)
	if !ok {
		w.Dropped++
		return
	}
	s := &w.sources[source]
	s.used++
	if r.Outcome == Made {
		s.largest = max(s.largest, min(r.Side, maxSide))
	}
	w.arrivals = append(w.arrivals, arrival{
		came: r.Came.UnixMilli(), work: float32(work), load: float32(max(min(r.Loading, r.Used), 0)), source: source, side: uint16(min(max(r.Side, 0), maxSide)),
		ordered: r.Ordered, counts: counts,
	})
	for w.count() > w.settings.Requests {
		w.thin()
	}
}

// isHeld reports whether a part's arrivals are held at the level: at other times on each day.
func (w *Week) isHeld(number int64) bool {
	const aDay, shift = int64(24 * time.Hour / partLength), 3
	return (number+shift*(number/aDay))%(1<<w.level) == 0
}

func (w *Week) count() int { return len(w.arrivals) - w.first }

// thin leaves out every other part of the time, or at the last level the older half.
func (w *Week) thin() {
	w.level++
	if w.level > maxLevel {
		w.level = maxLevel
		w.drop(w.settings.Requests / 2)
		return
	}
	for i := range w.parts {
		w.parts[i].held = w.parts[i].held && w.isHeld(w.parts[i].number)
	}
	left := w.arrivals[:0]
	for _, a := range w.arrivals[w.first:] {
		if w.parts[a.part()%partsHeld].held {
			left = append(left, a)
		} else {
			w.release(a.source)
		}
	}
	w.arrivals, w.first = left, 0
}

func (a *arrival) part() int64 { return a.came / partLength.Milliseconds() }

// expire drops what is older than the window.
func (w *Week) expire(now time.Time) {
	oldest, n := now.Add(-Window).UnixMilli(), 0
	for n < w.count() && w.arrivals[w.first+n].came < oldest {
		n++
	}
	w.drop(n)
}

// drop drops the oldest arrivals.
func (w *Week) drop(n int) {
	for i := range n {
		w.release(w.arrivals[w.first+i].source)
	}
	w.first += n
	if w.first > len(w.arrivals)/2 { // each is moved once for each that was dropped
		w.arrivals, w.first = slices.Delete(w.arrivals, 0, w.first), 0
	}
}

// sourceOf is the place of a request's source; false if there are too many.
func (w *Week) sourceOf(r *Request) (uint16, bool) {
	key := sourceKey{r.Server, r.GPU, r.Product, r.Class, r.Workflow, r.Model, max(r.Batch, 1), max(r.Steps, 0)}
	if at, known := w.byKey[key]; known {
		return at, true
	}
	var at uint16
	switch n := len(w.unused); {
	case n > 0:
		at, w.unused = w.unused[n-1], w.unused[:n-1]
		w.sources[at] = source{sourceKey: key}
	case len(w.sources) < maxSources:
		at = uint16(len(w.sources))
		w.sources = append(w.sources, source{sourceKey: key})
	default:
		return 0, false
	}
	w.byKey[key] = at
	return at, true
}

// release ends an arrival's use of a source.
func (w *Week) release(at uint16) {
	s := &w.sources[at]
	if s.used--; s.used == 0 {
		delete(w.byKey, s.sourceKey)
		w.unused = append(w.unused, at)
	}
}

// Bounds implements [bounds.Registered].
func (w *Week) Bounds() []bounds.Bound {
	gpus := 0
	for i := range w.hours {
		gpus = max(gpus, len(w.hours[i].gpus))
	}
	return append(w.again.Bounds(), []bounds.Bound{
		{Name: "recommend.Week.arrivals", Max: w.settings.Requests, Size: w.count()},
		{Name: "recommend.Week.sources", Max: maxSources, Size: len(w.sources)},
		{Name: "recommend.Week.byKey", Max: maxSources, Size: len(w.byKey)},
		{Name: "recommend.Week.unused", Max: maxSources, Size: len(w.unused)},
		{Name: "recommend.Week.hours", Max: hoursHeld, Size: len(w.hours)},
		{Name: "recommend.hour.gpus", Max: maxGPUs, Size: gpus},
	}...)
}
