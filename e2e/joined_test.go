// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// joined is a collector with config/comfyui.yaml over a photo service with one GPU.
type joined struct {
	*photoService
	*collector
	jaeger      *jaeger
	store       stack.Store
	logs        string // a file with every log record, as OTLP
	metrics     string // and with every metric that is made of spans
	environment []string
	overlays    []string
	photos      int
}

func newJoined(t *testing.T, more string, configs ...string) *joined {
	t.Helper()
	j := prepareJoined(t, more, configs...)
	j.start(t)
	return j
}

func prepareJoined(t *testing.T, more string, configs ...string) *joined {
	t.Helper()
	j := &joined{photoService: newPhotoService(t, newMachine(t, fakenvml.Current, "l40s"), 0), jaeger: startJaeger(t), store: victoriaMetrics(t)}
	folder := t.TempDir()
	j.logs, j.metrics = filepath.Join(folder, "logs.json"), filepath.Join(folder, "metrics.json")
	path := filepath.Join(folder, "overlay.yaml")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, `
exporters:
  # The tests look at the store while a photo is worked on.
  otlp_http/queue: {sending_queue: {batch: {flush_timeout: 10ms}}}
  file/logs: {path: %q, append: true}
  file/metrics: {path: %q, append: true}
service:
  pipelines:
    logs/out: {exporters: [file/logs]}
    metrics/spans: {exporters: [prometheus_remote_write, file/metrics]}
%s`, j.logs, j.metrics, more), 0o600))
	j.overlays = []string{"--config", j.overlay(t), "--config", path}
	for _, c := range configs {
		j.overlays = append(j.overlays, "--config", c)
	}
	j.environment = append(slices.Clone(j.photoService.environment), "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_QUEUE="+t.TempDir(), "OTELCOL_GPU_TRACES_ENDPOINT="+j.jaeger.otlp,
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+j.store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=1s")
	return j
}

func (j *joined) start(t *testing.T) {
	t.Helper()
	j.collector = collect(t, "comfyui.yaml", j.environment, j.overlays...)
	eventually(t, j.store, `hw_gpu_up == 1`, atLeast(1))
}

// photo asks for a photo and has something happen while it is worked on.
func (j *joined) photo(t *testing.T, side int, meanwhile func()) {
	t.Helper()
	done := make(chan error, 1)
	// A user of its own each time: ComfyUI forgets an id when any socket of it closes, and
	// the one of the photo before may close late. The photo is another, too.
	j.photos++
	user := fmt.Sprintf("user-%d", j.photos)
	ctx := withPatience(t)
	go func() {
		done <- simulation.NewUsers("http://"+j.comfyui[0].proxy).Order(ctx, user, []simulation.Photo{{Side: side}})
	}()
	if meanwhile != nil {
		const atWork = 2 // performance state
		require.Eventually(t, func() bool { return j.gpus[0].Get("performance_state") == atWork }, patience, time.Millisecond)
		eventually(t, j.store, `hw_gpu_utilization_ratio{hw_gpu_task="general"} > 0.5`, atLeast(1))
		meanwhile()
	}
	require.NoError(t, <-done)
}

// span waits for a span of a kind.
func (j *joined) span(t *testing.T, name string) (found jaegerSpan) {
	t.Helper()
	require.Eventually(t, func() bool {
		return j.jaeger.hasSpan(name, func(s *jaegerSpan) bool { found = *s; return true })
	}, patience, 50*time.Millisecond, name)
	return found
}

// exported are the lines of a file exporter.
func exported(t *testing.T, path string) (all []map[string]any) {
	t.Helper()
	raw, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	for line := range strings.Lines(string(raw)) {
		var v map[string]any
		if json.Unmarshal([]byte(line), &v) == nil { // the last may be half written
			all = append(all, v)
		}
	}
	return all
}

// each calls do with every object below v that has a key.
func each(v any, key string, do func(map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v[key]; ok {
			do(v)
		}
		for _, inner := range v {
			each(inner, key, do)
		}
	case []any:
		for _, inner := range v {
			each(inner, key, do)
		}
	}
}

