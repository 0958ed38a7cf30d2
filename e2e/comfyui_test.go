// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/comfyreplay"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// TestRecordingsThroughTheProxyIntoJaeger plays every recording of a real ComfyUI
// through the built collector: clients and server get every byte, and Jaeger
// exactly the spans of the receiver's unit tests.
func TestRecordingsThroughTheProxyIntoJaeger(t *testing.T) {
	besideFirst(t, working)
	j := startJaeger(t)
	for _, r := range comfyreplay.All(t) {
		t.Run(r.Name, func(t *testing.T) {
			expected := comfyreplay.ExpectedSpans(t, r.Name)
			traces := 0
			for _, s := range expected {
				if s.Parent == "" {
					traces++
				}
			}
			m := newMachine(t, fakenvml.Current, "l40s")
			server := comfyreplay.Serve(t, &r, 2, false)
			proxy := "127.0.0.1:" + strconv.Itoa(port(t))
			at, err := url.Parse(server.URL)
			require.NoError(t, err)
			// The process that listens on the server's port is this test.
			m.gpus[0].SetProcesses(fakenvml.Process{PID: os.Getpid(), Memory: 1 << 30})
			service := "recording-" + r.Name
			collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+at.String(), "OTELCOL_GPU_COMFYUI_PROXY="+proxy,
				"OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(), "OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp, "OTELCOL_GPU_COLLECTION_INTERVAL=1h"),
				"--config=yaml:receivers::comfyui::poll_interval: 100ms",
				"--config=yaml:processors: {resource/recording: {attributes: [{key: service.name, value: "+service+", action: upsert}]}}",
				"--config=yaml:service::pipelines::traces::processors: [resource/recording]")
			require.Eventually(t, server.Watched, patience, 1e7)
			require.NoError(t, comfyreplay.Drive(context.Background(), &r, "http://"+proxy, 2, false))
			require.NoError(t, server.Done())

			var found []jaegerTrace
			spans := 0
			require.Eventually(t, func() bool { // Jaeger stores a trace span by span
				found, spans = j.traces("/api/traces?limit=100&lookback=1h&service="+service), 0
				for _, trace := range found {
					spans += len(trace.Spans)
				}
				return len(found) >= traces && spans >= len(expected)
			}, patience, 1e8, "%d traces arrived, %d spans", len(found), spans)
			require.Len(t, found, traces)
			assert.Equal(t, describeExpected(expected), describeFound(found))
			figure.Print("comfyui."+r.Name+".spans", float64(spans), "spans")
		})
	}
}

// describeExpected puts the expected spans into lines that both sides can make.
func describeExpected(expected []comfyreplay.ExpectedSpan) (lines []string) {
	for _, s := range expected {
		lines = append(lines, line(s.Name, s.Parent, s.Status, s.Events, s.Attributes))
	}
	slices.Sort(lines)
	return lines
}

func line(name, parent, status string, events int, attributes map[string]string) string {
	var all []string
	for k, v := range attributes {
		all = append(all, k+"="+v)
	}
	slices.Sort(all)
	return fmt.Sprint(name, " < ", parent, " ", status, " ", events, " ", strings.Join(all, " "))
}

func describeFound(found []jaegerTrace) (lines []string) {
	label := func(s *jaegerSpan) string {
		if id := s.tag("comfyui.node.id"); id != nil {
			return fmt.Sprint(s.OperationName, " #", id)
		}
		return s.OperationName
	}
	for _, trace := range found {
		byID := map[string]string{}
		for i := range trace.Spans {
			byID[trace.Spans[i].SpanID] = label(&trace.Spans[i])
		}
		for i := range trace.Spans {
			s := &trace.Spans[i]
			parent, status := "", ""
			for _, r := range s.References {
				parent = byID[r.SpanID]
			}
			attributes := map[string]string{}
			for _, tag := range s.Tags {
				// What the connector adds, the mark of simulated GPUs, and what is asked at random times.
				if strings.HasPrefix(tag.Key, "gpu.") || strings.HasPrefix(tag.Key, "comfyui.memory.") {
					continue
				}
				switch tag.Key {
				case "otel.status_code":
					status = map[any]string{"OK": "Ok", "ERROR": "Error"}[tag.Value]
				case "hw.id", "process.pid": // there as soon as the GPU is found
				case "span.kind", "otel.status_description", "error", "internal.span.format", "otel.scope.name", "otel.scope.version", "w3c.tracestate":
				default:
					attributes[tag.Key] = fmt.Sprint(tag.Value) // lists are JSON
				}
			}
			lines = append(lines, line(label(s), parent, status, len(s.Logs), attributes))
		}
	}
	slices.Sort(lines)
	return lines
}

