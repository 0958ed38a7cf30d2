// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"time"
)

// Limits bounds what a Set holds.
type Limits struct {
	// GPUs bounds the devices that are tracked, MIG devices included.
	GPUs int
	// Samples bounds the samples of one quantity of one GPU.
	Samples int
	// Processes bounds the processes of one GPU with a memory history of their own.
	Processes int
}

// Timeline is the recent history of one GPU, or of one MIG device.
type Timeline struct {
	// ID is hw.id, Host the host.name of the collector that sampled it.
	ID, Host string
	// Simulated GPUs mark what is made from their samples.
	Simulated bool

	Pace          Stream             // the times at which anything of the GPU was sampled
	Memory        Stream             // By
	MemoryMax     Stream             // By, the largest since the sample before
	Utilization   Stream             // 1, an average up to the sample
	Energy        Stream             // J, a counter
	PowerInstant  Stream             // W
	PowerAverage  Stream             // W
	Temperature   Stream             // Cel
	Throttle      map[string]*Stream // s, counters by reason
	ProcessMemory map[int64]*Stream  // By, by pid
	Lists         Stream             // the times of the lists that these are of
	ProcessUse    map[int64]*Stream  // 1, by pid: an average since the sample before

	// counter and power date the refreshes of Energy and PowerInstant.
	counter, power dater
	agreement      agreement
	// MaxWatts is the GPU's power limit; 0 if it is not known.
	MaxWatts float64
	// Model is the GPU's product name; empty if it is not known.
	Model string

	// arrived is the time of the sample that arrived last, which need not be the newest.
	arrived int64

	// Ended is when the receiver marked the GPU's series as stale: the GPU is lost or
	// unresponsive. 0 while they go on.
	Ended int64
	Rest  RestPower
}

func newTimeline(id string) *Timeline {
	return &Timeline{
		ID: id, Throttle: map[string]*Stream{}, ProcessMemory: map[int64]*Stream{}, ProcessUse: map[int64]*Stream{},
		Temperature: Stream{sparse: true},
	}
}

// Covers reports whether what happened up to a time is known, as far as it ever will be.
func (t *Timeline) Covers(at int64) bool {
	newest, ok := t.Pace.Newest()
	return ok && newest >= at || t.Ended != 0
}

// IsBefore reports whether a time lies before all that is known.
func (t *Timeline) IsBefore(at int64) bool {
	return len(t.Pace.Points) > 0 && at < t.Pace.Points[0].At
}

// eachStream calls do with each stream.
func (t *Timeline) eachStream(do func(*Stream)) {
	for _, s := range [...]*Stream{&t.Pace, &t.Memory, &t.MemoryMax, &t.Utilization, &t.Energy, &t.PowerInstant, &t.PowerAverage, &t.Temperature, &t.Lists} {
		do(s)
	}
	for _, s := range t.Throttle {
		do(s)
	}
	for _, s := range t.ProcessMemory {
		do(s)
	}
	for _, s := range t.ProcessUse {
		do(s)
	}
}

// Trim drops what is older than history, and of each stream all but the newest samples.
// It returns the time before which samples were dropped, and how many were dropped
// because of their number.
func (t *Timeline) Trim(history time.Duration, limits *Limits) (before int64, samples int) {
	newest, ok := t.Pace.Newest()
	if !ok {
		return math.MinInt64, 0
	}
	before = newest - history.Nanoseconds()
	t.eachStream(func(s *Stream) { samples += s.Forget(before, limits.Samples) })
	t.counter.forget(before, limits.Samples)
	t.power.forget(before, limits.Samples)
	for _, processes := range []map[int64]*Stream{t.ProcessMemory, t.ProcessUse} {
		for pid, s := range processes {
			if at, ok := s.Newest(); !ok || at < before {
				delete(processes, pid)
			}
		}
	}
	return before, samples
}

// SetBack reports whether the clock was set back: the newest sample is in the future by
// more than a tolerance, and the samples that arrive now are not.
func (t *Timeline) SetBack(now int64, tolerance time.Duration) bool {
	newest, ok := t.Pace.Newest()
	limit := now + tolerance.Nanoseconds()
	return ok && newest > limit && t.arrived <= limit
}

// Restart drops all samples and what was learned from them, and returns how many samples
// that were: their times mean nothing beside those of a clock that was set back.
func (t *Timeline) Restart() (dropped int) {
	t.eachStream(func(s *Stream) { dropped += len(s.Points) })
	dropped -= len(t.Pace.Points) + len(t.Lists.Points) // these are no samples of their own
	fresh := newTimeline(t.ID)
	fresh.Host, fresh.Simulated, fresh.MaxWatts, fresh.Model = t.Host, t.Simulated, t.MaxWatts, t.Model
	fresh.agreement.differs = t.agreement.differs // so that its end is seen
	*t = *fresh
	return dropped
}

