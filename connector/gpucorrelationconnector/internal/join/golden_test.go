// SPDX-License-Identifier: Apache-2.0

package join

import (
	"flag"
	"path/filepath"
	"testing"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/golden"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/plogtest"
	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/pdatatest/ptracetest"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/gpuload"
)

var update = flag.Bool("update", false, "write the golden files again")

// TestGoldenJoin joins a prompt that waited, ran on a throttled GPU, shared it with
// another and met an XID; and the records of its GPU.
func TestGoldenJoin(t *testing.T) {
	c := newTestJoiner()
	gpu := gpuload.Steady(gpuload.A, 10, 12)
	gpu.Throttle = func(s float64) float64 { return min(max(s-11, 0), 0.4) }
	gpu.Process = map[int64]func(float64) float64{77: func(s float64) float64 { return gpu.Memory(s) - 1 }}
	samples(c, 0, 13, 0.1, gpu)
	records := plog.NewLogs()
	ld := gpuload.XIDRecord(11.25, gpuload.A)
	c.AddLogs(ld, gpuload.At(11.25))
	c.AddTraces(gpuload.Trace(2, gpuload.Span{ID: 1, GPU: gpuload.A, From: 9.5, To: 10.25}), gpuload.At(10.3))
	c.AddTraces(gpuload.Trace(1,
		gpuload.Span{ID: 1, From: 9, To: 12},
		gpuload.Span{ID: 2, Parent: 1, From: 9, To: 10},
		gpuload.Span{ID: 3, Parent: 1, GPU: gpuload.A, From: 10, To: 12, PID: 77},
		gpuload.Span{ID: 4, Parent: 3, GPU: gpuload.A, From: 10, To: 10.02},
		gpuload.Span{ID: 5, Parent: 3, GPU: gpuload.A, From: 10.02, To: 12},
	), gpuload.At(12))
	traces := ptrace.NewTraces()
	for {
		td, found := c.NextTraces()
		if !found {
			break
		}
		td.ResourceSpans().MoveAndAppendTo(traces.ResourceSpans())
	}
	joined, _ := c.NextRecords()
	joined.ResourceLogs().MoveAndAppendTo(records.ResourceLogs())

	path := filepath.Join("testdata", "traces.yaml")
	if *update {
		require.NoError(t, golden.WriteTraces(t, path, traces))
		require.NoError(t, golden.WriteLogs(t, filepath.Join("testdata", "logs.yaml"), records))
	}
	want, err := golden.ReadTraces(path)
	require.NoError(t, err)
	require.NoError(t, ptracetest.CompareTraces(want, traces))
	wantLogs, err := golden.ReadLogs(filepath.Join("testdata", "logs.yaml"))
	require.NoError(t, err)
	require.NoError(t, plogtest.CompareLogs(wantLogs, records))
}
