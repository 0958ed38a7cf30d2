// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// emitter makes points out of samples. A series that was in the last scrape and is not
// in this one gets a last point with the no-recorded-value flag: remote write turns it
// into a staleness marker, so that queries see the end at once.
type emitter struct {
	perGPU bool // each GPU, and each MIG device, has a resource of its own
	// paced is true if the receiver follows work: samples have the times at which they were
	// read, and none is repeated.
	paced    bool
	hostname string
	builder  *metadata.MetricsBuilder
	start    pcommon.Timestamp // of all series that did not restart
	previous pcommon.Timestamp // of the last scrape
	ts       pcommon.Timestamp
	// simulated is true once the test library was seen: a process keeps its library.
	simulated bool
	metrics   pmetric.Metrics // of the present scrape

	// recorded counts the points that the builder holds, and marked are those of them that
	// have a mark: the generated builder knows none.
	recorded map[*table.Metric]int
	marked   []markedPoint
	// pending are, where each device has a resource of its own, the points that the builder
	// does not hold yet, of one GPU.
	pending []pendingPoint
	present map[seriesKey]*table.Identity // scratch of endSeries
}

// maxSampleAge is beyond the age of any sample that is read.
const maxSampleAge = 2 * time.Second

// pendingPoint is a point that is to be recorded.
type pendingPoint struct {
	sample *table.Sample
	gpu    *table.Identity
	start  pcommon.Timestamp
	ended  bool
}

// markedPoint is a point that the builder holds, with its mark.
type markedPoint struct {
	metric *table.Metric
	at     int               // its place among the metric's points
	start  pcommon.Timestamp // since when it counts, if it restarted
	ended  bool              // the series' last point
}

func newEmitter(cfg *Config, settings receiver.Settings, hostname string) *emitter {
	return &emitter{
		perGPU: cfg.PerCardResource, paced: cfg.followsWork(), hostname: hostname,
		builder:  metadata.NewMetricsBuilder(cfg.MetricsBuilderConfig, settings),
		recorded: map[*table.Metric]int{}, present: map[seriesKey]*table.Identity{},
	}
}

// begin begins a scrape.
func (e *emitter) begin(ts pcommon.Timestamp, simulated bool) {
	if e.start == 0 || ts < e.start { // or the clock was set back: points must not end before they start
		e.start = ts
		if e.paced { // the driver's samples are a little older than the scrape
			e.start = pcommon.NewTimestampFromTime(ts.AsTime().Add(-maxSampleAge))
		}
		e.builder.Reset(metadata.WithStartTime(e.start))
	}
	e.previous = min(e.ts, ts)
	e.ts = ts
	e.simulated = e.simulated || simulated
	e.metrics = pmetric.NewMetrics()
}

func (e *emitter) record(s *table.Sample, gpu *table.Identity, start pcommon.Timestamp, ended bool) {
	if e.perGPU {
		e.pending = append(e.pending, pendingPoint{s, gpu, start, ended})
		return
	}
	e.put(s, gpu, start, ended)
}

func (e *emitter) put(s *table.Sample, gpu *table.Identity, start pcommon.Timestamp, ended bool) {
	at := e.ts
	if e.paced && s.At != 0 && !ended {
		at = pcommon.Timestamp(s.At)
	}
	s.Record(e.builder, at, gpu)
	if ended || start != 0 {
		e.marked = append(e.marked, markedPoint{s.Metric, e.recorded[s.Metric], start, ended})
	}
	e.recorded[s.Metric]++
}

// gpu records a GPU's samples, and ends the series that it no longer has. It keeps the
// samples until the next scrape.
func (e *emitter) gpu(g *gpu, samples []table.Sample) {
	e.endSeries(g, samples)
	h := &g.series
	for i := range samples {
		s := &samples[i]
		if i < g.read && (g.leftOut || e.paced && s.Repeated) {
			continue // it goes on, and has no new reading
		}
		start := pcommon.Timestamp(0)
		if s.Counter {
			start = h.restarted(s, e.previous, e.ts)
		}
		e.record(s, &g.identity, start, false)
	}
	h.samples = samples
	if g.condition == healthy {
		g.reading.Samples = samples // its slice may have grown
	}
	if e.perGPU {
		e.emitDevices(&g.identity)
	}
}

// forget ends all series of a GPU.
func (e *emitter) forget(g *gpu) {
	e.endSeries(g, nil)
	g.series = newSeriesHistory()
	if e.perGPU {
		e.emitDevices(&g.identity)
	}
}

