// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

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
)

var update = flag.Bool("update", false, "write the golden files again")

// TestGoldenJoin joins a prompt that waited, ran on a throttled GPU, shared it with
// another and met an XID; and the records of its GPU.
func TestGoldenJoin(t *testing.T) {
	c := testCorrelator()
	gpu := steady(simulatedGPU, 10, 12)
	gpu.throttle = func(s float64) float64 { return min(max(s-11, 0), 0.4) }
	gpu.process = map[int64]func(float64) float64{77: func(s float64) float64 { return gpu.memory(s) - 1 }}
	samples(c, 0, 13, 0.1, gpu)
	records := plog.NewLogs()
	ld := xidRecord(11.25, simulatedGPU)
	c.takeLogs(ld, at(11.25))
	c.takeTraces(traceOf(2, spanOf{id: 1, gpu: simulatedGPU, from: 9.5, to: 10.25}), at(10.3))
	c.takeTraces(traceOf(1,
		spanOf{id: 1, from: 9, to: 12},
		spanOf{id: 2, parent: 1, from: 9, to: 10},
		spanOf{id: 3, parent: 1, gpu: simulatedGPU, from: 10, to: 12, pid: 77},
		spanOf{id: 4, parent: 3, gpu: simulatedGPU, from: 10, to: 10.02},
		spanOf{id: 5, parent: 3, gpu: simulatedGPU, from: 10.02, to: 12},
	), at(12))
	traces := ptrace.NewTraces()
	for {
		td, found := c.take()
		if !found {
			break
		}
		td.ResourceSpans().MoveAndAppendTo(traces.ResourceSpans())
	}
	joined, _ := c.takeRecords()
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
