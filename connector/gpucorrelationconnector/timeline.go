// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"slices"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
)

// timeline is the recent history of one GPU, or of one MIG device.
type timeline struct {
	id   string // hw.id
	host string // host.name of whoever sampled it
	// simulated GPUs mark what is made from their samples.
	simulated bool

	pace          stream             // the times at which anything of the GPU was sampled
	memory        stream             // By
	memoryMax     stream             // By, the largest since the sample before
	utilization   stream             // 1, an average up to the sample
	energy        stream             // J, a counter
	powerInstant  stream             // W
	powerAverage  stream             // W
	temperature   stream             // Cel
	throttle      map[string]*stream // s, counters by reason
	processMemory map[int64]*stream  // By, by pid

	// ended is when its series were ended by the receiver: the GPU is lost or late.
	// 0 while they go on.
	ended int64
	rest  restPower
	xids  []xidEvent

	active activities
	queue  needs // of traces that wait for its samples
}

func newTimeline(id string) *timeline {
	return &timeline{
		id: id, throttle: map[string]*stream{}, processMemory: map[int64]*stream{},
		temperature: stream{sparse: true}, active: newActivities(),
	}
}

// covers reports whether what happened up to a time is known, as far as it ever will be.
func (t *timeline) covers(at int64) bool {
	newest, ok := t.pace.newest()
	return ok && newest >= at || t.ended != 0
}

// all calls do with each stream.
func (t *timeline) all(do func(*stream)) {
	for _, s := range [...]*stream{&t.pace, &t.memory, &t.memoryMax, &t.utilization, &t.energy, &t.powerInstant, &t.powerAverage, &t.temperature} {
		do(s)
	}
	for _, s := range t.throttle {
		do(s)
	}
	for _, s := range t.processMemory {
		do(s)
	}
}

// forget drops what is too old or too much.
func (t *timeline) forget(history time.Duration, limits *LimitsConfig) (samples, traces int) {
	newest, ok := t.pace.newest()
	if !ok {
		return 0, 0
	}
	before := newest - history.Nanoseconds()
	t.all(func(s *stream) { samples += s.forget(before, limits.Samples) })
	for pid, s := range t.processMemory {
		if at, ok := s.newest(); !ok || at < before {
			delete(t.processMemory, pid)
		}
	}
	t.xids = slices.DeleteFunc(t.xids, func(x xidEvent) bool { return x.at < before })
	return samples, t.active.forget(before, limits.Traces)
}

// sampleCounts counts what became of samples, and GPUs that made room for others.
type sampleCounts struct{ taken, late, repeated, dropped, gpus int64 }

func (c *sampleCounts) add(a arrival) {
	switch a {
	case inOrder:
		c.taken++
	case late:
		c.late++
	case repeated:
		c.repeated++
	}
}

const (
	notSampled = 0
	// staleGPU is how long a GPU must have had no samples to be pushed aside.
	staleGPU = time.Minute
)

// timelines are those of all GPUs.
type timelines struct {
	byID   map[string]*timeline
	pushed int64 // GPUs that made room for others, not yet counted
	limits *LimitsConfig
}

// of finds a GPU's timeline, or makes one; nil beyond the bound. What spans and
// records name may be no GPU at all: samples push the one aside that has had none
// for longest. sampled is the time of the GPU's sample, or notSampled.
func (ts *timelines) of(id string, sampled int64) *timeline {
	t := ts.byID[id]
	if t != nil {
		return t
	}
	if len(ts.byID) >= ts.limits.GPUs {
		if sampled == notSampled {
			return nil
		}
		var stalest *timeline
		oldest := int64(forever)
		for _, t := range ts.byID {
			if newest, _ := t.pace.newest(); newest < oldest {
				stalest, oldest = t, newest
			}
		}
		if time.Duration(sampled-oldest) < staleGPU {
			return nil
		}
		delete(ts.byID, stalest.id)
		ts.pushed++
	}
	t = newTimeline(id)
	ts.byID[id] = t
	return t
}

// take takes the samples of a scrape in, and says whose they were.
func (ts *timelines) take(md pmetric.Metrics, counts *sampleCounts) map[*timeline]bool {
	touched := map[*timeline]bool{}
	for _, rm := range md.ResourceMetrics().All() {
		resource := rm.Resource().Attributes()
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				if read := quantities[m.Name()]; read != nil {
					ts.takeMetric(m, resource, read, counts, touched)
				}
			}
		}
	}
	for t := range touched {
		t.takeRest()
	}
	counts.gpus, ts.pushed = counts.gpus+ts.pushed, 0
	return touched
}

