// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/connector/connectortest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/admission"
	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
)

const gpuID = "GPU-1"

// connectorID is the id of the connector, after a restart, too.
var connectorID = component.NewID(metadata.Type)

// rig is a connector with its three sides.
type rig struct {
	*advisor
	t         *testing.T
	metrics   metricsComponent
	traces    tracesComponent
	logs      logsComponent
	next      *consumertest.MetricsSink
	telemetry *componenttest.Telemetry
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	return newRigTo(t, nil, change)
}

// newRigTo has another next consumer than r.next.
func newRigTo(t *testing.T, other consumer.Metrics, change func(*Config)) *rig {
	t.Helper()
	r := newStoppedRig(t, other, change)
	r.start(componenttest.NewNopHost())
	return r
}

// newStoppedRig is newRigTo without a start.
func newStoppedRig(t *testing.T, other consumer.Metrics, change func(*Config)) *rig {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.Page.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.CollectionInterval = time.Second
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	r := &rig{t: t, next: new(consumertest.MetricsSink), telemetry: componenttest.NewTelemetry()}
	settings := connectortest.NewNopSettings(metadata.Type)
	settings.ID = connectorID
	settings.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	factory := NewFactory()
	next := consumer.Metrics(r.next)
	if other != nil {
		next = other
	}
	metrics, err := factory.CreateMetricsToMetrics(t.Context(), settings, cfg, next)
	require.NoError(t, err)
	traces, err := factory.CreateTracesToMetrics(t.Context(), settings, cfg, next)
	require.NoError(t, err)
	logs, err := factory.CreateLogsToMetrics(t.Context(), settings, cfg, next)
	require.NoError(t, err)
	r.metrics, r.traces, r.logs = metrics.(metricsComponent), traces.(tracesComponent), logs.(logsComponent)
	r.advisor = r.metrics.advisor
	r.bus = &comfyevents.Bus{}
	return r
}

// start starts the connector in a collector until stop is called, at the test's end at the latest.
func (r *rig) start(host component.Host) (stop func()) {
	r.t.Helper()
	all := []component.Component{r.metrics, r.traces, r.logs}
	for _, c := range all {
		require.NoError(r.t, c.Start(r.t.Context(), host))
	}
	stop = sync.OnceFunc(func() {
		for _, c := range all {
			require.NoError(r.t, c.Shutdown(context.Background()))
		}
		require.NoError(r.t, r.telemetry.Shutdown(context.Background()))
		http.DefaultClient.CloseIdleConnections()
	})
	r.t.Cleanup(stop)
	return stop
}

// get decodes what a path of the page answers.
func (r *rig) get(path string, into any) int {
	r.t.Helper()
	response, err := http.Get("http://" + r.address + path)
	require.NoError(r.t, err)
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode == http.StatusOK {
		require.NoError(r.t, json.NewDecoder(response.Body).Decode(into))
	}
	return response.StatusCode
}

func (r *rig) shown() (v view.State) {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.get("/v1/state", &v))
	return v
}

// scraped is a scrape of the GPU with so much memory in use, of 1000.
func scraped(used int64, simulated bool) pmetric.Metrics {
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	rm.Resource().Attributes().PutStr("host.name", "node-1")
	sm := rm.ScopeMetrics().AppendEmpty()
	for name, v := range map[string]int64{"hw.gpu.memory.usage": used, "hw.gpu.memory.limit": 1000} {
		m := sm.Metrics().AppendEmpty()
		m.SetName(name)
		p := m.SetEmptyGauge().DataPoints().AppendEmpty()
		p.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
		p.SetIntValue(v)
		p.Attributes().PutStr("hw.id", gpuID)
		p.Attributes().PutStr("hw.name", "gpu0")
		if simulated {
			p.Attributes().PutBool("gpu.simulated", true)
		}
	}
	return md
}

