// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/pdata/ptrace/ptraceotlp"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/sampletrace"
)

// receivesPrompts has a collector receive traces of prompts at an address, for its page alone.
func receivesPrompts(address string) []string {
	return []string{
		"--config=yaml:receivers::otlp/prompts::protocols::http::endpoint: " + address,
		"--config=yaml:service::pipelines::traces/prompts: {receivers: [otlp/prompts], exporters: [gpuadvisor]}",
	}
}

// hold sends so many prompts of 20 nodes, with bills, that ended within the last 50 minutes,
// and waits until the page holds them.
func (p livePage) hold(t *testing.T, address string, n int, gpus []string) {
	t.Helper()
	const batch, nodes = 250, 20
	random := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	bill := func(gpu string) map[string]any {
		return map[string]any{
			"hw.id": gpu, "gpu.correlation": "measured", "gpu.memory.source": "process", "gpu.energy.method": "counter", "gpu.memory.peak": random.Int64N(24 << 30), "gpu.memory.start": random.Int64N(24 << 30),
			"gpu.energy": 400 * random.Float64(), "gpu.energy.uncertainty": random.Float64(), "gpu.utilization.mean": random.Float64(), "gpu.time": random.Float64(), "gpu.throttle.time": random.Float64() / 10,
		}
	}
	for from := 0; from < n; from += batch {
		td := ptrace.NewTraces()
		for i := from; i < min(n, from+batch); i++ {
			gpu := gpus[i%len(gpus)]
			held := sampletrace.Prompt{
				ID: fmt.Sprintf("held-%d", i), Server: "node-1:8188", Received: now.Add(-time.Duration(n-i) * 50 * time.Minute / time.Duration(n)), Waited: time.Duration(random.Int64N(2e9)), Ran: time.Duration(1e9 + random.Int64N(2e9)),
				Root:      map[string]any{"comfyui.workflow.id": fmt.Sprint("workflow-", i%30), "comfyui.task_class": "people", "comfyui.model": "ddcolor_paper.pth", "comfyui.image.size_class": "<=1280", "comfyui.image.side": 1280},
				Execution: bill(gpu),
			}
			for range nodes {
				held.Nodes = append(held.Nodes, sampletrace.Node{Class: "KSampler", Share: 1.0 / nodes, Attributes: bill(gpu)})
			}
			held.Add(td)
		}
		body, err := ptraceotlp.NewExportRequestFromTraces(td).MarshalProto()
		require.NoError(t, err)
		response, err := http.Post("http://"+address+"/v1/traces", "application/x-protobuf", bytes.NewReader(body))
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		require.Equal(t, http.StatusOK, response.StatusCode)
	}
	p.wait(t, patience, "the prompts", func(s *pageState) bool { return s.PromptsHeld == n })
}
