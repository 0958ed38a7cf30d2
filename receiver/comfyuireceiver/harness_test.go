// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
)

// rig is one receiver in front of a server.
type rig struct {
	*comfyuiReceiver
	t         testing.TB
	traces    *consumertest.TracesSink
	logs      *consumertest.LogsSink
	telemetry *componenttest.Telemetry
	base      string // of the proxy
}

func newRig(t testing.TB, upstream string, change func(*Config)) *rig {
	t.Helper()
	return newRigTo(t, upstream, nil, change)
}

func newRigTo(t testing.TB, upstream string, next consumer.Traces, change func(*Config)) *rig {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.Proxy.NetAddr.Endpoint = "127.0.0.1:0"
	cfg.Upstream.Endpoint = upstream
	cfg.PollInterval = 100 * time.Millisecond
	cfg.Device, cfg.Memory.Interval = "", 0
	if change != nil {
		change(cfg)
	}
	require.NoError(t, cfg.Validate())
	r := &rig{t: t, traces: new(consumertest.TracesSink), logs: new(consumertest.LogsSink), telemetry: componenttest.NewTelemetry()}
	settings := receivertest.NewNopSettings(metadata.Type)
	settings.TelemetrySettings = r.telemetry.NewTelemetrySettings()
	r.comfyuiReceiver = newReceiver(settings, cfg)
	r.comfyuiReceiver.traces, r.comfyuiReceiver.logs = r.traces, r.logs
	if next != nil {
		r.comfyuiReceiver.traces = next
	}
	require.NoError(t, r.Start(context.Background(), componenttest.NewNopHost()))
	r.base = "http://" + r.address
	t.Cleanup(r.stopNow)
	return r
}

// counted is the value of a counter of the receiver's own telemetry, by its attribute;
// "" is the one without an attribute. Those that are 0 are left out.
func counted(t testing.TB, telemetry *componenttest.Telemetry, name string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	m, err := telemetry.GetMetric("otelcol_receiver.comfyui." + name)
	if err != nil {
		return all // nothing was counted
	}
	for _, p := range m.Data.(metricdata.Sum[int64]).DataPoints {
		key := ""
		for _, kv := range p.Attributes.ToSlice() {
			key = kv.Value.AsString()
		}
		if p.Value != 0 {
			all[key] = p.Value
		}
	}
	return all
}

// byPrompt are the traces that arrived, one for each prompt: at shutdown many come at a time.
func (r *rig) byPrompt() (all []ptrace.Traces) {
	for _, td := range r.traces.AllTraces() {
		for _, rs := range td.ResourceSpans().All() {
			one := ptrace.NewTraces()
			rs.CopyTo(one.ResourceSpans().AppendEmpty())
			all = append(all, one)
		}
	}
	return all
}

func (r *rig) stopNow() {
	if r.cancel != nil {
		require.NoError(r.t, r.Shutdown(context.Background()))
	}
}

// span is a span as tests compare it: without times and ids of its own.
type span struct {
	Name       string
	Parent     string
	Kind       string
	Status     string
	Message    string
	Attributes map[string]any
	Events     []event

	from, to pcommon.Timestamp
}

type event struct {
	Name       string
	Attributes map[string]any
}

// label is the name of a span, which is unique in its trace: with the id of a node.
func label(s ptrace.Span) string {
	if id, ok := s.Attributes().Get("comfyui.node.id"); ok {
		return s.Name() + " #" + id.Str()
	}
	return s.Name()
}

// spansOf takes a trace apart, and checks what holds for every trace: one root,
// children within their parents, nothing that ends before it begins.
func spansOf(t testing.TB, td ptrace.Traces) (all []span) {
	t.Helper()
	byID := map[pcommon.SpanID]ptrace.Span{}
	roots := 0
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				byID[s.SpanID()] = s
			}
		}
	}
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				require.LessOrEqual(t, s.StartTimestamp(), s.EndTimestamp(), label(s))
				converted := span{Name: label(s), Kind: s.Kind().String(), Attributes: s.Attributes().AsRaw(), Message: s.Status().Message(), from: s.StartTimestamp(), to: s.EndTimestamp()}
				if s.Status().Code() != ptrace.StatusCodeUnset {
					converted.Status = s.Status().Code().String()
				}
				if parent, ok := byID[s.ParentSpanID()]; ok {
					converted.Parent = label(parent)
					require.GreaterOrEqual(t, s.StartTimestamp(), parent.StartTimestamp(), label(s))
					require.LessOrEqual(t, s.EndTimestamp(), parent.EndTimestamp(), label(s))
				} else {
					roots++
				}
				for _, e := range s.Events().All() {
					converted.Events = append(converted.Events, event{e.Name(), e.Attributes().AsRaw()})
				}
				all = append(all, converted)
			}
		}
	}
	require.Equal(t, 1, roots, "one root")
	return all
}

// promptRequest is a request for a prompt.
func promptRequest() prompt.Request {
	return prompt.Request{Submission: protocol.Submission{ClientID: "c"}, Path: "/prompt"}
}
