// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/extension/extensiontest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/extension/queuecheckextension"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/snapshot"
)

// TestTelemetry records what the components tell of themselves. The values of an
// instrument whose name holds the word own are recorded too, and of the rest the keys
// of the attributes: they are the collector's libraries'.
func TestTelemetry(t *testing.T) {
	var lines comfyuiLines
	t.Run("runs", func(t *testing.T) {
		for name, run := range map[string]func(*testing.T) []string{"comfyui": telemetryOfComfyUI, "gpucorrelation": telemetryOfJoin, "gpucorrelation bounds": telemetryOfBounds, "queue_check": telemetryOfQueueCheck} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				for _, l := range run(t) {
					lines.add([]string{name + " " + l})
				}
			})
		}
	})
	if !t.Failed() {
		snapshot.CheckPart(t, "telemetry", lines.all)
	}
}

// instrumentLines prints the instruments, and each point of the own ones. Values of
// those in vary are left out.
func instrumentLines(t *testing.T, tel *componenttest.Telemetry, own string, vary ...string) (lines []string) {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, tel.Reader.Collect(context.Background(), &data))
	for _, sm := range data.ScopeMetrics {
		for _, m := range sm.Metrics {
			kind, keys := "", map[attribute.Key]bool{}
			point := func(set attribute.Set, value any) {
				if !strings.Contains(m.Name, own) {
					for _, kv := range set.ToSlice() {
						keys[kv.Key] = true
					}
					return
				}
				if slices.ContainsFunc(vary, func(v string) bool { return strings.Contains(m.Name, v) }) {
					value = "some"
				}
				lines = append(lines, fmt.Sprintf("point %s {%s} %v", m.Name, set.Encoded(attribute.DefaultEncoder()), value))
			}
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				kind = fmt.Sprintf("int sum %s monotonic=%v", d.Temporality, d.IsMonotonic)
				for _, p := range d.DataPoints {
					point(p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				kind = "int gauge"
				for _, p := range d.DataPoints {
					point(p.Attributes, p.Value)
				}
			case metricdata.Histogram[int64]:
				kind = fmt.Sprint("int histogram ", d.Temporality)
				for _, p := range d.DataPoints {
					point(p.Attributes, p.Count)
				}
			case metricdata.Histogram[float64]:
				kind = fmt.Sprint("float histogram ", d.Temporality)
				for _, p := range d.DataPoints {
					point(p.Attributes, p.Count)
				}
			default:
				kind = fmt.Sprintf("%T", d)
			}
			var names []string
			for k := range keys {
				names = append(names, string(k))
			}
			slices.Sort(names)
			lines = append(lines, fmt.Sprintf("instrument %s unit=%s %s scope=%s keys=%v description=%q", m.Name, m.Unit, kind, sm.Scope.Name, names, m.Description))
		}
	}
	return lines
}

// telemetryValue is the sum of an instrument's points; ok is false if there is none.
func telemetryValue(t *testing.T, tel *componenttest.Telemetry, name string) (sum int64, ok bool) {
	t.Helper()
	var data metricdata.ResourceMetrics
	require.NoError(t, tel.Reader.Collect(context.Background(), &data))
	for _, sm := range data.ScopeMetrics {
		for _, m := range sm.Metrics {
			if !strings.Contains(m.Name, name) {
				continue
			}
			switch d := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					sum, ok = sum+p.Value, true
				}
			case metricdata.Gauge[int64]:
				for _, p := range d.DataPoints {
					sum, ok = sum+p.Value, true
				}
			}
		}
	}
	return sum, ok
}

// telemetryOfComfyUI has every counter of the receiver count: bounds of one name, a next
// consumer that refuses, a damaged frame, a body that is no prompt, a server that is away.
func telemetryOfComfyUI(t *testing.T) []string {
	server := comfyuiServe(t)
	refuse := consumererror.NewPermanent(errors.New("refused"))
	traces, err := consumer.NewTraces(func(context.Context, ptrace.Traces) error { return refuse })
	require.NoError(t, err)
	logs, err := consumer.NewLogs(func(context.Context, plog.Logs) error { return refuse })
	require.NoError(t, err)
	run := comfyuiStart(t, server.URL, map[string]any{
		"execution_events": false,
		"limits":           map[string]any{"workflows": 1, "models": 1, "node_classes": 1, "task_classes": 1},
	}, comfyuiSettings{nextTraces: traces, nextLogs: logs})
	value := func(name string) int64 { v, _ := telemetryValue(t, run.telemetry, name); return v }
	server.work()
	server.ask(http.MethodPost, run.base, "/upload/image", "")
	leave := comfyuiSocket(t, run, "client-1")
	send := func(p map[string]any) {
		p["client_id"] = "client-1"
		before := value("comfyui.dropped")
		server.ask(http.MethodPost, run.base, "/prompt", p)
		run.until("the prompt has ended", func() bool { return value("comfyui.dropped") > before })
	}
	send(comfyuiPrompt("one", 500, "ddcolor_paper.pth"))
	send(comfyuiPrompt("two", 1280, "ddcolor_paper_tiny.pth"))
	send(comfyuiTextPrompt("three"))
	send(comfyuiPrompt("four", 500, "ddcolor_artistic.pth"))
	run.until("its record, too", func() bool { return value("comfyui.dropped") == 5 })

	socket := comfyuiSocket(t, run, "damaged")
	run.until("it is counted", func() bool { return value("comfyui.frames.unparsed") == 1 })
	socket()
	server.ask(http.MethodPost, run.base, "/prompt", "")
	run.until("it is counted", func() bool { return value("comfyui.prompts.unfollowed") == 1 })
	leave()
	run.until("the sockets are counted", func() bool {
		kept, ok := telemetryValue(t, run.telemetry, "comfyui.sockets.kept")
		return ok && kept == 0
	})
	server.current.Store(nil)
	run.until("its own questions fail", func() bool { return value("comfyui.upstream.errors") > 0 })
	run.stop()
	return instrumentLines(t, run.telemetry, "receiver.comfyui.", "upstream.errors")
}

