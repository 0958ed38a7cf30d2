//go:build linux && cgo

package nvmlreceiver

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// simulatedAttribute marks every series that was made from the test library.
const simulatedAttribute = "gpu.simulated"

// emitter makes points out of samples. A series that was recorded at the last
// collection and is not at this one gets one last point with the
// no-recorded-value flag: remote write turns it into a staleness marker, so that
// queries see the end at once.
type emitter struct {
	perCard   bool
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
}

func newEmitter(cfg *Config, settings receiver.Settings) *emitter {
	return &emitter{
		perCard: cfg.PerCardResource,
		builder: metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, settings),
		ender:   metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, settings),
		gone:    map[series]struct{}{},
	}
}

// restart gives counters a new start time.
func (e *emitter) restart() {
	now := pcommon.NewTimestampFromTime(time.Now())
	e.builder.Reset(metadata.WithStartTime(now))
	e.ender.Reset(metadata.WithStartTime(now))
}

func (e *emitter) begin(ts pcommon.Timestamp, hostname string, simulated bool) {
	e.ts, e.hostname = ts, hostname
	e.simulated = e.simulated || simulated // the process keeps its library
	e.ended = false
	e.last = pmetric.NewMetrics()
}

// card records a card's samples and its state, and ends what it had and has not.
func (e *emitter) card(c *card, xids *xidCounts) {
	e.state = e.state[:0]
	if c.condition == healthy {
		e.state = append(e.state, c.sheet.samples...)
	}
	e.state = appendState(e.state, c)
	e.state = xids.appendTo(e.state, c.shared)
	e.endSeries(c, e.state)
	for i := range e.state {
		s := &e.state[i]
		s.metric.record(e.builder, e.ts, &c.names, s)
	}
	c.recorded, e.state = e.state, c.recorded
	if e.perCard {
		e.emitResource(&c.names)
	}
}

// forget ends everything a card has.
func (e *emitter) forget(c *card) {
	e.endSeries(c, nil)
	c.recorded = c.recorded[:0]
	if e.perCard {
		e.emitResource(&c.names)
	}
}

// endSeries records a last point for each series of the last collection that is
// not among now. Both are in the table's order, mostly the same. Under another
// name every series is another; under another description only hw.gpu.info is.
func (e *emitter) endSeries(c *card, now []sample) {
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
			if renamed || !still || redescribed && s.metric == &infoMetric {
				s.metric.record(e.ender, e.ts, old, s)
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

// end records what belongs to no card and returns the collection.
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
// its own: the card's, or without one the host's.
func (e *emitter) emitResource(card *names) {
	if e.ended {
		endedAs := card
		if card != nil {
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
	e.builder.Emit(metadata.WithResource(e.resource(card))).ResourceMetrics().MoveAndAppendTo(e.last.ResourceMetrics())
}

func (e *emitter) resource(card *names) pcommon.Resource {
	rb := e.builder.NewResourceBuilder()
	rb.SetHostName(e.hostname)
	if card != nil {
		rb.SetHwID(card.id)
		rb.SetHwName(card.name)
		rb.SetHwModel(card.Model)
		rb.SetHwVendor(vendor)
		rb.SetHwSerialNumber(card.Serial)
		rb.SetHwFirmwareVersion(card.VBIOS)
		rb.SetHwDriverVersion(card.driver)
		rb.SetHwGpuPciBusID(card.PCIBusID)
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