// Window copies what the figures of an interval are made from: of each stream the points
// within, one before and one after; of the processes' memory only that of those that are
// asked for; of energy, power, utilisation and the processes' use also what lies within Margin. What is
// known of when energy was used up to the interval's end does not change after that.
func (t *Timeline) Window(w Interval, pids map[int64]bool) *Timeline {
	t.counter.freeze(w.To + 3*t.counter.Period().Nanoseconds())
	t.power.freeze(w.To + 3*t.power.Period().Nanoseconds())
	c := *t
	for _, s := range []*Stream{&c.Pace, &c.Memory, &c.MemoryMax, &c.Temperature} {
		*s = s.around(w)
	}
	c.Utilization = c.Utilization.around(Interval{w.From, w.To + Margin}) // a point is of the time before it
	wide := Interval{w.From - Margin, w.To + Margin}
	for _, s := range []*Stream{&c.Energy, &c.PowerInstant, &c.PowerAverage} {
		*s = s.around(wide)
	}
	c.counter, c.power = t.counter.around(wide), t.power.around(wide)
	c.ProcessUse = make(map[int64]*Stream, len(t.ProcessUse))
	for pid, s := range t.ProcessUse {
		part := s.around(wide)
		c.ProcessUse[pid] = &part
	}
	c.Throttle = make(map[string]*Stream, len(t.Throttle))
	for reason, s := range t.Throttle {
		part := s.around(w)
		c.Throttle[reason] = &part
	}
	c.ProcessMemory = map[int64]*Stream{}
	for pid, s := range t.ProcessMemory {
		if pids[pid] {
			part := s.around(w)
			c.ProcessMemory[pid] = &part
		}
	}
	return &c
}

// Margin is how far beyond a time the samples reach that its energy is found from, in ns.
const Margin = int64(1200 * time.Millisecond)

// Settling is how long after a time its energy is known, in ns: two refreshes of the
// counter, which may be half a period late, and two reads.
func (t *Timeline) Settling() int64 {
	pace := &t.counter
	switch {
	case pace.reads > 0:
	case t.power.reads > 0:
		pace = &t.power
	case len(t.PowerAverage.Points) > 0:
		return averageWindow * 11 / 10
	default: // there was no reading yet
		return 0
	}
	return min(int64(2.2*pace.interval+2.6*float64(pace.likely())), Margin)
}

// usualPeriod is the period of most counters.
const usualPeriod = 100 * time.Millisecond

// settledReads is after how many reads their interval is known.
const settledReads = 20

// Counts counts what became of samples.
type Counts struct {
	// Accepted samples were the newest of their stream, Late ones were not, Repeated ones
	// replaced a sample of the same time, Dropped ones met a bound.
	Accepted, Late, Repeated, Dropped int64
	// GPUs made room for others.
	GPUs int64
}

func (c *Counts) add(a Arrival) {
	switch a {
	case InOrder:
		c.Accepted++
	case Late:
		c.Late++
	case Repeated:
		c.Repeated++
	}
}

const (
	// notSampled asks for a timeline without a sample.
	notSampled = 0
	// staleAfter is how long a GPU must have had no samples to be evicted.
	staleAfter = time.Minute
)

// Set holds the timelines of all GPUs. It is not safe for concurrent use.
type Set struct {
	byID   map[string]*Timeline
	limits Limits
}

// NewSet returns an empty set.
func NewSet(limits Limits) *Set { return &Set{byID: map[string]*Timeline{}, limits: limits} }

// Get finds a GPU's timeline; nil if it has none.
func (ts *Set) Get(id string) *Timeline { return ts.byID[id] }

// Len is the number of timelines.
func (ts *Set) Len() int { return len(ts.byID) }

// Limits are the bounds of the set.
func (ts *Set) Limits() *Limits { return &ts.limits }

// Ensure finds a GPU's timeline, or makes it; nil beyond the bound. Spans and records
// may name what is not a GPU, so they evict nothing.
func (ts *Set) Ensure(id string) *Timeline {
	t, _ := ts.of(id, notSampled)
	return t
}

// of is Ensure for a sample of the time sampled: beyond the bound, the GPU without
// samples for the longest time makes room.
func (ts *Set) of(id string, sampled int64) (t, evicted *Timeline) {
	if t = ts.byID[id]; t != nil {
		return t, nil
	}
	if len(ts.byID) >= ts.limits.GPUs {
		if sampled == notSampled {
			return nil, nil
		}
		var stalest *Timeline
		oldest := int64(math.MaxInt64)
		for _, t := range ts.byID {
			if newest, _ := t.Pace.Newest(); newest < oldest {
				stalest, oldest = t, newest
			}
		}
		if time.Duration(sampled-oldest) < staleAfter {
			return nil, nil
		}
		delete(ts.byID, stalest.ID)
		evicted = stalest
	}
	t = newTimeline(id)
	ts.byID[id] = t
	return t, evicted
}