// endSeries records a last point for each series of the last scrape that is not among
// the samples of this one. If a device's id or name changed, that is all its series; if
// another part of its description changed, hw.gpu.info.
func (e *emitter) endSeries(g *gpu, samples []table.Sample) {
	h := &g.series
	old := h.identity
	h.identity = g.identity
	redescribed := old != g.identity
	if !redescribed && sameSeries(h.samples, samples) {
		return
	}
	clear(e.present)
	for i := range samples {
		s := &samples[i]
		e.present[keyOf(s, &g.identity)] = s.Device(&g.identity)
	}
	for i := range h.samples {
		s := &h.samples[i]
		on := e.present[keyOf(s, &old)]
		if on == nil || s.Metric == table.Info.Metric && *on != *s.Device(&old) {
			e.record(s, &old, 0, true)
			e.present[keyOf(s, &old)] = s.Device(&old) // several samples of it may have been read
		}
	}
	if g.condition == healthy {
		h.forgetGone(g.reading.MIG)
	}
	if redescribed && e.perGPU { // last points go onto the resource that the series were on
		e.emitDevices(&old)
	}
}

// emitDevices records what is pending: onto the GPU's resource, and onto one for each of the
// MIG devices on it.
func (e *emitter) emitDevices(gpu *table.Identity) {
	for rest := e.pending; len(rest) > 0; {
		on := rest[0].sample.Device(gpu)
		later := rest[:0]
		var holders []*table.Process
		for _, p := range rest {
			if p.sample.Device(gpu).ID == on.ID {
				e.put(p.sample, p.gpu, p.start, p.ended)
				if p.sample.Metric == table.Allocated.Metric && !p.ended {
					holders = append(holders, p.sample.Process())
				}
			} else {
				later = append(later, p)
			}
		}
		e.emitResource(on, holders...)
		rest = later
	}
	clear(e.pending)
	e.pending = e.pending[:0]
}

// end records what belongs to no GPU and returns the scrape.
func (e *emitter) end(counts []int64) pmetric.Metrics {
	e.builder.RecordHwGpuCountDataPoint(e.ts, counts[healthy], metadata.AttributeHwGpuStateHealthy)
	e.builder.RecordHwGpuCountDataPoint(e.ts, counts[unresponsive], metadata.AttributeHwGpuStateUnresponsive)
	e.builder.RecordHwGpuCountDataPoint(e.ts, counts[lost], metadata.AttributeHwGpuStateLost)
	e.emitResource(nil)
	metrics := e.metrics
	e.metrics = pmetric.Metrics{}
	return metrics
}

// emitResource moves what was recorded since the last call onto a resource of its own:
// the device's, or without one the host's. holders are the containers that the device is
// allocated to.
func (e *emitter) emitResource(device *table.Identity, holders ...*table.Process) {
	built := e.builder.Emit(metadata.WithResource(e.resource(device, holders)))
	e.finish(built)
	built.ResourceMetrics().MoveAndAppendTo(e.metrics.ResourceMetrics())
	clear(e.recorded)
	e.marked = e.marked[:0]
}

// finish sets what the generated builder cannot: last points, the start of counters that
// restarted, and the mark of simulated data. The builder keeps the order in which the
// points of a metric were recorded, so that no point has to be searched for.
func (e *emitter) finish(built pmetric.Metrics) {
	if len(e.marked) == 0 && !e.simulated {
		return
	}
	byName := map[string]pmetric.NumberDataPointSlice{}
	for _, rm := range built.ResourceMetrics().All() {
		for _, m := range rm.ScopeMetrics().At(0).Metrics().All() {
			points := pointsOf(m)
			if len(e.marked) > 0 {
				byName[m.Name()] = points
			}
			for i := 0; e.simulated && i < points.Len(); i++ {
				points.At(i).Attributes().PutBool(semconv.Simulated, true)
			}
		}
	}
	for _, p := range e.marked {
		points, enabled := byName[p.metric.Name]
		switch {
		case !enabled:
		case p.ended:
			points.At(p.at).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
			points.At(p.at).SetIntValue(0)
		default:
			points.At(p.at).SetStartTimestamp(p.start)
		}
	}
}

func (e *emitter) resource(gpu *table.Identity, holders []*table.Process) pcommon.Resource {
	rb := e.builder.NewResourceBuilder()
	if len(holders) == 1 {
		rb.SetK8sNamespaceName(holders[0].Namespace)
		rb.SetK8sPodName(holders[0].Pod)
		rb.SetK8sContainerName(holders[0].Container)
	}
	rb.SetHostName(e.hostname)
	if gpu != nil {
		rb.SetHwID(gpu.ID)
		rb.SetHwName(gpu.Name)
		rb.SetHwModel(gpu.Model)
		rb.SetHwVendor(table.Vendor)
		rb.SetHwSerialNumber(gpu.Serial)
		rb.SetHwFirmwareVersion(gpu.VBIOS)
		rb.SetHwDriverVersion(gpu.Driver)
		rb.SetHwGpuPciBusID(gpu.PCIBusID)
		if gpu.Parent != "" {
			rb.SetHwParent(gpu.Parent)
			rb.SetHwGpuMigProfile(gpu.Profile)
			rb.SetHwGpuMigGpuInstanceID(gpu.GPUInstance)
		}
	}
	return rb.Emit()
}

func pointsOf(m pmetric.Metric) pmetric.NumberDataPointSlice {
	if m.Type() == pmetric.MetricTypeSum {
		return m.Sum().DataPoints()
	}
	return m.Gauge().DataPoints()
}
