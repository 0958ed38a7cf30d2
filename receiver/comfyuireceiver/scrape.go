// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
)

// scrape emits the state of the server and of the proxy, and the instruments.
func (r *comfyuiReceiver) scrape(ctx context.Context) (pmetric.Metrics, error) {
	out := pmetric.NewMetrics()
	rm := out.ResourceMetrics().AppendEmpty()
	r.resource.CopyTo(rm.Resource())
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(r.settings.BuildInfo.Version)
	following, device := r.following, r.device.Device()
	w := &metricsWriter{metrics: sm.Metrics(), gauges: following.gauges, now: pcommon.NewTimestampFromTime(r.now()), simulated: device.Simulated}

	length, err := following.server.length(ctx)
	up := 0.0
	if err == nil {
		up = 1
	}
	w.add(w.gauge("comfyui.up"), up)
	if err == nil {
		g := w.gauge("comfyui.queue.length")
		running := min(length, 1) // ComfyUI runs one prompt at a time
		w.add(g, float64(running), attribute.String("state", "running"))
		w.add(g, float64(length-running), attribute.String("state", "pending"))
	}
	if following.memory != nil {
		w.memory(following.memory, device.ID, err == nil)
	}
	w.add(w.gauge("comfyui.prompts.open"), float64(following.tracker.OpenCount()))
	w.progress(following)
	if r.hub != nil {
		withClient, withoutClient := r.hub.Counts()
		g := w.gauge("comfyui.proxy.sockets")
		w.add(g, float64(withClient), attribute.String("state", "client"))
		w.add(g, float64(withoutClient), attribute.String("state", "kept"))
	}
	var data metricdata.ResourceMetrics
	if err := following.reader.Collect(ctx, &data); err != nil {
		return out, err
	}
	for _, scope := range data.ScopeMetrics {
		for i := range scope.Metrics {
			w.aggregated(&scope.Metrics[i])
		}
	}
	return out, nil
}

// metricsWriter writes the metrics of one scrape.
type metricsWriter struct {
	metrics   pmetric.MetricSlice
	gauges    map[string]metricDescription
	now       pcommon.Timestamp
	simulated bool
}

func (w *metricsWriter) metric(name, unit, description string) pmetric.Metric {
	m := w.metrics.AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	m.SetDescription(description)
	return m
}

func (w *metricsWriter) gauge(name string) pmetric.NumberDataPointSlice {
	d := w.gauges[name]
	return w.metric(name, d.Unit, d.Description).SetEmptyGauge().DataPoints()
}

func (w *metricsWriter) add(points pmetric.NumberDataPointSlice, v float64, attributes ...attribute.KeyValue) {
	p := points.AppendEmpty()
	p.SetTimestamp(w.now)
	p.SetDoubleValue(v)
	w.attributes(p.Attributes(), attributes)
}

// progress writes how far the prompts are that are open.
func (w *metricsWriter) progress(f *follower) {
	now := f.now()
	w.add(w.gauge("comfyui.queue.oldest.wait"), f.tracker.OldestWait(now).Seconds())
	ages := map[string]float64{} // classes beyond the limit are one
	for class, age := range f.tracker.ProgressAge(now) {
		class = f.label(f.tasks, class, true)
		ages[class] = max(ages[class], age.Seconds())
	}
	if len(ages) == 0 {
		return
	}
	g := w.gauge("comfyui.progress.age")
	for _, class := range slices.Sorted(maps.Keys(ages)) {
		w.add(g, ages[class], attribute.String("comfyui.task_class", class))
	}
}

// memory writes the memory of the server's devices by its last answer, and what classes of
// prompts need; of a server that does not respond only what is elastic.
func (w *metricsWriter) memory(m *memoryWatcher, hwID string, responds bool) {
	state, ok := m.state()
	if ok && responds {
		w.devices(&state, hwID)
	}
	m.emittedElastic(w.elastic(&state, hwID, ok))
	if len(state.needs) == 0 || !responds {
		return
	}
	need := w.gauge("comfyui.memory.need")
	for class, bytes := range state.needs {
		attributes := []attribute.KeyValue{
			attribute.String("comfyui.workflow.id", class.Workflow),
			attribute.String("comfyui.model", class.Model),
			attribute.String("comfyui.image.size_class", class.SizeClass),
		}
		if class.GPU != "" {
			attributes = append(attributes, attribute.String(semconv.GPUID, class.GPU))
		}
		w.add(need, bytes, attributes...)
	}
}