// TestXIDOfARequestIsOnItsSpansAndItsTraceOnTheRecord makes an XID happen while a
// photo is worked on.
func TestXIDOfARequestIsOnItsSpansAndItsTraceOnTheRecord(t *testing.T) {
	beside(t, working)
	j := newJoined(t, "")
	j.photo(t, 2300, func() { j.state.Event(0, fakenvml.EventXID, 31) })
	execution := j.span(t, "comfyui.execution")
	require.NotEmpty(t, execution.Logs, "the XID is an event of the span")
	fields := map[string]any{}
	for _, f := range execution.Logs[0].Fields {
		fields[f.Key] = f.Value
	}
	assert.Equal(t, "gpu.xid", fields["event"])
	assert.EqualValues(t, 31, fields["hw.gpu.xid"])
	assert.NotEmpty(t, fields["hw.gpu.xid.name"])
	require.Eventually(t, func() bool {
		found := false
		for _, line := range exported(t, j.logs) {
			each(line, "eventName", func(r map[string]any) {
				found = found || r["eventName"] == "hw.gpu.xid" && r["spanId"] == execution.SpanID
				assert.NotEqual(t, "comfyui.execution.started", r["eventName"], "it is for the connector only")
			})
		}
		return found
	}, patience, 50*time.Millisecond, "the record names the execution that ran then")
	// At its power limit the GPU is throttled, for a fifth of a second now and then: those
	// records name a prompt, too, as soon as one falls into a reading.
	throttled := func() bool {
		found := false
		for _, line := range exported(t, j.logs) {
			each(line, "eventName", func(r map[string]any) {
				found = found || r["eventName"] == "hw.gpu.throttle" && r["traceId"] != nil && r["traceId"] != ""
			})
		}
		return found
	}
	for range 5 {
		if throttled() {
			break
		}
		j.photo(t, 2300, nil)
	}
	require.Eventually(t, throttled, patience, 50*time.Millisecond)
}

// TestGPUThatIsLostInMidRequestLeavesAnEstimate removes the GPU while a photo is
// worked on: the trace does not wait for samples that will not come.
func TestGPUThatIsLostInMidRequestLeavesAnEstimate(t *testing.T) {
	beside(t, working)
	j := newJoined(t, "connectors: {gpucorrelation: {wait: 50s}}\n")
	j.photo(t, 2300, func() { j.gpus[0].SetLost(true) })
	begin := time.Now()
	execution := j.span(t, "comfyui.execution")
	assert.Less(t, time.Since(begin), 20*time.Second)
	assert.Equal(t, "estimate", execution.tag("gpu.correlation"))
	assert.Equal(t, "card_lost", execution.tag("gpu.correlation.reason"))
	assert.Positive(t, execution.tag("gpu.energy"), "what is known until then")
	j.gpus[0].SetLost(false)
}

// TestEndPassesOnWhatWaits ends the collector while a trace waits for samples that do
// not come. What the exporter has not sent by then waits on disk for the next start.
func TestEndPassesOnWhatWaits(t *testing.T) {
	beside(t, waiting)
	j := newJoined(t, "connectors: {gpucorrelation: {wait: 50s}}\nreceivers: {nvml/fast: {devices: {exclude: [\"0\"]}}}\n")
	j.photo(t, 512, nil)
	eventually(t, j.store, `comfyui_prompts_total{comfyui_prompt_outcome="success"} == 1`, atLeast(1))
	require.False(t, j.jaeger.hasSpan("comfyui.prompt", func(*jaegerSpan) bool { return true }), "it waits")
	_, err := j.Stop(20 * time.Second)
	require.NoError(t, err)
	j.start(t)
	root := j.span(t, "comfyui.prompt")
	assert.Equal(t, "none", root.tag("gpu.correlation"))
	assert.Equal(t, "no_samples", root.tag("gpu.correlation.reason"))
	assert.Nil(t, root.tag("gpu.energy"))
}