// image is the trace of a prompt of 2 s that ended now.
func image(id string) ptrace.Traces {
	td := ptrace.NewTraces()
	rs := td.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.instance.id", "node-1:8188")
	spans := rs.ScopeSpans().AppendEmpty().Spans()
	now := time.Now()
	for i, name := range []string{"comfyui.prompt", "comfyui.execution"} {
		s := spans.AppendEmpty()
		s.SetName(name)
		s.SetTraceID(pcommon.TraceID{1, byte(len(id))})
		s.SetSpanID(pcommon.SpanID{byte(i + 1)})
		if i > 0 {
			s.SetParentSpanID(pcommon.SpanID{1})
		}
		s.SetStartTimestamp(pcommon.NewTimestampFromTime(now.Add(-2 * time.Second)))
		s.SetEndTimestamp(pcommon.NewTimestampFromTime(now))
		s.Attributes().PutStr("comfyui.prompt.id", id)
		s.Attributes().PutStr("comfyui.prompt.outcome", "success")
		s.Attributes().PutStr("hw.id", gpuID)
	}
	return td
}

func TestThePageShowsWhatCameIn(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Links = []LinkConfig{{"Jaeger", "http://jaeger:16686/{prompt_id}/{trace_id}?of={prompt_id}"}}
	})
	assert.Empty(t, r.shown().GPUs)
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, false)))
	require.NoError(t, r.traces.ConsumeTraces(t.Context(), image("p/1 &")))
	ld := plog.NewLogs()
	record := ld.ResourceLogs().AppendEmpty().ScopeLogs().AppendEmpty().LogRecords().AppendEmpty()
	record.SetEventName("hw.gpu.xid")
	record.SetTraceID(pcommon.TraceID{1, 5})
	record.SetTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	record.Attributes().PutStr("hw.id", gpuID)
	record.Attributes().PutInt("hw.gpu.xid", 79)
	require.NoError(t, r.logs.ConsumeLogs(t.Context(), ld))

	v := r.shown()
	require.Len(t, v.GPUs, 1)
	assert.EqualValues(t, 100, v.GPUs[0].Memory.Used)
	assert.Equal(t, "node-1", v.Host)
	assert.False(t, v.Simulated || v.CanRush)
	require.Len(t, v.Prompts, 1)
	assert.Equal(t, "p/1 &", v.Prompts[0].ID)
	require.Len(t, v.Events, 1)
	assert.Equal(t, "p/1 &", v.Events[0].Prompt, "the prompt of the record's trace")

	var d view.Detail
	require.Equal(t, http.StatusOK, r.get("/v1/prompts/p%2F1%20&", &d))
	assert.Len(t, d.Spans, 2)
	assert.Equal(t, []view.Link{{Name: "Jaeger", URL: "http://jaeger:16686/p%2F1%20%26/01050000000000000000000000000000?of=p%2F1%20%26"}}, d.Links)
	require.Len(t, d.Series, 1)
	assert.NotEmpty(t, d.Series[0].Times, "the GPU's samples of that time")
	var h view.History
	require.Equal(t, http.StatusOK, r.get("/v1/history?gpu=gpu0", &h), "by its name")
	assert.Equal(t, gpuID, h.GPU)
	assert.Equal(t, http.StatusNotFound, r.get("/v1/history?gpu=gpu7", &h))
	assert.Equal(t, http.StatusNotFound, r.get("/v1/prompts/p2", &d))
	var all view.Prompts
	require.Equal(t, http.StatusOK, r.get("/v1/prompts?outcome=failed", &all))
	assert.Empty(t, all.Prompts)
	require.Equal(t, http.StatusOK, r.get("/v1/prompts?sort=slowest", &all))
	assert.Len(t, all.Prompts, 1)

	require.Eventually(t, func() bool {
		v := r.shown()
		return v.Verdict.Cause == "gpu.xid.critical" && v.GPUs[0].Severity == view.Broken
	}, 10*time.Second, 10*time.Millisecond, "XID 79 breaks the GPU")
}

// server is a ComfyUI server that a receiver follows.
type server struct{ is comfyevents.Server }

func (s *server) Name() string { return s.is.Name }

func (s *server) Server() comfyevents.Server { return s.is }

