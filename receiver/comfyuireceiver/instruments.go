// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"

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

	prompts                            metric.Int64Counter
	queueTime, executionTime, nodeTime metric.Float64Histogram
	nodes                              metric.Int64Counter
	requests                           metric.Float64Histogram
	io                                 metric.Int64Counter

	workflows, models, classes, tasks *labels

	ioOptions sync.Map // ioKey to metric.AddOption
}

// ioKey is direction and kind, the attributes of comfyui.proxy.io.
type ioKey [2]string

// promptSeconds are the bounds of prompts' histograms: from a cached prompt to ten
// minutes.
var promptSeconds = []float64{0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 15, 20, 30, 45, 60, 120, 300, 600}

// requestSeconds are the bounds of requests' histogram; most requests are short.
var requestSeconds = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60}

// maxSeries bounds the series of one metric, in addition to the limits of its attributes.
const maxSeries = 4096

func newInstruments(limits LimitsConfig, telemetry *metadata.TelemetryBuilder) *instruments {
	m := &instruments{
		reader:    sdk.NewManualReader(),
		telemetry: telemetry,
		workflows: newLabels("workflow", limits.Workflows),
		models:    newLabels("model", limits.Models),
		classes:   newLabels("node_class", limits.NodeClasses),
		tasks:     newLabels("task_class", limits.TaskClasses),
	}
	meter := sdk.NewMeterProvider(sdk.WithReader(m.reader), sdk.WithCardinalityLimit(maxSeries)).Meter(metadata.ScopeName)
	counter := func(name, unit, description string) metric.Int64Counter {
		c, _ := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description)) // the names are valid
		return c
	}
	histogram := func(name, description string, bounds []float64) metric.Float64Histogram {
		h, _ := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description), metric.WithExplicitBucketBoundaries(bounds...))
		return h
	}
	m.prompts = counter("comfyui.prompts", "{prompt}", "Prompts that have ended, by outcome.")
	m.queueTime = histogram("comfyui.queue.duration", "Time that prompts waited in the queue.", promptSeconds)
	m.executionTime = histogram("comfyui.execution.duration", "Time that prompts were executed.", promptSeconds)
	m.nodeTime = histogram("comfyui.node.duration", "Time that nodes were executed, by class.", promptSeconds)
	m.nodes = counter("comfyui.nodes", "{node}", "Nodes that were executed or read from the cache, by class.")
	m.requests = histogram("comfyui.proxy.request.duration", "Duration of requests through the proxy, including the time that ComfyUI needed.", requestSeconds)
	m.io = counter("comfyui.proxy.io", "By", "Bytes that passed the proxy: bodies of requests and responses, and WebSocket frames.")
	return m
}

// labels bounds the values of an attribute.
type labels struct {
	what  string // as in receiver.comfyui.folded
	limit int

	mu    sync.Mutex
	known map[string]bool // guarded by mu
}

func newLabels(what string, limit int) *labels {
	return &labels{what: what, limit: limit, known: map[string]bool{}}
}

// admit reports whether a value is among the first ones, up to the limit.
func (l *labels) admit(value string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.known[value] && len(l.known) < l.limit {
		l.known[value] = true
	}
	return l.known[value]
}

// label returns a value, or other if it exceeds the limit.
func (m *instruments) label(l *labels, value string) string {
	if value == "" || l.admit(value) {
		return value
	}
	m.telemetry.ReceiverComfyuiFolded.Add(context.Background(), 1, metric.WithAttributes(attribute.String("comfyui.what", l.what)))
	return sizing.Other
}

// dimensions are the attributes by which metrics of prompts are grouped.
func (m *instruments) dimensions(p *prompt.Prompt) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("comfyui.workflow.id", m.label(m.workflows, p.Submission.Workflow)),
		attribute.String("comfyui.task_class", m.label(m.tasks, p.Sizing.TaskClass)),
		attribute.String("comfyui.model", m.label(m.models, p.Sizing.Model)),
	}
}

func outcome(o prompt.Outcome) attribute.KeyValue {
	return attribute.String("comfyui.prompt.outcome", string(o))
}