// devices writes the memory of the server's devices.
func (w *metricsWriter) devices(state *memoryState, hwID string) {
	limit, free := w.gauge("comfyui.device.memory.limit"), w.gauge("comfyui.device.memory.free")
	reserved, unused := w.gauge("comfyui.torch.memory.limit"), w.gauge("comfyui.torch.memory.free")
	active, headroom := w.gauge("comfyui.memory.active"), w.gauge("comfyui.memory.headroom")
	for i := range state.Devices {
		d := &state.Devices[i]
		attributes := state.attributesOf(i, hwID)
		w.add(limit, d.Total, attributes...)
		w.add(free, d.Free, attributes...)
		w.add(reserved, d.TorchTotal, attributes...)
		w.add(unused, d.TorchFree, attributes...)
		if !d.IsGPU() {
			continue
		}
		w.add(active, d.Active(), attributes...)
		available := d.Free
		if state.elastic != nil {
			available += *state.elastic
		}
		w.add(headroom, available, attributes...)
		w.addIfKnown("comfyui.memory.outside", state.outside, attributes)
		w.addIfKnown("comfyui.memory.context", state.context, attributes)
	}
}

// attributesOf are those of a device's memory.
func (s *memoryState) attributesOf(device int, hwID string) []attribute.KeyValue {
	d, index := &s.Devices[device], -1
	if d.Index != nil {
		index = *d.Index
	}
	attributes := []attribute.KeyValue{
		attribute.String("comfyui.device.type", d.Type),
		attribute.String("comfyui.device.index", strconv.Itoa(index)),
	}
	if hwID != "" && len(s.Devices) == 1 {
		attributes = append(attributes, attribute.String(semconv.GPUID, hwID))
	}
	return attributes
}

// elastic writes what can be evicted, and returns its attributes. Where that is no longer
// known, its series gets a last point: what is subtracted from the memory in use must not
// outlive it.
func (w *metricsWriter) elastic(state *memoryState, hwID string, known bool) (of attribute.Set) {
	const name = "comfyui.memory.elastic"
	if known && state.elastic != nil && state.Devices[0].IsGPU() {
		of = attribute.NewSet(state.attributesOf(0, hwID)...)
	}
	if of.Len() == 0 && state.wasElastic.Len() == 0 {
		return of
	}
	g := w.gauge(name)
	if of.Len() > 0 {
		w.add(g, *state.elastic, of.ToSlice()...)
	}
	if was := state.wasElastic; was.Len() > 0 && was.Equivalent() != of.Equivalent() {
		w.add(g, 0, was.ToSlice()...)
		g.At(g.Len() - 1).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
	}
	return of
}

func (w *metricsWriter) addIfKnown(gauge string, v *float64, attributes []attribute.KeyValue) {
	if v != nil {
		w.add(w.gauge(gauge), *v, attributes...)
	}
}

// addSum converts a sum of the SDK.
func addSum[N int64 | float64](w *metricsWriter, out pmetric.Metric, data *metricdata.Sum[N], set func(pmetric.NumberDataPoint, N)) {
	sum := out.SetEmptySum()
	sum.SetIsMonotonic(data.IsMonotonic)
	sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
	for i := range data.DataPoints {
		d := &data.DataPoints[i]
		p := sum.DataPoints().AppendEmpty()
		p.SetStartTimestamp(pcommon.NewTimestampFromTime(d.StartTime))
		p.SetTimestamp(w.now)
		set(p, d.Value)
		w.attributes(p.Attributes(), d.Attributes.ToSlice())
	}
}

// aggregated converts the SDK's data to pdata.
func (w *metricsWriter) aggregated(m *metricdata.Metrics) {
	out := w.metric(m.Name, m.Unit, m.Description)
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		addSum(w, out, &data, pmetric.NumberDataPoint.SetIntValue)
	case metricdata.Sum[float64]:
		addSum(w, out, &data, pmetric.NumberDataPoint.SetDoubleValue)
	case metricdata.Histogram[float64]:
		h := out.SetEmptyHistogram()
		h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for _, d := range data.DataPoints {
			p := h.DataPoints().AppendEmpty()
			p.SetStartTimestamp(pcommon.NewTimestampFromTime(d.StartTime))
			p.SetTimestamp(w.now)
			p.SetCount(d.Count)
			p.SetSum(d.Sum)
			p.ExplicitBounds().FromRaw(d.Bounds)
			p.BucketCounts().FromRaw(d.BucketCounts)
			if v, ok := d.Min.Value(); ok {
				p.SetMin(v)
			}
			if v, ok := d.Max.Value(); ok {
				p.SetMax(v)
			}
			w.attributes(p.Attributes(), d.Attributes.ToSlice())
		}
	}
}

func (w *metricsWriter) attributes(to pcommon.Map, from []attribute.KeyValue) {
	for _, kv := range from {
		if kv.Value.Type() == attribute.INT64 {
			to.PutInt(string(kv.Key), kv.Value.AsInt64())
		} else {
			to.PutStr(string(kv.Key), kv.Value.String())
		}
	}
	if w.simulated {
		to.PutBool(semconv.Simulated, true)
	}
}
