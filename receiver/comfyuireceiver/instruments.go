// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.yaml.in/yaml/v3"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sizing"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/sockets"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

// instruments count what the receiver observes: the metrics of prompts and of the proxy,
// which a scrape reads from OpenTelemetry's SDK, and the receiver's own telemetry. The
// methods may be called from any goroutine.
type instruments struct {
	reader    *sdk.ManualReader
	telemetry *metadata.TelemetryBuilder

	// By name.
	gauges     map[string]metricDescription
	counters   map[string]metric.Int64Counter
	times      map[string]metric.Float64Counter
	histograms map[string]metric.Float64Histogram

	workflows, models, classes, tasks, events *labels

	// Attributes that were made before, since frames and requests are many.
	ioOptions, requestOptions optionCache
}

// requestKey is the attributes of comfyui.proxy.request.duration. Routes and methods come
// from fixed lists; the server chooses the status.
type requestKey struct {
	route, method string
	status        int
}

// ioKey is direction and kind, the attributes of comfyui.proxy.io.
type ioKey [2]string

//go:embed metrics.yaml
var metricsYAML []byte

// metricDescription is a metric's entry in metrics.yaml.
type metricDescription struct {
	Unit, Description string
	Buckets           []float64
}

// other stands for values of attributes beyond their limit, and for those that are not
// distinguished.
const other = sizing.Other

// maxSeries bounds the series of one metric, in addition to the limits of its attributes.
const maxSeries = 4096

func newInstruments(limits LimitsConfig, telemetry *metadata.TelemetryBuilder, now func() time.Time) (*instruments, error) {
	m := &instruments{
		reader:    sdk.NewManualReader(),
		telemetry: telemetry,
		counters:  map[string]metric.Int64Counter{}, times: map[string]metric.Float64Counter{}, histograms: map[string]metric.Float64Histogram{},
		workflows: newLabels("workflow", limits.Workflows, now),
		models:    newLabels("model", limits.Models, now),
		classes:   newLabels("node_class", limits.NodeClasses, now),
		tasks:     newLabels("task_class", limits.TaskClasses, now),
		events:    newLabels("event", maxEvents, now),
	}
	m.initialize()
	var described struct{ Gauges, Counters, Times, Histograms map[string]metricDescription }
	if err := yaml.Unmarshal(metricsYAML, &described); err != nil {
		return nil, fmt.Errorf("read metrics.yaml: %w", err)
	}
	m.gauges = described.Gauges
	meter := sdk.NewMeterProvider(sdk.WithReader(m.reader), sdk.WithCardinalityLimit(maxSeries)).Meter(metadata.ScopeName)
	for name, d := range described.Counters { // the names are valid
		m.counters[name], _ = meter.Int64Counter(name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
	}
	for name, d := range described.Times {
		m.times[name], _ = meter.Float64Counter(name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
	}
	for name, d := range described.Histograms {
		m.histograms[name], _ = meter.Float64Histogram(
			name,
			metric.WithUnit(d.Unit),
			metric.WithDescription(d.Description),
			metric.WithExplicitBucketBoundaries(d.Buckets...),
		)
	}
	return m, nil
}

// add adds n to a counter.
func (m *instruments) add(counter string, n int64, attributes ...attribute.KeyValue) {
	m.counters[counter].Add(context.Background(), n, metric.WithAttributes(attributes...))
}

// record records a duration in a histogram.
func (m *instruments) record(histogram string, d time.Duration, attributes ...attribute.KeyValue) {
	m.histograms[histogram].Record(context.Background(), d.Seconds(), metric.WithAttributes(attributes...))
}

// dimensions are the attributes by which metrics of prompts are grouped. Only prompts that
// the server has accepted add values.
func (m *instruments) dimensions(p *prompt.Prompt, accepted bool) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("comfyui.workflow.id", m.label(m.workflows, p.Submission.Workflow, accepted)),
		attribute.String("comfyui.task_class", m.label(m.tasks, p.Sizing.TaskClass, accepted)),
		attribute.String("comfyui.model", m.label(m.models, p.Sizing.Model, accepted)),
	}
}

func outcome(o prompt.Outcome) attribute.KeyValue {
	return attribute.String("comfyui.prompt.outcome", string(o))
}

// PromptAccepted initialises the counters of a kind of prompt to 0, without which
// increase() would miss the first one.
func (m *instruments) PromptAccepted(p *prompt.Prompt) {
	dimensions := m.dimensions(p, true)
	for _, of := range [...][]attribute.KeyValue{
		{outcome(prompt.Success)},
		{outcome(prompt.Error), attribute.String("error.type", spans.OutOfMemory)},
		{outcome(prompt.Error), attribute.String("error.type", other)},
		{outcome(prompt.Lost)},
	} {
		m.add("comfyui.prompts", 0, append(of, dimensions...)...)
	}
	m.addLoading(p) // none yet
}

