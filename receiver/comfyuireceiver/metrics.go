// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// meter aggregates the receiver's metrics with OpenTelemetry's SDK; a scrape
// reads them.
type meter struct {
	reader *sdk.ManualReader

	prompts                 metric.Int64Counter
	queue, execution, nodes metric.Float64Histogram
	nodeCount               metric.Int64Counter
	requests                metric.Float64Histogram
	bytes                   metric.Int64Counter

	workflows, models, classes, tasks *names

	mu      sync.Mutex
	byBytes map[[2]string]metric.AddOption
}

// seconds are the histograms' bounds: from a cached prompt to ten minutes.
var seconds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600}

// requestSeconds are the bounds for requests, most of which take little.
var requestSeconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// mostSeries bounds the series of one metric, beyond all other bounds.
const mostSeries = 4096

func newMeter(limits LimitsConfig, folded func(what string)) *meter {
	m := &meter{
		reader:    sdk.NewManualReader(),
		workflows: newNames(limits.Workflows, func() { folded("workflow") }),
		models:    newNames(limits.Models, func() { folded("model") }),
		classes:   newNames(limits.NodeClasses, func() { folded("node_class") }),
		tasks:     newNames(limits.TaskClasses, func() { folded("task_class") }),
		byBytes:   map[[2]string]metric.AddOption{},
	}
	provider := sdk.NewMeterProvider(sdk.WithReader(m.reader), sdk.WithCardinalityLimit(mostSeries))
	meter := provider.Meter(metadata.ScopeName)
	// Errors are those of a wrong name, which the tests would find.
	m.prompts, _ = meter.Int64Counter("comfyui.prompts", metric.WithUnit("{prompt}"), metric.WithDescription("Prompts that have ended, by outcome."))
	m.queue, _ = meter.Float64Histogram("comfyui.queue.duration", metric.WithUnit("s"), metric.WithDescription("Time that prompts waited in the queue."), metric.WithExplicitBucketBoundaries(seconds...))
	m.execution, _ = meter.Float64Histogram("comfyui.execution.duration", metric.WithUnit("s"), metric.WithDescription("Time that prompts were executed."), metric.WithExplicitBucketBoundaries(seconds...))
	m.nodes, _ = meter.Float64Histogram("comfyui.node.duration", metric.WithUnit("s"), metric.WithDescription("Time that nodes were executed, by class."), metric.WithExplicitBucketBoundaries(seconds...))
	m.nodeCount, _ = meter.Int64Counter("comfyui.nodes", metric.WithUnit("{node}"), metric.WithDescription("Nodes that were executed or taken from the cache, by class."))
	m.requests, _ = meter.Float64Histogram("comfyui.proxy.request.duration", metric.WithUnit("s"), metric.WithDescription("Time that requests through the proxy took, ComfyUI's own part included."), metric.WithExplicitBucketBoundaries(requestSeconds...))
	m.bytes, _ = meter.Int64Counter("comfyui.proxy.io", metric.WithUnit("By"), metric.WithDescription("Bytes that passed the proxy: bodies of requests, and frames of sockets."))
	return m
}

// names bounds the values of an attribute: the first n are told apart.
type names struct {
	most   int
	folded func()

	mu    sync.Mutex
	known map[string]bool
}

func newNames(most int, folded func()) *names {
	return &names{most: most, folded: folded, known: map[string]bool{}}
}

func (n *names) of(name string) string {
	if name == "" {
		return ""
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.known[name] {
		if len(n.known) >= n.most {
			n.folded()
			return other
		}
		n.known[name] = true
	}
	return name
}

// common are the attributes that tell prompts apart.
func (m *meter) common(s *protocol.Submission, z *sizing) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("comfyui.workflow.id", m.workflows.of(s.Workflow)),
		attribute.String("comfyui.task_class", m.tasks.of(z.taskClass)),
		attribute.String("comfyui.model", m.models.of(z.model)),
	}
}

// accepted gives birth to the counters of a kind of prompt, at 0: one that is born
// at 1 gives increase() nothing to see.
func (m *meter) accepted(s *protocol.Submission, z *sizing) {
	common := m.common(s, z)
	for _, ended := range [...][]attribute.KeyValue{
		{attribute.String("comfyui.prompt.outcome", string(prompt.Success))},
		{attribute.String("comfyui.prompt.outcome", string(prompt.Error)), attribute.String("error.type", outOfMemory)},
		{attribute.String("comfyui.prompt.outcome", string(prompt.Error)), attribute.String("error.type", other)},
		{attribute.String("comfyui.prompt.outcome", string(prompt.Lost))},
	} {
		m.prompts.Add(context.Background(), 0, metric.WithAttributeSet(attribute.NewSet(append(ended, common...)...)))
	}
}

