// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"math"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
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

	// Ended is when the receiver marked the GPU's series as stale: the GPU is lost or
	// unresponsive. 0 while they go on.
	Ended int64
	Rest  RestPower
}

func newTimeline(id string) *Timeline {
	return &Timeline{
		ID: id, Throttle: map[string]*Stream{}, ProcessMemory: map[int64]*Stream{},
		Temperature: Stream{sparse: true},
	}
}

// Covers reports whether what happened up to a time is known, as far as it ever will be.
func (t *Timeline) Covers(at int64) bool {
	newest, ok := t.Pace.Newest()
	return ok && newest >= at || t.Ended != 0
}

// eachStream calls do with each stream.
func (t *Timeline) eachStream(do func(*Stream)) {
	for _, s := range [...]*Stream{&t.Pace, &t.Memory, &t.MemoryMax, &t.Utilization, &t.Energy, &t.PowerInstant, &t.PowerAverage, &t.Temperature} {
		do(s)
	}
	for _, s := range t.Throttle {
		do(s)
	}
	for _, s := range t.ProcessMemory {
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
	for pid, s := range t.ProcessMemory {
		if at, ok := s.Newest(); !ok || at < before {
			delete(t.ProcessMemory, pid)
		}
	}
	return before, samples
}

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

// Ensure finds a GPU's timeline, or makes one; nil beyond the bound. Spans and records
// may name what is not a GPU, so they evict nothing.
func (ts *Set) Ensure(id string) *Timeline {
	t, _ := ts.of(id, notSampled)
	return t
}

// of is Ensure for a sample of the time sampled: beyond the bound, the GPU without
// samples for the longest time makes room.
func (ts *Set) of(id string, sampled int64) (t *Timeline, evicted string) {
	if t = ts.byID[id]; t != nil {
		return t, ""
	}
	if len(ts.byID) >= ts.limits.GPUs {
		if sampled == notSampled {
			return nil, ""
		}
		var stalest *Timeline
		oldest := int64(math.MaxInt64)
		for _, t := range ts.byID {
			if newest, _ := t.Pace.Newest(); newest < oldest {
				stalest, oldest = t, newest
			}
		}
		if time.Duration(sampled-oldest) < staleAfter {
			return nil, ""
		}
		delete(ts.byID, stalest.ID)
		evicted = stalest.ID
	}
	t = newTimeline(id)
	ts.byID[id] = t
	return t, evicted
}

// Ingested is what one batch of metrics changed.
type Ingested struct {
	// Touched are the timelines that got samples.
	Touched map[*Timeline]bool
	// Evicted are the ids of GPUs that made room for others.
	Evicted []string
}

// Ingest reads the samples of a scrape. Counts is added to.
func (ts *Set) Ingest(md pmetric.Metrics, counts *Counts) Ingested {
	in := Ingested{Touched: map[*Timeline]bool{}}
	for _, rm := range md.ResourceMetrics().All() {
		resource := rm.Resource().Attributes()
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if read := quantities[m.Name()]; read != nil {
					ts.ingestMetric(m, resource, read, counts, &in)
				}
			}
		}
	}
	for t := range in.Touched {
		t.updateRest()
	}
	counts.GPUs += int64(len(in.Evicted))
	return in
}

func (ts *Set) ingestMetric(m pmetric.Metric, resource pcommon.Map, read selector, counts *Counts, in *Ingested) {
	for _, p := range pdataread.Points(m).All() {
		id := pdataread.Text(p.Attributes(), semconv.GPUID)
		if id == "" {
			id = pdataread.Text(resource, semconv.GPUID)
		}
		if id == "" {
			continue
		}
		t, evicted := ts.of(id, int64(p.Timestamp()))
		if evicted != "" {
			in.Evicted = append(in.Evicted, evicted)
		}
		if t == nil {
			counts.Dropped++
			continue
		}
		if host := pdataread.Text(resource, semconv.HostName); host != "" {
			t.Host = host
		}
		at := int64(p.Timestamp())
		s := read(t, p.Attributes(), &ts.limits)
		switch {
		case s == unwanted:
			continue
		case p.Flags().NoRecordedValue():
			if s == &t.Memory {
				t.Ended = max(at, 1)
				in.Touched[t] = true // who waits for its samples waits no longer
			}
			continue
		case s == nil:
			counts.Dropped++
			continue
		}
		in.Touched[t] = true
		if simulated, ok := p.Attributes().Get(semconv.Simulated); ok && simulated.Bool() {
			t.Simulated = true
		}
		if t.Ended != 0 && at > t.Ended {
			t.Ended = 0 // it is back
		}
		counts.add(s.Put(at, pdataread.Number(p)))
		if newest, ok := t.Pace.Newest(); !ok || at != newest {
			t.Pace.Put(at, 0)
		}
	}
}

