// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// simulatedAttribute marks every series that was made from the test library.
const simulatedAttribute = "gpu.simulated"

// emitter makes points out of samples. A series that was recorded at the last
// scrape and is not at this one gets one last point with the
// no-recorded-value flag: remote write turns it into a staleness marker, so that
// queries see the end at once.
type emitter struct {
	perGPU    bool
	builder   *metadata.MetricsBuilder
	ender     *metadata.MetricsBuilder // builds the last points; the generated builder cannot flag them
	ended     bool
	endedAs   names // whose series end
	ts        pcommon.Timestamp
	hostname  string
	simulated bool
	state     []sample
	gone      map[series]struct{}
	last      pmetric.Metrics
	cfg       metadata.MetricsBuilderConfig
	settings  receiver.Settings
	start     pcommon.Timestamp
	before    pcommon.Timestamp // of the last scrape
	// restarter builds the points of counters that went back since the start.
	restarter *metadata.MetricsBuilder
	counts    map[*metric]bool
}

func newEmitter(cfg *Config, settings receiver.Settings) *emitter {
	return &emitter{
		perGPU:    cfg.PerCardResource,
		cfg:       cfg.MetricsBuilderConfig,
		settings:  settings,
		builder:   metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, settings),
		ender:     metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, settings),
		restarter: metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, settings),
		gone:      map[series]struct{}{},
		counts:    map[*metric]bool{},
	}
}

// restart gives all series a new start time.
func (e *emitter) restart(at pcommon.Timestamp) {
	e.start = at
	for _, b := range [...]*metadata.MetricsBuilder{e.builder, e.ender, e.restarter} {
		b.Reset(metadata.WithStartTime(at))
	}
}

// begin begins a scrape. A clock that was set back to before the start
// would make points that end before they begin.
func (e *emitter) begin(ts pcommon.Timestamp, hostname string, simulated bool) {
	if e.start == 0 || ts < e.start {
		e.restart(ts)
	}
	e.before = min(e.ts, ts)
	e.ts, e.hostname = ts, hostname
	e.simulated = e.simulated || simulated // the process keeps its library
	e.ended = false
	e.last = pmetric.NewMetrics()
}

// GPU records a GPU's samples and its state, and ends what it had and has not.
func (e *emitter) gpu(c *gpu, xids *xidCounts, held []sample) {
	e.state = e.state[:0]
	if c.condition == healthy {
		e.state = append(e.state, c.sheet.samples...)
	}
	e.state = appendState(e.state, c)
	e.state = xids.appendTo(e.state, c.shared)
	e.state = append(e.state, held...)
	e.endSeries(c, e.state)
	for i := range e.state {
		s := &e.state[i]
		if start := e.restarted(c, s); start != 0 {
			e.recordSince(c, s, start)
		} else {
			s.metric.record(e.builder, e.ts, s.device(&c.names), s)
		}
	}
	c.recorded, e.state = e.state, c.recorded
	if e.perGPU {
		e.emitResource(&c.names)
	}
}

// past is what is known of a counter from the scrape before.
type past struct {
	last float64
	// start is since when it counts, if it went back since the receiver's start.
	start pcommon.Timestamp
}

// restarted tells since when a series counts, if it is a counter that went back:
// the driver was reloaded, the GPU was reset, or somebody cleared it. Rates are
// right then, in stores that go by start times too.
func (e *emitter) restarted(c *gpu, s *sample) pcommon.Timestamp {
	if !e.isCounter(s.metric) {
		return 0
	}
	now := s.float + float64(s.integer)
	was := c.counters[s.series]
	if now < was.last {
		was.start = e.before
	}
	if was.start > e.ts { // the clock was set back
		was.start = e.ts
	}
	was.last = now
	c.counters[s.series] = was
	return was.start
}

// isCounter asks the generated builder what metadata.yaml says of a metric.
func (e *emitter) isCounter(m *metric) bool {
	counter, known := e.counts[m]
	if !known {
		b := metadata.NewMetricsBuilder(e.cfg, e.settings)
		m.record(b, 0, &names{}, &sample{series: series{metric: m, process: &process{}}})
		for _, rm := range b.Emit().ResourceMetrics().All() {
			built := rm.ScopeMetrics().At(0).Metrics().At(0)
			counter = built.Type() == pmetric.MetricTypeSum && built.Sum().IsMonotonic()
		}
		e.counts[m] = counter
	}
	return counter
}

// recordSince records a point with a start time of its own, which the generated
// builder cannot.
func (e *emitter) recordSince(c *gpu, s *sample, start pcommon.Timestamp) {
	s.metric.record(e.restarter, e.ts, s.device(&c.names), s)
	var of *names
	if e.perGPU {
		of = &c.names
	}
	m := e.restarter.Emit(metadata.WithResource(e.resource(of)))
	eachPoint(m, func(p pmetric.NumberDataPoint) { p.SetStartTimestamp(start) })
	m.ResourceMetrics().MoveAndAppendTo(e.last.ResourceMetrics())
}