// prompt records a prompt that has ended.
func (m *meter) prompt(p *prompt.Prompt, z *sizing) {
	ctx := context.Background()
	common := m.common(&p.Submission, z)
	set := attribute.NewSet(common...)
	ended := []attribute.KeyValue{attribute.String("comfyui.prompt.outcome", string(p.Outcome))}
	if p.Outcome == prompt.Error {
		ended = append(ended, attribute.String("error.type", boundedError(p)))
	}
	m.prompts.Add(ctx, 1, metric.WithAttributeSet(attribute.NewSet(append(ended, common...)...)))
	if p.Started.IsZero() {
		return
	}
	m.queue.Record(ctx, max(0, p.Started.Sub(p.Answered).Seconds()), metric.WithAttributeSet(set))
	m.execution.Record(ctx, p.Ended.Sub(p.Started).Seconds(), metric.WithAttributeSet(set))
	classOf := map[string]string{}
	for i := range p.Submission.Nodes {
		classOf[p.Submission.Nodes[i].ID] = p.Submission.Nodes[i].Class
	}
	for _, n := range p.Nodes {
		class := m.classes.of(classOf[n.ID])
		m.nodes.Record(ctx, n.End.Sub(n.Start).Seconds(), metric.WithAttributes(append(common[:len(common):len(common)], attribute.String("comfyui.node.class", class))...))
		m.nodeCount.Add(ctx, 1, metric.WithAttributes(attribute.String("comfyui.node.class", class), attribute.String("state", "executed")))
	}
	for _, id := range p.Cached {
		m.nodeCount.Add(ctx, 1, metric.WithAttributes(attribute.String("comfyui.node.class", m.classes.of(classOf[id])), attribute.String("state", "cached")))
	}
}

// boundedError keeps the kinds of errors few: out of memory, and the rest.
func boundedError(p *prompt.Prompt) string {
	if isOutOfMemory(&p.Failure) {
		return outOfMemory
	}
	return other
}

func (m *meter) request(route, method string, status int, d time.Duration) {
	switch method {
	case "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH":
	default:
		method = "_OTHER"
	}
	m.requests.Record(context.Background(), d.Seconds(), metric.WithAttributes(attribute.String("http.route", route),
		attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status)))
}

func (m *meter) addBytes(d direction, kind string, n int) {
	if n <= 0 {
		return
	}
	key := [2]string{string(d), kind}
	m.mu.Lock()
	option, ok := m.byBytes[key]
	if !ok {
		option = metric.WithAttributeSet(attribute.NewSet(attribute.String("network.io.direction", map[direction]string{up: "receive", down: "transmit"}[d]), attribute.String("kind", kind)))
		m.byBytes[key] = option
	}
	m.mu.Unlock()
	m.bytes.Add(context.Background(), int64(n), option)
}