// selector finds the stream that a point belongs to: unwanted if it is not read, nil if
// a bound is reached.
type selector func(*Timeline, pcommon.Map, *Limits) *Stream

// unwanted stands for points that are not read. Nothing is put into it.
var unwanted = &Stream{}

// quantities are the metrics that are read, by the names of the nvml receiver.
var quantities = map[string]selector{
	"hw.gpu.memory.usage":     func(t *Timeline, _ pcommon.Map, _ *Limits) *Stream { return &t.Memory },
	"hw.gpu.memory.usage.max": func(t *Timeline, _ pcommon.Map, _ *Limits) *Stream { return &t.MemoryMax },
	"hw.energy":               func(t *Timeline, _ pcommon.Map, _ *Limits) *Stream { return &t.Energy },
	"hw.gpu.utilization": func(t *Timeline, a pcommon.Map, _ *Limits) *Stream {
		return onlyIf(pdataread.Text(a, "hw.gpu.task") == "general", &t.Utilization)
	},
	"hw.temperature": func(t *Timeline, a pcommon.Map, _ *Limits) *Stream {
		return onlyIf(pdataread.Text(a, "hw.sensor_location") == "gpu", &t.Temperature)
	},
	"hw.power": func(t *Timeline, a pcommon.Map, _ *Limits) *Stream {
		if pdataread.Text(a, "hw.gpu.power.scope") == "average" {
			return &t.PowerAverage
		}
		return &t.PowerInstant
	},
	"hw.gpu.throttle.time": func(t *Timeline, a pcommon.Map, _ *Limits) *Stream {
		return keyed(t.Throttle, pdataread.Text(a, "hw.gpu.throttle.reason"), maxReasons)
	},
	"hw.gpu.process.memory.usage": func(t *Timeline, a pcommon.Map, limits *Limits) *Stream {
		if pid, ok := a.Get(semconv.ProcessPID); ok {
			return keyed(t.ProcessMemory, pid.Int(), limits.Processes)
		}
		return unwanted
	},
}

func onlyIf(wanted bool, s *Stream) *Stream {
	if wanted {
		return s
	}
	return unwanted
}

// maxReasons bounds the throttle reasons; NVML knows a dozen.
const maxReasons = 16

// keyed is the stream of a key, made if there is room.
func keyed[K comparable](all map[K]*Stream, key K, limit int) *Stream {
	s := all[key]
	if s == nil && len(all) < limit {
		s = &Stream{sparse: true}
		all[key] = s
	}
	return s
}

// Joules is the GPU's energy over a window in J, and of how many ns of it that is
// known: its own counter, else its power integrated.
func (t *Timeline) Joules(w Interval) (sum float64, seen int64) {
	switch {
	case len(t.Energy.Points) > 0:
		return t.Energy.Rise(w)
	case len(t.PowerInstant.Points) > 0:
		return t.PowerInstant.Integral(w)
	}
	return t.PowerAverage.Integral(w)
}

// RestPower is what the GPU draws when nothing runs on it: the lowest mean power
// of a second within the last hour, in W.
type RestPower struct {
	updated int64
	minutes [60]struct {
		minute int64
		watts  float64
	}
}

func (t *Timeline) updateRest() {
	newest, ok := t.Pace.Newest()
	if !ok || newest-t.Rest.updated < int64(time.Second) {
		return
	}
	t.Rest.updated = newest
	joules, seen := t.Joules(Interval{newest - int64(time.Second), newest})
	if seen < int64(900*time.Millisecond) {
		return
	}
	watts, minute := joules/(float64(seen)/1e9), newest/int64(time.Minute)
	slot := &t.Rest.minutes[minute%int64(len(t.Rest.minutes))]
	if slot.minute != minute || watts < slot.watts {
		slot.minute, slot.watts = minute, watts
	}
}

// Watts is the power at rest; ok is false while it is not known.
func (r *RestPower) Watts() (watts float64, ok bool) {
	oldest := r.updated/int64(time.Minute) - int64(len(r.minutes))
	for i := range r.minutes {
		if m := &r.minutes[i]; m.minute > oldest && m.minute != 0 && (!ok || m.watts < watts) {
			watts, ok = m.watts, true
		}
	}
	return watts, ok
}
