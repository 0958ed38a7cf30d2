// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// TestSpansArriveInJaegerBesideTheMetrics sends a span over OTLP to a node's
// collector, and finds it in Jaeger, and the GPUs in VictoriaMetrics.
func TestSpansArriveInJaegerBesideTheMetrics(t *testing.T) {
	beside(t, working)
	jaeger := startJaeger(t)
	m := newMachine(t, fakenvml.Current, "l40s")
	store := victoriaMetrics(t)
	c := collect(t, "node.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms",
		"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_TRACES_ENDPOINT="+jaeger.otlp))

	traces := ptrace.NewTraces()
	rs := traces.ResourceSpans().AppendEmpty()
	rs.Resource().Attributes().PutStr("service.name", "photo-service")
	span := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
	id := pcommon.TraceID{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	span.SetTraceID(id)
	span.SetSpanID(pcommon.SpanID{1, 2, 3, 4, 5, 6, 7, 8})
	span.SetName("colourise")
	span.SetStartTimestamp(pcommon.NewTimestampFromTime(time.Now().Add(-time.Second)))
	span.SetEndTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	raw, err := ptraceotlp.NewExportRequestFromTraces(traces).MarshalProto()
	require.NoError(t, err)
	response, err := http.Post(c.otlp+"/v1/traces", "application/x-protobuf", bytes.NewReader(raw))
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusOK, response.StatusCode)

	require.Eventually(t, func() bool {
		found := jaeger.traces("/api/traces/" + id.String())
		return len(found) == 1 && len(found[0].Spans) == 1 && found[0].Spans[0].OperationName == "colourise"
	}, patience, 100*time.Millisecond, "the span does not arrive in Jaeger")
	eventually(t, store, `hw_gpu_up{hw_name="gpu0"} == 1`, atLeast(1))
}

// TestXIDIsCountedAndLogged has the driver report that a GPU fell off the bus.
func TestXIDIsCountedAndLogged(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s", "h100")
	store := victoriaMetrics(t)
	c := collect(t, "node.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=500ms", "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write"))
	eventually(t, store, `hw_gpu_xid_errors_total{hw_gpu_xid="79",hw_name="gpu1"} == 0`, atLeast(1))
	require.Eventually(t, func() bool { return m.gpus[1].Calls("nvmlDeviceRegisterEvents") > 0 }, patience, 10*time.Millisecond)
	m.state.Event(1, fakenvml.EventXID, 79)
	eventually(t, store, `increase(hw_gpu_xid_errors_total{hw_gpu_xid="79",hw_name="gpu1"}[1m]) > 0`, atLeast(1))
	require.Eventually(t, func() bool {
		return logLines(t, c.Process, "XID 79 on gpu1 (NVIDIA H100 80GB HBM3): GPU has fallen off the bus") == 1
	}, patience, 20*time.Millisecond)
}
