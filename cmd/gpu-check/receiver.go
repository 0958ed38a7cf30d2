// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pmetric"
	collector "go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver"
)

// interval is how often the receiver scrapes while it is checked.
const interval = 200 * time.Millisecond

// receiver is the nvml receiver, run as a collector would run it.
type receiver struct {
	component collector.Metrics
	stopOnce  sync.Once

	mu     sync.Mutex
	newest map[string]map[string]float64 // by GPU, by metric and attributes
	info   map[string]map[string]string
	count  int
	fresh  chan struct{}
	// unsupportedRows has the reasons by GPU and row.
	unsupportedRows map[string]map[string]string
	lastWarning     string
	libraryPath     string
}

func startReceiver(ctx context.Context, library string) (*receiver, error) {
	r := &receiver{fresh: make(chan struct{}), unsupportedRows: map[string]map[string]string{}}
	factory := nvmlreceiver.NewFactory()
	cfg := factory.CreateDefaultConfig()
	if err := confmap.NewFromStringMap(map[string]any{
		"collection_interval": interval.String(), "initial_delay": "0s", "library_path": library,
	}).Unmarshal(cfg); err != nil {
		return nil, err
	}
	next, err := consumer.NewMetrics(r.consume)
	if err != nil {
		return nil, err
	}
	telemetry := componenttest.NewNopTelemetrySettings()
	telemetry.Logger = zap.New(&logReader{LevelEnabler: zap.DebugLevel, receiver: r})
	settings := collector.Settings{ID: component.NewID(factory.Type()), TelemetrySettings: telemetry}
	if r.component, err = factory.CreateMetrics(ctx, settings, cfg, next); err != nil {
		return nil, err
	}
	return r, r.component.Start(ctx, componenttest.NewNopHost())
}

func (r *receiver) stop() {
	r.stopOnce.Do(func() { _ = r.component.Shutdown(context.Background()) })
}

// consume stores the newest scrape.
func (r *receiver) consume(_ context.Context, m pmetric.Metrics) error {
	newest, info := map[string]map[string]float64{}, map[string]map[string]string{}
	for _, rm := range m.ResourceMetrics().All() {
		for _, sm := range rm.ScopeMetrics().All() {
			for _, metric := range sm.Metrics().All() {
				points := metric.Gauge().DataPoints
				if metric.Type() == pmetric.MetricTypeSum {
					points = metric.Sum().DataPoints
				}
				for _, p := range points().All() {
					add(newest, info, metric.Name(), p)
				}
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.newest, r.info = newest, info
	r.count++
	close(r.fresh)
	r.fresh = make(chan struct{})
	return nil
}

// add stores one point under its metric and its attributes, without those of the GPU.
func add(newest map[string]map[string]float64, info map[string]map[string]string, name string, p pmetric.NumberDataPoint) {
	if p.Flags().NoRecordedValue() {
		return
	}
	attributes := map[string]string{}
	for k, v := range p.Attributes().All() {
		attributes[k] = v.AsString()
	}
	gpu, fan, _ := strings.Cut(attributes["hw.name"], "/")
	if newest[gpu] == nil {
		newest[gpu] = map[string]float64{}
	}
	if name == "hw.gpu.info" && fan == "" {
		info[gpu] = attributes
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(attributes)) {
		switch k {
		case "hw.id", "hw.name", "hw.type", "gpu.simulated":
		default:
			labels = append(labels, k+"="+attributes[k])
		}
	}
	if fan != "" {
		labels = append(labels, fan)
	}
	key := name
	if len(labels) > 0 && name != "hw.gpu.info" {
		key += "{" + strings.Join(labels, ",") + "}"
	}
	if p.ValueType() == pmetric.NumberDataPointValueTypeInt {
		newest[gpu][key] = float64(p.IntValue())
	} else {
		newest[gpu][key] = p.DoubleValue()
	}
}

// nextScrape waits for the next scrape.
func (r *receiver) nextScrape() map[string]map[string]float64 {
	r.mu.Lock()
	fresh := r.fresh
	r.mu.Unlock()
	select {
	case <-fresh:
	case <-time.After(10 * time.Second):
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest
}

func (r *receiver) waitForGPUs(within time.Duration) error {
	for end := time.Now().Add(within); time.Now().Before(end); {
		r.nextScrape()
		if len(r.gpus()) > 0 {
			return nil
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Errorf("no GPU responded within %v: load NVIDIA's driver, or set -library to its NVML library; the last warning of the receiver is %q", within, r.lastWarning)
}

func (r *receiver) gpus() (names []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.info))
}

func (r *receiver) describe(gpu, attribute string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.info[gpu][attribute]
}

func (r *receiver) model(gpu string) string { return r.describe(gpu, "hw.model") }
func (r *receiver) driver() string          { return r.describe("gpu0", "hw.driver_version") }
func (r *receiver) simulated() bool         { return r.describe("gpu0", "gpu.simulated") == "true" }

func (r *receiver) library() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.libraryPath
}

func (r *receiver) points(gpu string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.newest[gpu])
}

func (r *receiver) unsupported(gpu string) map[string]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unsupportedRows[gpu]
}

// logReader reads the receiver's log, which has what a GPU does not support.
type logReader struct {
	zapcore.LevelEnabler
	receiver *receiver
	fields   []zapcore.Field
}

func (l *logReader) With(fields []zapcore.Field) zapcore.Core {
	return &logReader{l.LevelEnabler, l.receiver, append(slices.Clone(l.fields), fields...)}
}

func (l *logReader) Check(e zapcore.Entry, c *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.AddCore(e, l)
}

func (l *logReader) Sync() error { return nil }

func (l *logReader) Write(e zapcore.Entry, fields []zapcore.Field) error {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range append(slices.Clone(l.fields), fields...) {
		f.AddTo(encoder)
	}
	r := l.receiver
	r.mu.Lock()
	defer r.mu.Unlock()
	if e.Level >= zapcore.WarnLevel {
		r.lastWarning = fmt.Sprintf("%s %v", e.Message, encoder.Fields)
	}
	if path, ok := encoder.Fields["library"].(string); ok {
		r.libraryPath = path
	}
	if family, ok := encoder.Fields["family"].(string); ok && strings.Contains(e.Message, "does not support") {
		gpu, _ := encoder.Fields["hw.name"].(string)
		if r.unsupportedRows[gpu] == nil {
			r.unsupportedRows[gpu] = map[string]string{}
		}
		r.unsupportedRows[gpu][family] = fmt.Sprint(encoder.Fields["error"])
	}
	return nil
}