func (ts *timelines) takeMetric(m pmetric.Metric, resource pcommon.Map, read reader, counts *sampleCounts, touched map[*timeline]bool) {
	var points pmetric.NumberDataPointSlice
	switch m.Type() {
	case pmetric.MetricTypeGauge:
		points = m.Gauge().DataPoints()
	case pmetric.MetricTypeSum:
		points = m.Sum().DataPoints()
	default:
		return
	}
	for _, p := range points.All() {
		id := text(p.Attributes(), "hw.id")
		if id == "" {
			id = text(resource, "hw.id")
		}
		if id == "" {
			continue
		}
		t := ts.of(id, int64(p.Timestamp()))
		if t == nil {
			counts.dropped++
			continue
		}
		if host := text(resource, "host.name"); host != "" {
			t.host = host
		}
		at := int64(p.Timestamp())
		s, wanted := read(t, p.Attributes(), ts.limits)
		switch {
		case !wanted:
			continue
		case p.Flags().NoRecordedValue():
			if s == &t.memory {
				t.ended = max(at, 1)
			}
			continue
		case s == nil:
			counts.dropped++
			continue
		}
		touched[t] = true
		if simulated, ok := p.Attributes().Get(simulatedAttribute); ok && simulated.Bool() {
			t.simulated = true
		}
		if t.ended != 0 && at > t.ended {
			t.ended = 0 // it is back
		}
		counts.add(s.put(at, number(p)))
		if newest, ok := t.pace.newest(); !ok || at != newest {
			t.pace.put(at, 0)
		}
	}
}

func number(p pmetric.NumberDataPoint) float64 {
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		return float64(p.IntValue())
	}
	return p.DoubleValue()
}

func text(m pcommon.Map, key string) string {
	if v, ok := m.Get(key); ok {
		return v.Str()
	}
	return ""
}

// reader tells which stream a point belongs to: none if it is not wanted, nil if a
// bound is reached.
type reader func(*timeline, pcommon.Map, *LimitsConfig) (s *stream, wanted bool)

func always(of func(*timeline) *stream) reader {
	return func(t *timeline, _ pcommon.Map, _ *LimitsConfig) (*stream, bool) { return of(t), true }
}

func only(key, value string, of func(*timeline) *stream) reader {
	return func(t *timeline, a pcommon.Map, _ *LimitsConfig) (*stream, bool) { return of(t), text(a, key) == value }
}

// simulatedAttribute marks what comes from simulated GPUs.
const simulatedAttribute = "gpu.simulated"

// quantities are the metrics that are read, by the names of the nvml receiver.
var quantities = map[string]reader{
	"hw.gpu.memory.usage":     always(func(t *timeline) *stream { return &t.memory }),
	"hw.gpu.memory.usage.max": always(func(t *timeline) *stream { return &t.memoryMax }),
	"hw.energy":               always(func(t *timeline) *stream { return &t.energy }),
	"hw.gpu.utilization":      only("hw.gpu.task", "general", func(t *timeline) *stream { return &t.utilization }),
	"hw.temperature":          only("hw.sensor_location", "gpu", func(t *timeline) *stream { return &t.temperature }),
	"hw.power": func(t *timeline, a pcommon.Map, _ *LimitsConfig) (*stream, bool) {
		if text(a, "hw.gpu.power.scope") == "average" {
			return &t.powerAverage, true
		}
		return &t.powerInstant, true
	},
	"hw.gpu.throttle.time": func(t *timeline, a pcommon.Map, _ *LimitsConfig) (*stream, bool) {
		return keyed(t.throttle, text(a, "hw.gpu.throttle.reason"), mostReasons), true
	},
	"hw.gpu.process.memory.usage": func(t *timeline, a pcommon.Map, limits *LimitsConfig) (*stream, bool) {
		pid, ok := a.Get("process.pid")
		if !ok {
			return nil, false
		}
		return keyed(t.processMemory, pid.Int(), limits.Processes), true
	},
}

// mostReasons bounds the throttle reasons; NVML knows a dozen.
const mostReasons = 16

// keyed is the stream of a key, made if there is room.
func keyed[K comparable](all map[K]*stream, key K, most int) *stream {
	s := all[key]
	if s == nil && len(all) < most {
		s = &stream{sparse: true}
		all[key] = s
	}
	return s
}

// joules is the GPU's energy over a window in J, and of how many ns of it that is
// known: its own counter, else its power integrated.
func (t *timeline) joules(w window) (sum float64, seen int64) {
	switch {
	case len(t.energy.points) > 0:
		return t.energy.rise(w)
	case len(t.powerInstant.points) > 0:
		return t.powerInstant.integral(w)
	}
	return t.powerAverage.integral(w)
}

// restPower is what the GPU draws when nothing runs on it: the lowest mean power
// of a second within the last hour, in W.
type restPower struct {
	looked  int64
	minutes [60]struct {
		minute int64
		watts  float64
	}
}

func (t *timeline) takeRest() {
	newest, ok := t.pace.newest()
	if !ok || newest-t.rest.looked < int64(time.Second) {
		return
	}
	t.rest.looked = newest
	joules, seen := t.joules(window{newest - int64(time.Second), newest})
	if seen < int64(900*time.Millisecond) {
		return
	}
	watts, minute := joules/(float64(seen)/1e9), newest/int64(time.Minute)
	slot := &t.rest.minutes[minute%int64(len(t.rest.minutes))]
	if slot.minute != minute || watts < slot.watts {
		slot.minute, slot.watts = minute, watts
	}
}

// watts is the power at rest; ok is false while it is not known.
func (r *restPower) watts() (watts float64, ok bool) {
	oldest := r.looked/int64(time.Minute) - int64(len(r.minutes))
	for i := range r.minutes {
		if m := &r.minutes[i]; m.minute > oldest && m.minute != 0 && (!ok || m.watts < watts) {
			watts, ok = m.watts, true
		}
	}
	return watts, ok
}