// TestPromptsAreTracedWithTheirGPUAndCounted checks one prompt as an operator
// does: its GPU on the spans, its metrics in the store, its failure in the log.
func TestPromptsAreTracedWithTheirGPUAndCounted(t *testing.T) {
	beside(t, working)
	j := startJaeger(t)
	store := victoriaMetrics(t)
	var failing comfyreplay.Recording
	for _, r := range comfyreplay.All(t) {
		if strings.HasPrefix(r.Name, "04") {
			failing = r
		}
	}
	m := newMachine(t, fakenvml.Current, "l40s", "h100")
	m.gpus[1].SetProcesses(fakenvml.Process{PID: os.Getpid(), Memory: 1 << 30})
	server := comfyreplay.Serve(t, &failing, 1, false)
	proxy := "127.0.0.1:" + strconv.Itoa(port(t))
	c := collect(t, "comfyui.yaml", append(m.environment, "OTELCOL_GPU_COMFYUI="+server.URL, "OTELCOL_GPU_COMFYUI_PROXY="+proxy, "OTELCOL_GPU_COMFYUI_STORE="+t.TempDir(),
		"OTELCOL_GPU_TRACES_ENDPOINT="+j.otlp, "OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+store.URL+"/api/v1/write", "OTELCOL_GPU_COLLECTION_INTERVAL=500ms"))
	gpu := eventually(t, store, `hw_gpu_up{hw_name="gpu1"}`, atLeast(1))[0].Labels["hw_id"]
	eventually(t, store, `comfyui_device_memory_limit_bytes{hw_id="`+gpu+`"}`, atLeast(1)) // the GPU is found
	require.Eventually(t, server.Watched, patience, 1e7)
	require.NoError(t, comfyreplay.Drive(context.Background(), &failing, "http://"+proxy, 1, false))
	require.NoError(t, server.Done())
	eventually(t, store, `comfyui_prompts_total{comfyui_prompt_outcome="error",error_type="out_of_memory",comfyui_task_class="buildings",comfyui_model="ddcolor_paper.pth"} == 1`, atLeast(1))
	eventually(t, store, `comfyui_execution_duration_seconds_count{comfyui_task_class="buildings"} == 1`, atLeast(1))
	eventually(t, store, `comfyui_node_duration_seconds_sum{comfyui_node_class="DDColor_Colorize"} > 2`, atLeast(1))
	eventually(t, store, `comfyui_up == 1`, atLeast(1))
	eventually(t, store, `comfyui_proxy_io_bytes_total{kind="text"} > 1000`, atLeast(1))
	require.Eventually(t, func() bool {
		return logLines(t, c.Process, "prompt error: out_of_memory in DDColor_Colorize: CUDA out of memory") == 1
	}, patience, 1e8)
	require.Eventually(t, func() bool {
		return j.hasSpan("comfyui.node DDColor_Colorize", func(s *jaegerSpan) bool { return s.tag("hw.id") == gpu && s.tag("gpu.simulated") == true })
	}, patience, 1e8, "the node's span names its GPU")
	unmarked, err := store.Query(context.Background(), `count by (__name__) ({__name__=~"comfyui_prompts.*|comfyui_node.*",gpu_simulated!="true"})`)
	require.NoError(t, err)
	assert.Empty(t, unmarked)
	for _, name := range []string{"comfyui_up", "comfyui_queue_length", "comfyui_queue_oldest_wait_seconds", "comfyui_loading_time_seconds_total", "comfyui_proxy_sockets"} {
		series := eventually(t, store, name, atLeast(1))
		assert.False(t, strings.HasSuffix(series[0].Labels["__name__"], "_ratio"))
	}
}