// scrape makes one scrape.
func (s *service) scrape(ctx context.Context) (pmetric.Metrics, error) {
	out := pmetric.NewMetrics()
	rm := out.ResourceMetrics().AppendEmpty()
	s.resource(rm.Resource())
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(s.settings.BuildInfo.Version)
	c := &collection{metrics: sm.Metrics(), now: pcommon.NewTimestampFromTime(s.now()), simulated: s.device.simulated()}

	queue, queueErr := s.upstream.queue(ctx)
	c.gauge("comfyui.up", "{server}", "1 while ComfyUI answers.").add(truth(queueErr == nil))
	if queueErr == nil {
		g := c.gauge("comfyui.queue.length", "{prompt}", "Prompts in the queue, by state.")
		g.add(float64(len(queue.Running)), "state", "running")
		g.add(float64(len(queue.Pending)), "state", "pending")
		if devices, err := s.upstream.devices(ctx); err == nil {
			c.devices(devices, s.device.id())
		}
	}
	c.gauge("comfyui.prompts.open", "{prompt}", "Prompts that are followed.").add(float64(s.tracker.OpenCount()))
	if s.proxy != nil {
		live, kept := s.proxy.sockets.counts()
		g := c.gauge("comfyui.proxy.sockets", "{socket}", "Open WebSockets: with a client, and kept for prompts whose client has left.")
		g.add(float64(live), "state", "client")
		g.add(float64(kept), "state", "kept")
	}
	var data metricdata.ResourceMetrics
	if err := s.metrics.reader.Collect(ctx, &data); err != nil {
		return out, err
	}
	for _, scope := range data.ScopeMetrics {
		for i := range scope.Metrics {
			c.aggregated(&scope.Metrics[i])
		}
	}
	return out, nil
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// scrape is pdata in the making.
type collection struct {
	metrics   pmetric.MetricSlice
	now       pcommon.Timestamp
	simulated bool
}

func (c *collection) metric(name, unit, description string) pmetric.Metric {
	m := c.metrics.AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	m.SetDescription(description)
	return m
}

type gauge struct {
	c      *collection
	points pmetric.NumberDataPointSlice
}

func (c *collection) gauge(name, unit, description string) gauge {
	return gauge{c, c.metric(name, unit, description).SetEmptyGauge().DataPoints()}
}

func (g gauge) add(v float64, attributes ...string) {
	p := g.points.AppendEmpty()
	p.SetTimestamp(g.c.now)
	p.SetDoubleValue(v)
	for i := 0; i+1 < len(attributes); i += 2 {
		p.Attributes().PutStr(attributes[i], attributes[i+1])
	}
	g.c.mark(p.Attributes())
}

func (c *collection) mark(a pcommon.Map) {
	if c.simulated {
		a.PutBool("gpu.simulated", true)
	}
}

// devices records the memory as the server sees it.
func (c *collection) devices(devices []protocol.Device, hwID string) {
	limit := c.gauge("comfyui.device.memory.limit", "By", "Memory of the device, as ComfyUI sees it (/system_stats).")
	free := c.gauge("comfyui.device.memory.free", "By", "Memory of the device that is free, as ComfyUI sees it (/system_stats).")
	held := c.gauge("comfyui.torch.memory.limit", "By", "Memory that torch's allocator holds (/system_stats).")
	unused := c.gauge("comfyui.torch.memory.free", "By", "Memory that torch's allocator holds and does not use (/system_stats).")
	const most = 64
	for i := range devices[:min(len(devices), most)] {
		d := &devices[i]
		attributes := []string{"comfyui.device.type", d.Type, "comfyui.device.index", strconv.Itoa(d.Index)}
		if hwID != "" && len(devices) == 1 {
			attributes = append(attributes, "hw.id", hwID)
		}
		limit.add(d.Total, attributes...)
		free.add(d.Free, attributes...)
		held.add(d.TorchTotal, attributes...)
		unused.add(d.TorchFree, attributes...)
	}
}

// aggregated turns the SDK's data into pdata.
func (c *collection) aggregated(m *metricdata.Metrics) {
	out := c.metric(m.Name, m.Unit, m.Description)
	switch data := m.Data.(type) {
	case metricdata.Sum[int64]:
		sum := out.SetEmptySum()
		sum.SetIsMonotonic(data.IsMonotonic)
		sum.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for _, d := range data.DataPoints {
			p := sum.DataPoints().AppendEmpty()
			p.SetStartTimestamp(pcommon.NewTimestampFromTime(d.StartTime))
			p.SetTimestamp(c.now)
			p.SetIntValue(d.Value)
			c.attributes(p.Attributes(), d.Attributes)
		}
	case metricdata.Histogram[float64]:
		h := out.SetEmptyHistogram()
		h.SetAggregationTemporality(pmetric.AggregationTemporalityCumulative)
		for _, d := range data.DataPoints {
			p := h.DataPoints().AppendEmpty()
			p.SetStartTimestamp(pcommon.NewTimestampFromTime(d.StartTime))
			p.SetTimestamp(c.now)
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
			c.attributes(p.Attributes(), d.Attributes)
		}
	}
}

func (c *collection) attributes(to pcommon.Map, from attribute.Set) {
	for _, kv := range from.ToSlice() {
		switch kv.Value.Type() {
		case attribute.INT64:
			to.PutInt(string(kv.Key), kv.Value.AsInt64())
		default:
			to.PutStr(string(kv.Key), kv.Value.String())
		}
	}
	c.mark(to)
}