func TestTheQueueIsThatOfTheReceivers(t *testing.T) {
	r := newRig(t, nil)
	now := time.Now()
	for i := range 3 {
		td := image(strings.Repeat("x", i+1))
		for _, s := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().All() {
			s.Attributes().PutStr("comfyui.workflow.id", "colorize")
		}
		require.NoError(t, r.traces.ConsumeTraces(t.Context(), td))
	}
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, false)))
	of := func(id string, started time.Time) comfyevents.OpenPrompt {
		return comfyevents.OpenPrompt{ID: id, Workflow: "colorize", Side: 1280, Accepted: now.Add(-5 * time.Second), Started: started}
	}
	running := of("a", now.Add(-time.Second))
	running.Node = comfyevents.Node{ID: "2", Class: "DDColor", Number: 2, Of: 3, Step: 1, Steps: 4}
	s := &server{comfyevents.Server{
		Name: "node-1:8188", GPUs: []string{gpuID}, Queued: 4, Open: 3,
		Prompts: []comfyevents.OpenPrompt{running, of("b", time.Time{}), of("c", time.Time{})},
		Sockets: comfyevents.Sockets{Open: 2, Retained: 1, Silent: []time.Time{now.Add(-time.Minute)}},
	}}
	remove := r.bus.Servers.Add(s)
	v := r.shown()
	require.Len(t, v.Servers, 1)
	shown := v.Servers[0]
	assert.Equal(t, 1, shown.Running)
	assert.Equal(t, 3, shown.Waiting, "one came past the proxy")
	assert.InDelta(t, 5, shown.OldestWait, 3)
	texts := []string{}
	for _, p := range shown.Prompts {
		texts = append(texts, p.Text)
	}
	assert.Equal(t, []string{"running, node 2 of 3", "next", "2 prompts ahead"}, texts)
	assert.Equal(t, &view.Node{ID: "2", Class: "DDColor", Number: 2, Of: 3, Step: 1, Steps: 4}, shown.Prompts[0].Node)
	require.NotNil(t, shown.Prompts[2].Starts, "three like it took 2 s")
	assert.WithinDuration(t, now.Add(3*time.Second), *shown.Prompts[2].Starts, 2*time.Second)
	assert.Equal(t, []string{"silent", "kept"}, []string{shown.Sockets[0].State, shown.Sockets[1].State})
	assert.Equal(t, "1 client left before its prompt ended", shown.Sockets[1].Text)
	require.Len(t, v.GPUs[0].Running, 1)
	assert.Equal(t, "a", v.GPUs[0].Running[0].Prompt)
	remove()
	assert.Empty(t, r.shown().Servers)
}

func TestConditionsAreMetricsAndAreMarkedStaleWhenTheyEnd(t *testing.T) {
	r := newRig(t, nil)
	emitted := func(flag bool) func() bool {
		return func() bool {
			for _, md := range slices.Backward(r.next.AllMetrics()) {
				for _, m := range md.ResourceMetrics().At(0).ScopeMetrics().At(0).Metrics().All() {
					if m.Name() != "gpuadvisor.condition" {
						continue
					}
					for _, p := range m.Gauge().DataPoints().All() {
						cause, _ := p.Attributes().Get("gpuadvisor.cause")
						if cause.Str() == "gpu.memory.critical" && p.Flags().NoRecordedValue() == flag {
							return true
						}
					}
				}
			}
			return false
		}
	}
	used := int64(990)
	scrape := func() { require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(used, true))) }
	require.Eventually(t, func() bool { scrape(); return emitted(false)() }, 20*time.Second, 100*time.Millisecond)
	assert.False(t, emitted(true)())
	used = 100
	require.Eventually(t, func() bool { scrape(); return emitted(true)() }, 60*time.Second, 100*time.Millisecond)
}

// blocked is a next consumer that blocks until the test ends.
type blocked struct{ until context.Context }

func (blocked) Capabilities() consumer.Capabilities { return consumer.Capabilities{} }

func (b blocked) ConsumeMetrics(ctx context.Context, _ pmetric.Metrics) error {
	select {
	case <-b.until.Done():
	case <-ctx.Done():
	}
	return nil
}

