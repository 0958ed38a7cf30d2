// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"iter"
	"time"
)

const (
	// maxKeys bounds the series of one quantity of a GPU or a server.
	maxKeys = 256
	// thinning is into how many parts a window is divided: of the points of each part the
	// newest is kept.
	thinning = 24
	// maxPoints bounds the points of a series: one a part, one before the window, and the
	// newest.
	maxPoints = thinning + 3
	// Lookback is how long a value counts after it was sampled, as in Prometheus.
	Lookback = 5 * time.Minute
)

// point is a value at a time.
type point struct {
	at    int64
	value float64
}

// Series is the newest value of a quantity, and its recent points where a window is kept.
type Series struct {
	at    int64
	value float64
	// ended series were marked as stale. They are kept for a while, so that a sample that
	// arrives late does not bring them back.
	ended bool
	// total is what a counter has risen by since its first point, resets aside.
	total float64
	// rose is when a counter rose last; 0 if it has not.
	rose   int64
	points []point
	// lookback is how long the value counts.
	lookback time.Duration
}

// put adds a value. It returns false for one that is older than the newest.
func (s *Series) put(r *row, at int64, value float64) bool {
	if s.at != 0 && at <= s.at {
		return false
	}
	rise := 0.0
	switch first := s.at == 0; {
	case r.kind == gauge, first && r.kind == counter:
	case first, value < s.value: // it begins, or has begun again
		rise = value
	default:
		rise = value - s.value
	}
	if s.total += rise; rise > 0 {
		s.rose = at
	}
	s.lookback = max(Lookback, r.lookback)
	s.at, s.value, s.ended = at, value, false
	if r.window > 0 {
		s.addPoint(r, at)
	}
	return true
}

func (s *Series) addPoint(r *row, at int64) {
	p := point{at, s.value}
	if r.kind != gauge {
		p.value = s.total
	}
	n := len(s.points)
	thin := n >= 2 && s.points[n-1].at-s.points[n-2].at < r.window.Nanoseconds()/thinning
	// Of a counter that stands still the ends of that time are enough.
	still := n >= 2 && r.kind != gauge && s.points[n-1].value == p.value && s.points[n-2].value == p.value
	if thin || still {
		s.points[n-1] = p
	} else {
		s.points = append(grown(s.points), p)
	}
	old := 0
	for old+1 < len(s.points) && (s.points[old+1].at <= at-r.window.Nanoseconds() || len(s.points)-old > maxPoints) {
		old++
	}
	s.points = append(s.points[:0], s.points[old:]...)
}

// grown makes room for some more points. Doubling it, as append does, would leave much of it
// empty in thousands of series.
func grown(points []point) []point {
	if n := len(points); n == cap(points) {
		return append(make([]point, 0, n+max(2, min(n, 4))), points...)
	}
	return points
}

// restart forgets the times of a clock that was set back: the next value is the newest.
func (s *Series) restart() {
	s.points, s.total, s.rose = s.points[:0], 0, 0
	s.at = min(s.at, 1) // 0 stays: it has no value yet
}

// isFresh reports whether the value counts at a time.
func (s *Series) isFresh(now time.Time) bool {
	return !s.ended && s.at != 0 && now.UnixNano()-s.at <= s.lookback.Nanoseconds()
}

// Value is the newest value.
func (s *Series) Value() float64 { return s.value }

// Time is when it was sampled.
func (s *Series) Time() time.Time { return time.Unix(0, s.at) }

// Rose is when a counter rose last; false if it has not.
func (s *Series) Rose() (time.Time, bool) { return time.Unix(0, s.rose).UTC(), s.rose != 0 }

// Increase is by how much a counter rose in a window, and the time between the points that
// this was seen from, which is about the window where the series is old enough.
func (s *Series) Increase(window time.Duration, now time.Time) (rise float64, span time.Duration) {
	if len(s.points) == 0 {
		return 0, 0
	}
	first := now.Add(-window).UnixNano()
	begin, from := 0.0, s.points[0].at
	for i, p := range s.points {
		if p.at > first {
			break
		}
		begin, from = p.value, p.at
		if i+1 < len(s.points) && s.points[i+1].value == p.value && s.points[i+1].at > first {
			from = first // it stood still then
		}
	}
	return s.total - begin, time.Duration(s.at - from)
}

// Rate is the increase per second. As Prometheus does, it divides by the whole window where
// less of it is known, so that a young series does not exaggerate. False with fewer than two
// points.
func (s *Series) Rate(window time.Duration, now time.Time) (float64, bool) {
	if len(s.points) < 2 {
		return 0, false
	}
	rise, span := s.Increase(window, now)
	return rise / max(span, window).Seconds(), true
}

// Within yields the points of a window, oldest first: seconds before now, and the value.
func (s *Series) Within(window time.Duration, now time.Time) iter.Seq2[float64, float64] {
	return func(yield func(float64, float64) bool) {
		for _, p := range s.points {
			if age := now.Sub(time.Unix(0, p.at)); age <= window && !yield(age.Seconds(), p.value) {
				return
			}
		}
	}
}

// seriesSet holds the series of a GPU or of a server.
type seriesSet struct {
	series [quantities]map[string]*Series
	// live counts those that are sampled and have not ended.
	live int
}

// put adds a value to its series. It returns the reason for which it was dropped, if it was.
func (set *seriesSet) put(r *row, key string, at int64, value float64) (dropped string) {
	s := set.series[r.of][key]
	if s == nil {
		if len(set.series[r.of]) >= maxKeys {
			return droppedSeries
		}
		if set.series[r.of] == nil {
			set.series[r.of] = map[string]*Series{}
		}
		s = &Series{}
		set.series[r.of][key] = s
		s.ended = true
	}
	ended := s.ended && r.lookback == 0
	if !s.put(r, at, value) {
		return isLate
	}
	if ended {
		set.live++
	}
	return ""
}

// end marks a series as stale.
func (set *seriesSet) end(of Quantity, key string, at int64) {
	if s := set.series[of][key]; s != nil && !s.ended && at >= s.at {
		s.ended, s.at = true, at
		set.live--
	}
}

// sweep removes series that ended before a time.
func (set *seriesSet) sweep(before int64) {
	for _, all := range set.series {
		for key, s := range all {
			if s.ended && s.at < before {
				delete(all, key)
			}
		}
	}
}

// restart is [Series.restart] of all.
func (set *seriesSet) restart() {
	for _, all := range set.series {
		for _, s := range all {
			s.restart()
		}
	}
}

// Series finds a series whose value counts now; nil if there is none.
func (set *seriesSet) Series(of Quantity, key string, now time.Time) *Series {
	if s := set.series[of][key]; s != nil && s.isFresh(now) {
		return s
	}
	return nil
}

// Value is the newest value of a series; false if it has none that counts now.
func (set *seriesSet) Value(of Quantity, key string, now time.Time) (float64, bool) {
	if s := set.Series(of, key, now); s != nil {
		return s.value, true
	}
	return 0, false
}

// Each yields the series of a quantity whose values count now, in no order.
func (set *seriesSet) Each(of Quantity, now time.Time) iter.Seq2[string, *Series] {
	return func(yield func(string, *Series) bool) {
		for key, s := range set.series[of] {
			if s.isFresh(now) && !yield(key, s) {
				return
			}
		}
	}
}

// Sum adds up the values of a quantity; false if there is none.
func (set *seriesSet) Sum(of Quantity, now time.Time) (sum float64, ok bool) {
	for _, s := range set.Each(of, now) {
		sum, ok = sum+s.value, true
	}
	return sum, ok
}
