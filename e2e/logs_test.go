// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakecomfyui"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/simulation"
)

// TestATraceIDFindsTheXIDAndTheFailedPromptInTheLogStore has an XID and a GPU without room
// while a prompt runs, which fails.
func TestATraceIDFindsTheXIDAndTheFailedPromptInTheLogStore(t *testing.T) {
	beside(t, working)
	m := newMachine(t, fakenvml.Current, "l40s")
	service := simulation.NewService(m.gpus[0], m.profiles[0], 3)
	server := fakecomfyui.NewServer(service)
	ctx, cancel := context.WithCancel(context.Background())
	var working sync.WaitGroup
	working.Go(func() { server.Run(ctx) })
	h := httptest.NewServer(server)
	t.Cleanup(func() { cancel(); working.Wait(); h.CloseClientConnections(); h.Close() })
	logs, spans, proxy := victoriaLogs(t), startJaeger(t), "127.0.0.1:"+strconv.Itoa(port(t))
	collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_COMFYUI="+h.URL, "OTELCOL_GPU_COMFYUI_PROXY="+proxy,
		"OTELCOL_GPU_LOGS_ENDPOINT="+logs.url+logsPath, "OTELCOL_GPU_TRACES_ENDPOINT="+spans.otlp, "OTELCOL_GPU_COLLECTION_INTERVAL=1s"),
		"--config", filepath.Join(root, "config", "logs.yaml"))

	require.Eventually(t, func() bool { return m.gpus[0].Calls("nvmlDeviceRegisterEvents") > 0 }, patience, 10*time.Millisecond)
	done := make(chan error, 1)
	users := simulation.NewUsers("http://" + proxy)
	go func() { done <- users.Order(withPatience(t), "secret", []simulation.Photo{{Side: 2300}}) }()
	const atWork = 2 // performance state
	require.Eventually(t, func() bool { return m.gpus[0].Get("performance_state") == atWork }, patience, time.Millisecond)
	m.state.Event(0, fakenvml.EventXID, 31)
	defer service.Occupy(4242, 0.999)()
	require.NoError(t, <-done)

	var failed jaegerSpan
	require.Eventually(t, func() bool {
		return spans.hasSpan("comfyui.prompt", func(s *jaegerSpan) bool { failed = *s; return s.tag("comfyui.prompt.outcome") == "error" })
	}, patience, 50*time.Millisecond, "the prompt failed")
	found := map[string]map[string]string{} // by name of the event
	require.Eventually(t, func() bool {
		for _, r := range logs.records(t, "trace_id:="+failed.TraceID) {
			found[r["event_name"]] = r
		}
		return found["hw.gpu.xid"] != nil && found["comfyui.prompt.error"] != nil
	}, patience, 200*time.Millisecond, "the store has both records under the trace's id: %v", found)
	assert.Equal(t, "31", found["hw.gpu.xid"]["hw.gpu.xid"])
	assert.Equal(t, failed.SpanID, found["comfyui.prompt.error"]["span_id"])
	assert.NotEmpty(t, found["hw.gpu.xid"]["span_id"], "the execution's")
	assert.Equal(t, "out_of_memory", found["comfyui.prompt.error"]["error.type"])
	for _, r := range logs.records(t, "*") {
		assert.NotContains(t, fmt.Sprint(r), "secret", "file names and users stay out of logs")
	}
}

// TestLogsArePrintedWithoutASecondFile: an XID is in the collector's own log, and no counter
// that an alert watches counts it as lost.
func TestLogsArePrintedWithoutASecondFile(t *testing.T) {
	t.Parallel()
	for _, c := range readyConfigurations {
		t.Run(c.name, func(t *testing.T) {
			beside(t, waiting)
			m := newMachine(t, fakenvml.Current, "l40s")
			c := collect(t, c.name+".yaml", append(m.environment, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), fmt.Sprintf("OTELCOL_GPU_COMFYUI_PROXY=127.0.0.1:%d", port(t)),
				"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+victoriaMetrics(t).URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=1s"))
			require.Eventually(t, func() bool { return m.gpus[0].Calls("nvmlDeviceRegisterEvents") > 0 }, patience, 10*time.Millisecond)
			m.state.Event(0, fakenvml.EventXID, 79)
			require.Eventually(t, func() bool { return strings.Contains(logOf(t, c.Process), "XID 79") }, patience, 50*time.Millisecond)
			assert.Positive(t, c.counter("otelcol_exporter_sent_log_records"))
			assert.Zero(t, c.counter("otelcol_exporter_enqueue_failed")+c.counter("otelcol_exporter_send_failed"))
		})
	}
}

// TestWhatIsQueuedUnderTheStoragesOldNameIsSent: the storage of the queues was called
// file_storage until its name had to be known to a second file.
func TestWhatIsQueuedUnderTheStoragesOldNameIsSent(t *testing.T) {
	beside(t, working)
	everyConfiguration(t, "renamed", rigOptions{}, func(t *testing.T, r *deliveryRig) {
		r.state("answers_503")
		before := append(slices.Clone(r.command.arguments),
			"--config=yaml:extensions::file_storage: {directory: "+r.queue+", create_directory: true, fsync: true, timeout: 5s}",
			"--config=yaml:exporters::otlp_http/queue::sending_queue::storage: file_storage",
			"--config=yaml:exporters::otlp_http/logs::sending_queue::storage: file_storage")
		extensions := "health_check, shutdown_limit, file_storage"
		if r.spans != nil {
			before = append(before, "--config=yaml:exporters::otlp_grpc::sending_queue::storage: file_storage")
		}
		if r.config == "comfyui" {
			extensions += ", file_storage/comfyui"
		}
		r.startAs(binary(), append(before, "--config=yaml:service::extensions: ["+extensions+"]")...)
		for range 5 {
			require.True(t, r.send(t.Context(), 50))
		}
		r.collector.Kill()
		r.state("there")
		r.start()
		requireNothingMissing(t, r, r.name)
	})
}

// TestALogStoreThatRefusesForGoodCostsThatRequestOnly: it is counted and logged.
func TestALogStoreThatRefusesForGoodCostsThatRequestOnly(t *testing.T) {
	beside(t, working)
	everyConfiguration(t, "refused", rigOptions{}, func(t *testing.T, r *deliveryRig) {
		r.start()
		for _, status := range []int64{http.StatusBadRequest, http.StatusInternalServerError} {
			dropped := r.collector.counter("otelcol_exporter_send_failed_log_records")
			r.logGate.mode.Store(status)
			require.True(t, r.send(t.Context(), 50))
			require.Eventually(t, func() bool {
				return r.collector.counter("otelcol_exporter_send_failed_log_records") >= dropped+recordsPerBatch
			}, patience, 50*time.Millisecond, "%d is counted", status)
			clear(r.logs.accepted)
		}
		assert.Positive(t, logLines(t, r.collector.Process, "Exporting failed. Dropping data."))
		r.logGate.mode.Store(pass)
		require.True(t, r.send(t.Context(), 50))
		requireNothingMissing(t, r, r.name)
	})
}