// promptEnded records a prompt that has ended.
func (m *instruments) promptEnded(p *prompt.Prompt) {
	dimensions := m.dimensions(p, p.ID != "")
	of := []attribute.KeyValue{outcome(p.Outcome)}
	if p.Outcome == prompt.Error {
		// two values only, since exceptions' types are unbounded
		errorType := other
		if spans.IsOutOfMemory(&p.Failure) {
			errorType = spans.OutOfMemory
		}
		of = append(of, attribute.String("error.type", errorType))
	}
	m.add("comfyui.prompts", 1, append(of, dimensions...)...)
	if p.Omitted > 0 {
		m.beyondLimit("node", p.Omitted)
	}
	if p.Started.IsZero() {
		return
	}
	m.record("comfyui.queue.duration", max(0, p.Started.Sub(p.Answered)), dimensions...)
	m.record("comfyui.execution.duration", p.Ended.Sub(p.Started), dimensions...)
	declared := p.Submission.NodesByID()
	classOf := func(id string) attribute.KeyValue {
		return attribute.String("comfyui.node.class", m.label(m.classes, declared[id].Class, true))
	}
	for _, n := range p.Nodes {
		class := classOf(n.ID)
		m.record("comfyui.node.duration", n.End.Sub(n.Start), append([]attribute.KeyValue{class}, dimensions...)...)
		m.add("comfyui.nodes", 1, class, attribute.String("state", "executed"))
	}
	for _, id := range p.Cached {
		m.add("comfyui.nodes", 1, classOf(id), attribute.String("state", "cached"))
	}
}

// RequestServed records a request that passed the proxy.
func (m *instruments) RequestServed(route, method string, status int, d time.Duration) {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPatch:
	default:
		method = "_OTHER"
	}
	if status < 100 || status > 599 {
		status = 0 // not a valid status: the server does as it likes
	}
	key := requestKey{route, method, status}
	option := m.requestOptions.find(key)
	if option == nil {
		option = m.requestOptions.add(key, attribute.String("http.route", route),
			attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status))
	}
	m.histograms["comfyui.proxy.request.duration"].Record(context.Background(), d.Seconds(), option)
}

// Bytes counts bytes that passed the proxy.
func (m *instruments) Bytes(d sockets.Direction, kind string, n int) {
	if n <= 0 {
		return
	}
	key := ioKey{string(d), kind}
	option := m.ioOptions.find(key)
	if option == nil {
		option = m.ioOptions.add(key, attribute.String("network.io.direction", string(d)), attribute.String("kind", kind))
	}
	m.counters["comfyui.proxy.io"].Add(context.Background(), int64(n), option)
}

// initialize sets what alerts and runbooks read to 0, so that the first loss is an increase.
func (m *instruments) initialize() {
	ctx := context.Background()
	m.telemetry.ReceiverComfyuiTracesLost.Add(ctx, 0)
	for _, signal := range []string{"traces", "logs"} {
		m.dropped(signal, 0)
	}
	for _, what := range []string{"exported_id", "handover", "node", "socket"} {
		m.beyondLimit(what, 0)
	}
	for _, reason := range []string{prompt.LimitReached, prompt.NoID, prompt.LongID} {
		m.telemetry.ReceiverComfyuiPromptsUnfollowed.Add(ctx, 0, metric.WithAttributes(attribute.String("reason", reason)))
	}
}

// Unparsed counts a text frame that was relayed and not understood.
func (m *instruments) Unparsed() {
	m.telemetry.ReceiverComfyuiFramesUnparsed.Add(context.Background(), 1)
}

// unfollowed counts a prompt that was relayed and is not followed.
func (m *instruments) unfollowed(reason string) {
	m.telemetry.ReceiverComfyuiPromptsUnfollowed.Add(context.Background(), 1, metric.WithAttributes(attribute.String("reason", reason)))
}

// beyondLimit counts items that found no room; what is as in receiver.comfyui.beyond_limit.
func (m *instruments) beyondLimit(what string, n int) {
	m.telemetry.ReceiverComfyuiBeyondLimit.Add(context.Background(), int64(n), metric.WithAttributes(attribute.String("comfyui.what", what)))
}

// lost counts a trace that an exporter's queue refused, or that was dropped on its way.
func (m *instruments) lost() { m.telemetry.ReceiverComfyuiTracesLost.Add(context.Background(), 1) }

// maxEvents bounds the names of unknown events that are distinguished, and maxEventName
// each of them.
const (
	maxEvents    = 32
	maxEventName = 64
)

// unknownEvent counts a message of a kind that the receiver does not know.
func (m *instruments) unknownEvent(name string) {
	valid := len(name) <= maxEventName && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != '.'
	})
	if !valid || name == "" {
		name = other
	} else {
		name = m.label(m.events, name, true)
	}
	m.telemetry.ReceiverComfyuiEventsUnknown.Add(context.Background(), 1, metric.WithAttributes(attribute.String("event", name)))
}

// dropped counts traces or log records that were not exported.
func (m *instruments) dropped(signal string, n int) {
	m.telemetry.ReceiverComfyuiDropped.Add(context.Background(), int64(n), metric.WithAttributes(attribute.String("signal", signal)))
}