// TestCountersMadeOfSpansBeginAnewAndIncreaseStaysRight kills the collector between
// photos. VictoriaMetrics counts a series from 0; Prometheus knows nothing of what was
// before its first sample.
func TestCountersMadeOfSpansBeginAnewAndIncreaseStaysRight(t *testing.T) {
	beside(t, working)
	for name, test := range map[string]struct {
		increase string
		store    func() stack.Store // in the place of joined's own
		born     bool               // counts what is in the first sample
	}{
		"VictoriaMetrics": {`sum(increase(%s[10m]))`, nil, true},
		"Prometheus":      {`sum(increase(%s[10m] anchored))`, func() stack.Store { s, _ := prometheus(t, "10m"); return s }, false},
	} {
		t.Run(name, func(t *testing.T) {
			j := prepareJoined(t, "")
			if test.store != nil {
				j.store = test.store()
				j.environment = append(j.environment, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+j.store.URL+"/api/v1/write")
			}
			j.start(t)
			photos := func(n int) {
				for range n {
					j.photo(t, 300, nil)
				}
			}
			counts := []string{`comfyui_execution_gpu_energy_joules_count`, `comfyui_span_duration_seconds_count{span_name="comfyui.execution"}`}
			are := func(n int) {
				for _, c := range counts {
					eventually(t, j.store, fmt.Sprintf(`sum(last_over_time(%s[10s])) == %d`, c, n), atLeast(1))
				}
			}
			photos(5)
			are(5)
			j.Kill()
			killed := time.Now()
			j.start(t)
			photos(3)
			are(3)
			for _, c := range counts {
				want := 8.0
				if !test.born {
					samples, err := j.store.Query(t.Context(), c+"[10m]")
					require.NoError(t, err)
					require.Len(t, samples, 1)
					want -= samples[0].Points[0].Value
				}
				eventually(t, j.store, fmt.Sprintf(test.increase+` == %g`, c, want), atLeast(1))
			}
			traces := func() int { return len(j.jaeger.traces("/api/traces?limit=100&lookback=1h&service=comfyui")) }
			require.Eventually(t, func() bool { return traces() >= 8 }, patience, 100*time.Millisecond, "none was lost")
			assert.Equal(t, 8, traces(), "none came twice")
			begun := map[string]bool{}
			for _, line := range exported(t, j.metrics) {
				each(line, "startTimeUnixNano", func(p map[string]any) { begun[fmt.Sprint(p["startTimeUnixNano"])] = true })
			}
			after := 0
			for start := range begun {
				if start > fmt.Sprint(killed.UnixNano()) {
					after++
				}
			}
			assert.Positive(t, after, "the new collector's counters have start times of their own")
			assert.Less(t, after, len(begun))
		})
	}
}

// TestSpansOfAnyServiceGetTheirFigures sends spans of a service that is instrumented
// by itself, over OTLP: of this host, of one whose clock is two seconds ahead, and of
// the clock of one of which is not configured.
func TestSpansOfAnyServiceGetTheirFigures(t *testing.T) {
	beside(t, working)
	j := newJoined(t, `
receivers: {otlp: {protocols: {http: {endpoint: "${env:OTELCOL_GPU_OTLP_HTTP}"}}}}
connectors: {gpucorrelation: {device_attributes: [cuda.device.uuid, hw.id], clock_offsets: {ahead: 2s}}}
`, "yaml:service::pipelines::traces::receivers: [comfyui, otlp]")
	here, err := os.Hostname()
	require.NoError(t, err)
	time0 := time.Now()
	eventually(t, j.store, fmt.Sprintf("timestamp(hw_gpu_up) > %d", time0.Unix()+2), atLeast(1)) // two seconds of samples
	gpu, rest := j.gpus[0], float64(j.profiles[0].Series["power"])/1000
	for host, ahead := range map[string]time.Duration{here: 0, "ahead": 2 * time.Second, "unknown": 2 * time.Second} {
		traces := ptrace.NewTraces()
		rs := traces.ResourceSpans().AppendEmpty()
		rs.Resource().Attributes().PutStr("service.name", "service-on-"+host)
		rs.Resource().Attributes().PutStr("host.name", host)
		span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		span.SetTraceID(pcommon.TraceID{1, 15: byte(len(host))})
		span.SetSpanID(pcommon.SpanID{1})
		span.SetName("inference")
		begin := time0.Add(200*time.Millisecond + ahead/2 + ahead) // at times of their own: the GPU is not shared
		span.SetStartTimestamp(pcommon.NewTimestampFromTime(begin))
		span.SetEndTimestamp(pcommon.NewTimestampFromTime(begin.Add(500 * time.Millisecond)))
		span.Attributes().PutStr("cuda.device.uuid", gpu.UUID())
		raw, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
		require.NoError(t, err)
		response, err := http.Post(j.otlp+"/v1/traces", "application/x-protobuf", bytes.NewReader(raw))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
		var found []jaegerTrace
		require.Eventually(t, func() bool {
			found = j.jaeger.traces("/api/traces?limit=10&lookback=1h&service=service-on-" + host)
			return len(found) == 1
		}, patience, 50*time.Millisecond)
		s := &found[0].Spans[0]
		if host == "unknown" {
			assert.Equal(t, "none", s.tag("gpu.correlation"))
			assert.Equal(t, "host", s.tag("gpu.correlation.reason"))
			assert.Nil(t, s.tag("gpu.energy"))
			assert.Equal(t, 1, logLines(t, j.Process, "add the host to clock_offsets"))
			continue
		}
		assert.Equal(t, "measured", s.tag("gpu.correlation"), host)
		assert.InDelta(t, rest/2, s.tag("gpu.energy"), 0.02*rest, "half a second of a GPU at rest")
		assert.Equal(t, true, s.tag("gpu.simulated"), "whoever made the span, its figures are of a simulated GPU")
	}
}