// telemetryOfJoin counts the golden input, samples that are late or repeated, and spans
// that the next consumer refuses for good.
func telemetryOfJoin(t *testing.T) []string {
	r := joinStart(t, nil, nil)
	card := joinSteady(joinA, 10, 12)
	joinGolden(r, card)
	r.takeMetrics(joinSample(13, card))
	r.takeMetrics(joinSample(12.95, card))
	r.takeTraces(joinTrace(4, joinSpan{id: 1, card: joinA, from: 10, to: 14}), map[string]float64{joinA: 14})
	r.stop()
	lines := instrumentLines(t, r.telemetry, "connector.gpucorrelation.")

	refused := joinStart(t, nil, joinRefusing())
	for i := range 131 {
		require.NoError(t, refused.metrics.ConsumeMetrics(context.Background(), joinSample(float64(i)*0.1, joinSteady(joinA, 10, 12))))
	}
	require.NoError(t, refused.traces.ConsumeTraces(context.Background(), joinTrace(1, joinSpan{id: 1, card: joinA, from: 10, to: 12})))
	refused.stop()
	for _, l := range instrumentLines(t, refused.telemetry, "connector.gpucorrelation.") {
		lines = append(lines, "refused "+l)
	}
	return lines
}

// telemetryOfBounds counts what is forgotten at bounds.
func telemetryOfBounds(t *testing.T) []string {
	r := joinStart(t, map[string]any{"limits": map[string]any{"spans": 3, "bytes": 100000, "cards": 2, "samples": 50, "processes": 1, "traces": 3, "records": 2}}, nil)
	card := joinSteady(joinA, 10, 12)
	card.process = map[int64]func(float64) float64{1: card.memory, 2: card.memory}
	r.samples(0, 20, card)
	for id := range byte(6) {
		r.takeTraces(joinTrace(id+1, joinSpan{id: 1, card: joinA, from: 18, to: 19}), nil)
	}
	r.samples(20.1, 20.1, card)
	for id := range byte(5) {
		r.takeLogs(joinStarted(20, joinA, 100+id, 1))
	}
	for range 4 {
		r.takeLogs(joinXID(5, joinB, 31))
	}
	for id := range byte(5) { // three wait
		needs := map[string]float64{}
		if id < 3 {
			needs[joinA] = 30
		}
		r.takeTraces(joinTrace(50+id, joinSpan{id: 1, card: joinA, from: 20, to: 30}), needs)
	}
	for i := range int64(1002) {
		r.takeLogs(joinXID(20.05, joinA, i))
	}
	third := joinSteady("GPU-c", 0, 1)
	r.samples(100, 100, third) // pushes the one aside that has no samples
	r.samples(100, 100, joinSteady("GPU-d", 0, 1), joinSteady("GPU-e", 0, 1))
	r.stop()
	return instrumentLines(t, r.telemetry, "connector.gpucorrelation.")
}

// telemetryOfQueueCheck counts a damaged file among others.
func telemetryOfQueueCheck(t *testing.T) (lines []string) {
	for _, name := range []string{"none", "whole", "damaged"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "exporter_otlp_http_queue_metrics")
		switch name {
		case "whole":
			db, err := bbolt.Open(path, 0o600, nil)
			require.NoError(t, err)
			require.NoError(t, db.Close())
		case "damaged":
			require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("this is no queue", 300)), 0o600))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("nor this"), 0o600))
		}
		f := queuecheckextension.NewFactory()
		cfg := f.CreateDefaultConfig()
		require.NoError(t, confmap.NewFromStringMap(map[string]any{"directory": dir}).Unmarshal(cfg))
		tel := componenttest.NewTelemetry()
		set := extensiontest.NewNopSettings(f.Type())
		set.TelemetrySettings = tel.NewTelemetrySettings()
		ctx := context.Background()
		e, err := f.Create(ctx, set, cfg)
		require.NoError(t, err)
		require.NoError(t, e.Start(ctx, componenttest.NewNopHost()))
		for _, l := range instrumentLines(t, tel, "extension.queue_check.") {
			lines = append(lines, name+" "+l)
		}
		require.NoError(t, e.Shutdown(ctx))
		require.NoError(t, tel.Shutdown(ctx))
		files, err := os.ReadDir(dir)
		require.NoError(t, err)
		for _, file := range files {
			kept, _, _ := strings.Cut(file.Name(), "damaged-")
			lines = append(lines, name+" file "+kept)
		}
	}
	return lines
}
