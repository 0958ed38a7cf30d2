// SPDX-License-Identifier: Apache-2.0

package gputimeline

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// Sample is one value of a quantity of one GPU.
type Sample struct {
	// GPU is its hw.id, Host the host.name of the collector that sampled it.
	GPU, Host string
	At        int64
	Value     float64
	// stale samples mark the GPU's series as stale.
	stale     bool
	simulated bool
	of        quantity
	key       string // the throttle reason, or the model
	pid       int64
}

// quantity is what a sample is a value of.
type quantity int

const (
	memory quantity = iota
	memoryMax
	energy
	utilization
	temperature
	powerInstant
	powerAverage
	throttle
	processMemory
	processUse
	powerLimit
	info
)

// quantities are the metrics that are read, by the names of the nvml receiver.
var quantities = map[string]quantity{
	"hw.gpu.memory.usage": memory, "hw.gpu.memory.usage.max": memoryMax, "hw.energy": energy, "hw.gpu.utilization": utilization,
	"hw.temperature": temperature, "hw.power": powerInstant, "hw.gpu.throttle.time": throttle, "hw.gpu.process.memory.usage": processMemory,
	"hw.gpu.process.utilization": processUse, "hw.gpu.power.limit": powerLimit, "hw.gpu.info": info,
}

// Read finds the samples of GPUs in a scrape.
func Read(md pmetric.Metrics) (all []Sample) {
	for _, rm := range md.ResourceMetrics().All() {
		resource := rm.Resource().Attributes()
		id, host := pdataread.Text(resource, semconv.GPUID), pdataread.Text(resource, semconv.HostName)
		for _, sm := range rm.ScopeMetrics().All() {
			for _, m := range sm.Metrics().All() {
				of, known := quantities[m.Name()]
				if !known {
					continue
				}
				for _, p := range pdataread.Points(m).All() {
					s := Sample{GPU: id, Host: host, of: of, At: int64(p.Timestamp()), Value: pdataread.Number(p), stale: p.Flags().NoRecordedValue()}
					if gpu := pdataread.Text(p.Attributes(), semconv.GPUID); gpu != "" {
						s.GPU = gpu
					}
					if s.GPU != "" && s.describe(p.Attributes()) {
						all = append(all, s)
					}
				}
			}
		}
	}
	return all
}

// describe reads what a sample's attributes say; false if it is not one that is used.
func (s *Sample) describe(a pcommon.Map) bool {
	if simulated, ok := a.Get(semconv.Simulated); ok {
		s.simulated = simulated.Bool()
	}
	switch s.of {
	case utilization, processUse:
		if s.of == processUse && !s.describeProcess(a) {
			return false
		}
		return pdataread.Text(a, "hw.gpu.task") == "general"
	case energy: // what the receiver integrated is less than the power says
		return pdataread.Text(a, "hw.gpu.energy.source") != "integrated"
	case temperature:
		return pdataread.Text(a, "hw.sensor_location") == "gpu"
	case powerInstant:
		if pdataread.Text(a, "hw.gpu.power.scope") == "average" {
			s.of = powerAverage
		}
	case throttle:
		s.key = pdataread.Text(a, "hw.gpu.throttle.reason")
	case powerLimit:
		return pdataread.Text(a, "hw.limit_type") == "enforced"
	case info:
		s.key = pdataread.Text(a, "hw.model")
	case processMemory:
		return s.describeProcess(a)
	}
	return true
}

func (s *Sample) describeProcess(a pcommon.Map) bool {
	pid, ok := a.Get(semconv.ProcessPID)
	if ok {
		s.pid = pid.Int()
	}
	return ok
}

// maxReasons bounds the throttle reasons; NVML knows a dozen.
const maxReasons = 16

// stream is the stream that a sample belongs to; nil if a bound is reached.
func (t *Timeline) stream(s *Sample, limits *Limits) *Stream {
	switch s.of {
	case memory:
		return &t.Memory
	case memoryMax:
		return &t.MemoryMax
	case energy:
		return &t.Energy
	case utilization:
		return &t.Utilization
	case temperature:
		return &t.Temperature
	case powerInstant:
		return &t.PowerInstant
	case powerAverage:
		return &t.PowerAverage
	case throttle:
		return keyed(t.Throttle, s.key, maxReasons, true)
	case processUse:
		return keyed(t.ProcessUse, s.pid, limits.Processes, false)
	}
	return keyed(t.ProcessMemory, s.pid, limits.Processes, true)
}

// keyed is the stream of a key, made if there is room.
func keyed[K comparable](all map[K]*Stream, key K, limit int, sparse bool) *Stream {
	s := all[key]
	if s == nil && len(all) < limit {
		s = &Stream{sparse: sparse}
		all[key] = s
	}
	return s
}

// date finds out when the driver refreshed the quantity of a sample.
func (t *Timeline) date(s *Sample, arrival Arrival, limit int) {
	var d *dater
	switch s.of {
	case energy:
		d = &t.counter
	case powerInstant:
		d = &t.power
	default:
		return
	}
	switch arrival {
	case InOrder:
		d.read(s.At, s.Value)
	case Late:
		d.late(s.At, s.Value)
	}
	d.bound(limit)
}

// Add adds a sample. It returns the timeline that it changed, nil if it changed none, and
// that of a GPU that made room for a new one, else nil. Counts is added to.
func (ts *Set) Add(s *Sample, counts *Counts) (changed, evicted *Timeline) {
	t, evicted := ts.of(s.GPU, s.At)
	if evicted != nil {
		counts.GPUs++
	}
	if t == nil {
		counts.Dropped++
		return nil, evicted
	}
	if s.Host != "" {
		t.Host = s.Host
	}
	if s.stale {
		if s.of != memory {
			return nil, evicted
		}
		t.Ended = max(s.At, 1)
		return t, evicted // who waits for its samples waits no longer
	}
	switch s.of {
	case powerLimit:
		t.MaxWatts = s.Value
		return nil, evicted
	case info:
		t.Model = s.key
		return nil, evicted
	}
	to := t.stream(s, &ts.limits)
	if to == nil {
		counts.Dropped++
		return nil, evicted
	}
	t.Simulated = t.Simulated || s.simulated
	if t.Ended != 0 && s.At > t.Ended {
		t.Ended = 0 // it is back
	}
	arrival := to.Put(s.At, s.Value)
	counts.add(arrival)
	t.date(s, arrival, ts.limits.Samples)
	counts.Dropped += int64(to.bound(ts.limits.Samples))
	if s.of == processMemory {
		t.Lists.Put(s.At, 0)
		t.Lists.bound(ts.limits.Samples)
	}
	t.arrived = s.At
	// The driver keeps samples of utilization: those of a time before the collector's start do
	// not mean that anything else is known of it.
	if s.of == utilization && (len(t.Pace.Points) == 0 || s.At < t.Pace.Points[0].At) {
		return t, evicted
	}
	if newest, ok := t.Pace.Newest(); !ok || s.At != newest {
		t.Pace.Put(s.At, 0)
		t.Pace.bound(ts.limits.Samples) // these are no samples of their own
	}
	return t, evicted
}