// forget ends everything a GPU has.
func (e *emitter) forget(c *gpu) {
	e.endSeries(c, nil)
	c.recorded = c.recorded[:0]
	clear(c.counters)
	if e.perGPU {
		e.emitResource(&c.names)
	}
}

// endSeries records a last point for each series of the last scrape that is
// not among now. Both are in the table's order, mostly the same. Under another
// name every series is another; under another description only hw.gpu.info is.
func (e *emitter) endSeries(c *gpu, now []sample) {
	old := &c.recordedAs
	renamed := old.id != c.names.id || old.name != c.names.name
	redescribed := old.Identity != c.names.Identity || old.driver != c.names.driver || old.cuda != c.names.cuda
	e.endedAs = *old
	if renamed || redescribed || !sameSeries(c.recorded, now) {
		clear(e.gone)
		for i := range now {
			e.gone[now[i].series] = struct{}{}
		}
		for i := range c.recorded {
			s := &c.recorded[i]
			_, still := e.gone[s.series]
			if renamed && s.of == nil || !still || redescribed && s.metric == &infoMetric && s.of == nil {
				s.metric.record(e.ender, e.ts, s.device(old), s)
				e.ended = true
			}
		}
	}
	if renamed || redescribed {
		// Not the fans' names: a worker that is late may be adding to them.
		c.recordedAs = names{id: c.names.id, name: c.names.name, driver: c.names.driver, cuda: c.names.cuda, Identity: c.names.Identity}
	}
}

func sameSeries(a, b []sample) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].series != b[i].series {
			return false
		}
	}
	return true
}

// end records what belongs to no GPU and returns the scrape.
func (e *emitter) end(counts []int64) pmetric.Metrics {
	for _, s := range [...]struct {
		condition condition
		attribute metadata.AttributeHwGpuState
	}{
		{healthy, metadata.AttributeHwGpuStateHealthy},
		{unresponsive, metadata.AttributeHwGpuStateUnresponsive},
		{lost, metadata.AttributeHwGpuStateLost},
	} {
		e.builder.RecordHwGpuCountDataPoint(e.ts, counts[s.condition], s.attribute)
	}
	e.emitResource(nil)
	metrics := e.last
	e.last = pmetric.Metrics{}
	if e.simulated {
		eachPoint(metrics, func(p pmetric.NumberDataPoint) { p.Attributes().PutBool(simulatedAttribute, true) })
	}
	return metrics
}

// emitResource moves what was recorded since the last call onto a resource of
// its own: the GPU's, or without one the host's.
func (e *emitter) emitResource(gpu *names) {
	if e.ended {
		endedAs := gpu
		if gpu != nil {
			endedAs = &e.endedAs
		}
		ends := e.ender.Emit(metadata.WithResource(e.resource(endedAs)))
		eachPoint(ends, func(p pmetric.NumberDataPoint) {
			p.SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
			p.SetIntValue(0)
		})
		ends.ResourceMetrics().MoveAndAppendTo(e.last.ResourceMetrics())
		e.ended = false
	}
	e.builder.Emit(metadata.WithResource(e.resource(gpu))).ResourceMetrics().MoveAndAppendTo(e.last.ResourceMetrics())
}

func (e *emitter) resource(gpu *names) pcommon.Resource {
	rb := e.builder.NewResourceBuilder()
	rb.SetHostName(e.hostname)
	if gpu != nil {
		rb.SetHwID(gpu.id)
		rb.SetHwName(gpu.name)
		rb.SetHwModel(gpu.Model)
		rb.SetHwVendor(vendor)
		rb.SetHwSerialNumber(gpu.Serial)
		rb.SetHwFirmwareVersion(gpu.VBIOS)
		rb.SetHwDriverVersion(gpu.driver)
		rb.SetHwGpuPciBusID(gpu.PCIBusID)
	}
	return rb.Emit()
}

func eachPoint(metrics pmetric.Metrics, do func(pmetric.NumberDataPoint)) {
	for i := range metrics.ResourceMetrics().Len() {
		scopes := metrics.ResourceMetrics().At(i).ScopeMetrics()
		for j := range scopes.Len() {
			all := scopes.At(j).Metrics()
			for k := range all.Len() {
				points := pointsOf(all.At(k))
				for l := range points.Len() {
					do(points.At(l))
				}
			}
		}
	}
}

func pointsOf(m pmetric.Metric) pmetric.NumberDataPointSlice {
	if m.Type() == pmetric.MetricTypeSum {
		return m.Sum().DataPoints()
	}
	return m.Gauge().DataPoints()
}
