// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/lab/stack"
)

// withoutQueue puts remote write with its queue in memory directly behind the nvml receiver,
// as default.yaml was before it had a queue on disk.
var withoutQueue = []string{
	"--config=yaml:exporters::prometheus_remote_write: {timeout: 5s, middlewares: [], max_batch_size_bytes: 3000000, remote_write_queue: {enabled: true, queue_size: 240, num_consumers: 1}, retry_on_failure: {enabled: true, initial_interval: 1s, max_interval: 30s, max_elapsed_time: 1h}}",
	"--config=yaml:service::pipelines::metrics::exporters: [prometheus_remote_write]",
}

// withoutSync leaves the syncs of the queue's file to the kernel.
var withoutSync = []string{"--config=yaml:extensions::file_storage/queue::fsync: false"}

// BenchmarkQueueOnDisk measures what default.yaml's queue on disk costs: the CPU time of the
// whole collector beside one without the queue, at the same time, with 8 GPUs at 1 s each.
func BenchmarkQueueOnDisk(b *testing.B) {
	const scrapes = 90
	type chain struct {
		name      string
		collector *collector
		store     stack.Store
		from      time.Duration
	}
	for b.Loop() {
		chains := []*chain{{name: "queue"}, {name: "no-queue"}, {name: "no-fsync"}}
		for i, arguments := range [][]string{nil, withoutQueue, withoutSync} {
			m := newMachine(b, fakenvml.Current, "l40s", "h100", "rtx-4080-super", "h200", "l40s", "h100", "rtx-4080-super", "h200")
			chains[i].store = victoriaMetrics(b)
			chains[i].collector = collect(b, "default.yaml", append(m.environment, "OTELCOL_GPU_COLLECTION_INTERVAL=1s",
				"OTELCOL_GPU_REMOTE_WRITE_ENDPOINT="+chains[i].store.URL+"/api/v1/write"), slices.Clone(arguments)...)
		}
		arrived := func(n int) {
			for _, c := range chains {
				eventuallyWithin(b, c.store, fmt.Sprintf("count_over_time(hw_gpu_count[10m]) >= %d", n), (scrapes+30)*time.Second)
			}
		}
		arrived(10)
		for _, c := range chains {
			c.from = cpuTime(b, c.collector.PID())
		}
		arrived(10 + scrapes)
		cost := map[string]float64{}
		for _, c := range chains {
			used := cpuTime(b, c.collector.PID()) - c.from
			series, err := c.store.Query(b.Context(), `count({__name__=~"hw_.+"})`)
			require.NoError(b, err)
			cost[c.name] = float64(used.Microseconds()) / scrapes / series[0].Value()
			b.ReportMetric(cost[c.name], "µs/series-"+c.name)
		}
		b.ReportMetric(cost["queue"]/cost["no-queue"], "times")
		b.ReportMetric(cost["queue"]/cost["no-fsync"], "times-by-fsync")
		for _, c := range chains {
			_, err := c.collector.Stop(20 * time.Second)
			require.NoError(b, err)
		}
	}
}

// eventuallyWithin waits until a query finds something.
func eventuallyWithin(t testing.TB, store stack.Store, query string, within time.Duration) {
	t.Helper()
	require.Eventually(t, func() bool {
		series, err := store.Query(t.Context(), query)
		return err == nil && len(series) > 0
	}, within, 100*time.Millisecond, query)
}

// cpuTime is the CPU time that a process has used, in user and kernel.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	_, rest, _ := strings.Cut(string(raw), ") ")
	fields := strings.Fields(rest) // from the state on: the times are the 12th and 13th
	ticks := 0
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		require.NoError(t, err)
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond // USER_HZ is 100
}