// TestAConsumerThatBlocksDoesNotStopTheConditions: a store is away when they matter.
func TestAConsumerThatBlocksDoesNotStopTheConditions(t *testing.T) {
	r := newRigTo(t, blocked{t.Context()}, nil)
	begin := r.shown().Verdict.Since
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, false)))
	require.Eventually(t, func() bool { return r.shown().Verdict.Since.Sub(begin) > 3*time.Second }, 20*time.Second, 50*time.Millisecond,
		"where all is well the verdict is as old as the last evaluation")
}

// TestARushIsForSimulatedGPUsOnly: the button would otherwise ask a program for it that
// happens to listen there.
func TestARushIsForSimulatedGPUsOnly(t *testing.T) {
	var asked sync.WaitGroup
	asked.Add(1)
	lab := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodPost {
			asked.Done()
		}
	}))
	defer lab.Close()
	r := newRig(t, func(c *Config) { c.Rush.Endpoint = lab.URL })
	post := func() int {
		request, err := http.NewRequest(http.MethodPost, "http://"+r.address+"/v1/rush", http.NoBody)
		require.NoError(t, err)
		request.Header.Set("Sec-Fetch-Site", "same-origin")
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		_ = response.Body.Close()
		return response.StatusCode
	}
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, false)))
	assert.False(t, r.shown().CanRush)
	assert.GreaterOrEqual(t, post(), 400)
	require.NoError(t, r.metrics.ConsumeMetrics(t.Context(), scraped(100, true)))
	assert.True(t, r.shown().CanRush)
	assert.Less(t, post(), 300)
	asked.Wait()
}

// TestShutdownDoesNotWaitForViewers has a viewer that stays.
func TestShutdownDoesNotWaitForViewers(t *testing.T) {
	r := newRig(t, nil)
	response, err := http.Get("http://" + r.address + "/v1/events")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	_, err = bufio.NewReader(response.Body).ReadString('\n')
	require.NoError(t, err)
	begin := time.Now()
	for range 3 {
		require.NoError(t, r.Shutdown(t.Context()))
	}
	assert.Less(t, time.Since(begin), shutdownTimeout)
	_, err = io.Copy(io.Discard, response.Body)
	assert.NoError(t, err, "the stream ends")
	_, err = http.Get("http://" + r.address + "/v1/state")
	require.Error(t, err)
	require.NoError(t, r.metrics.ConsumeMetrics(context.Background(), scraped(100, false)), "what comes late is ignored")
}

func TestAnAddressInUseIsNamed(t *testing.T) {
	r := newRig(t, nil)
	cfg := createDefaultConfig().(*Config)
	cfg.Page.NetAddr.Endpoint = r.address
	other, err := NewFactory().CreateLogsToMetrics(t.Context(), connectortest.NewNopSettings(metadata.Type), cfg, r.next)
	require.NoError(t, err)
	err = other.Start(t.Context(), componenttest.NewNopHost())
	require.ErrorContains(t, err, "page::endpoint")
	require.ErrorContains(t, err, "set it to an address that is free")
	require.NoError(t, other.Shutdown(t.Context()))
}

func TestWhatIsDroppedIsCounted(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits.Prompts = 1 })
	for _, id := range []string{"a", "bb", "ccc"} {
		require.NoError(t, r.traces.ConsumeTraces(t.Context(), image(id)))
	}
	for i := range 5000 { // more than are counted apart
		_, err := r.advice.Advise(t.Context(), &admission.Request{Server: fmt.Sprint(i), Side: 512, Claim: true})
		require.NoError(t, err)
	}
	r.observed.mu.Lock()
	r.observed.dropped = 3
	r.observed.mu.Unlock()
	require.Eventually(t, func() bool {
		m, err := r.telemetry.GetMetric("otelcol_connector.gpuadvisor.dropped")
		if err != nil {
			return false
		}
		dropped := map[string]int64{}
		for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
			what, _ := p.Attributes.Value("what")
			dropped[what.AsString()] = p.Value
		}
		return dropped["prompts"] == 2 && dropped["advice"] > 500 && dropped["observed"] == 3
	}, 10*time.Second, 10*time.Millisecond)
	for _, b := range r.Bounds() {
		assert.LessOrEqual(t, b.Size, b.Max, b.Name)
	}
}
