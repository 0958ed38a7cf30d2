// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	_ "embed"
	"fmt"
	"net/http"
	"sync"
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
	histograms map[string]metric.Float64Histogram

	workflows, models, classes, tasks *labels

	ioOptions sync.Map // ioKey to metric.AddOption
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

func newInstruments(limits LimitsConfig, telemetry *metadata.TelemetryBuilder) (*instruments, error) {
	m := &instruments{
		reader:    sdk.NewManualReader(),
		telemetry: telemetry,
		counters:  map[string]metric.Int64Counter{}, histograms: map[string]metric.Float64Histogram{},
		workflows: newLabels("workflow", limits.Workflows),
		models:    newLabels("model", limits.Models),
		classes:   newLabels("node_class", limits.NodeClasses),
		tasks:     newLabels("task_class", limits.TaskClasses),
	}
	var described struct{ Gauges, Counters, Histograms map[string]metricDescription }
	if err := yaml.Unmarshal(metricsYAML, &described); err != nil {
		return nil, fmt.Errorf("read metrics.yaml: %w", err)
	}
	m.gauges = described.Gauges
	meter := sdk.NewMeterProvider(sdk.WithReader(m.reader), sdk.WithCardinalityLimit(maxSeries)).Meter(metadata.ScopeName)
	for name, d := range described.Counters { // the names are valid
		m.counters[name], _ = meter.Int64Counter(name, metric.WithUnit(d.Unit), metric.WithDescription(d.Description))
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

// label returns a value if it is among the first ones up to the limit, else other.
func (m *instruments) label(l *labels, value string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case value == "" || l.known[value]:
		return value
	case len(l.known) < l.limit:
		l.known[value] = true
		return value
	}
	m.telemetry.ReceiverComfyuiFolded.Add(context.Background(), 1, metric.WithAttributes(attribute.String("comfyui.what", l.what)))
	return other
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
		{outcome(prompt.Error), attribute.String("error.type", other)},
		{outcome(prompt.Lost)},
	} {
		m.add("comfyui.prompts", 0, append(of, dimensions...)...)
	}
}

// promptEnded records a prompt that has ended.
func (m *instruments) promptEnded(p *prompt.Prompt) {
	dimensions := m.dimensions(p)
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
	if p.Started.IsZero() {
		return
	}
	m.record("comfyui.queue.duration", max(0, p.Started.Sub(p.Answered)), dimensions...)
	m.record("comfyui.execution.duration", p.Ended.Sub(p.Started), dimensions...)
	declared := p.Submission.NodesByID()
	classOf := func(id string) attribute.KeyValue {
		return attribute.String("comfyui.node.class", m.label(m.classes, declared[id].Class))
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
	m.record("comfyui.proxy.request.duration", d, attribute.String("http.route", route),
		attribute.String("http.request.method", method), attribute.Int("http.response.status_code", status))
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
	m.counters["comfyui.proxy.io"].Add(context.Background(), int64(n), option.(metric.AddOption))
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