// PromptAccepted initialises the counters of a kind of prompt to 0, without which
// increase() would miss the first one.
func (m *instruments) PromptAccepted(p *prompt.Prompt) {
	dimensions := m.dimensions(p)
	for _, of := range [...][]attribute.KeyValue{
		{outcome(prompt.Success)},
		{outcome(prompt.Error), attribute.String("error.type", spans.OutOfMemory)},
		{outcome(prompt.Error), attribute.String("error.type", sizing.Other)},
		{outcome(prompt.Lost)},
	} {
		m.prompts.Add(context.Background(), 0, metric.WithAttributes(append(of, dimensions...)...))
	}
}

// promptEnded records a prompt that has ended.
func (m *instruments) promptEnded(p *prompt.Prompt) {
	ctx := context.Background()
	dimensions := m.dimensions(p)
	of := []attribute.KeyValue{outcome(p.Outcome)}
	if p.Outcome == prompt.Error {
		// two values only, since exceptions' types are unbounded
		errorType := sizing.Other
		if spans.IsOutOfMemory(&p.Failure) {
			errorType = spans.OutOfMemory
		}
		of = append(of, attribute.String("error.type", errorType))
	}
	m.prompts.Add(ctx, 1, metric.WithAttributes(append(of, dimensions...)...))
	if p.Started.IsZero() {
		return
	}
	set := metric.WithAttributeSet(attribute.NewSet(slices.Clone(dimensions)...))
	m.queueTime.Record(ctx, max(0, p.Started.Sub(p.Answered).Seconds()), set)
	m.executionTime.Record(ctx, p.Ended.Sub(p.Started).Seconds(), set)
	declared := p.Submission.NodesByID()
	classOf := func(id string) attribute.KeyValue {
		return attribute.String("comfyui.node.class", m.label(m.classes, declared[id].Class))
	}
	for _, n := range p.Nodes {
		class := classOf(n.ID)
		m.nodeTime.Record(ctx, n.End.Sub(n.Start).Seconds(), metric.WithAttributes(append(slices.Clone(dimensions), class)...))
		m.nodes.Add(ctx, 1, metric.WithAttributes(class, attribute.String("state", "executed")))
	}
	for _, id := range p.Cached {
		m.nodes.Add(ctx, 1, metric.WithAttributes(classOf(id), attribute.String("state", "cached")))
	}
}

// RequestServed records a request that passed the proxy.
func (m *instruments) RequestServed(route, method string, status int, d time.Duration) {
	switch method {
	case http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions, http.MethodPatch:
	default:
		method = "_OTHER"
	}
	m.requests.Record(context.Background(), d.Seconds(), metric.WithAttributes(attribute.String("http.route", route),
		attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status)))
}

// Bytes counts bytes that passed the proxy.
func (m *instruments) Bytes(d sockets.Direction, kind string, n int) {
	if n <= 0 {
		return
	}
	key := ioKey{string(d), kind}
	option, ok := m.ioOptions.Load(key)
	// made once, since frames are many
	if !ok {
		option = metric.WithAttributeSet(attribute.NewSet(attribute.String("network.io.direction", string(d)), attribute.String("kind", kind)))
		m.ioOptions.Store(key, option)
	}
	m.io.Add(context.Background(), int64(n), option.(metric.AddOption))
}

// Unparsed counts a text frame that was relayed and not understood.
func (m *instruments) Unparsed() {
	m.telemetry.ReceiverComfyuiFramesUnparsed.Add(context.Background(), 1)
}

// PromptUnfollowed counts a prompt that was relayed and is not followed.
func (m *instruments) PromptUnfollowed() {
	m.telemetry.ReceiverComfyuiPromptsUnfollowed.Add(context.Background(), 1)
}

// dropped counts a trace or a log record that was not exported.
func (m *instruments) dropped(signal string) {
	m.telemetry.ReceiverComfyuiDropped.Add(context.Background(), 1, metric.WithAttributes(attribute.String("signal", signal)))
}
