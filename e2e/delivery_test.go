// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/figure"
)

// The promises of the ready configurations (docs/delivery.md): each cell of the table is a
// test here or in delivery_disk_test.go.

var (
	storesAway         = flag.Duration("away", time.Minute, "how long the stores are away in TestOutagesLoseNothing")
	longOutage         = flag.Duration("long", 6*time.Hour, "the outage of TestLongOutageLosesNothing, in compressed time")
	collectionInterval = flag.Duration("interval", time.Second, "how often is scraped in TestOutagesLoseNothing")
)

const promisedEnd = 5 * time.Second

// TestOutagesLoseNothing has the stores of every configuration away in four ways, all side
// by side, and then looks for every sample and span that was accepted and every point that
// the nvml receiver emitted.
func TestOutagesLoseNothing(t *testing.T) {
	besideFirst(t, working)
	victoria := victoriaMetrics(t)
	prom, _ := prometheus(t, "1h")
	logs := victoriaLogs(t)
	var rigs []*deliveryRig
	ways := []string{"refuses", "answers_503", "silent", "answers_429"}
	waysOf := map[*deliveryRig]string{}
	for _, c := range readyConfigurations {
		for _, way := range ways {
			store := victoria
			if c.name == "no-loss" {
				store = prom
			}
			r := newDeliveryRig(t, c.name, c.spans, "outage_"+c.name+"_"+way, rigOptions{store: store, logs: logs, interval: *collectionInterval, truth: true})
			rigs = append(rigs, r)
			waysOf[r] = way
		}
	}
	var stops []func()
	for _, r := range rigs {
		r.start()
		stops = append(stops, r.flow(*collectionInterval))
	}
	for _, r := range rigs {
		require.Eventually(t, func() bool { return r.gate.passed.Load() >= 3 }, patience, 50*time.Millisecond, "%s: requests arrive before the outage", r.name)
	}
	for _, r := range rigs {
		r.state(waysOf[r])
	}
	<-time.NewTimer(*storesAway).C
	for _, r := range rigs {
		assert.Positive(t, r.queued(), "%s: samples wait", r.name)
		r.state("there")
	}
	back := time.Now()
	for _, stop := range stops {
		stop()
	}
	for _, r := range rigs {
		l := r.arrived(t, back, 2*patience)
		name := "delivery." + r.name
		figure.Print(name+".accepted", float64(r.samples.samples()+r.scraped(t, back)), "samples")
		figure.AtMost(name+".missing", float64(l.samples+l.scraped), "samples", 0)
		assert.Zero(t, l.samples, "%s: samples that were sent", r.name)
		assert.Zero(t, l.scraped, "%s: points that the nvml receiver emitted", r.name)
		assert.Positive(t, r.scraped(t, back), r.name)
		figure.Print(name+".accepted_records", float64(len(r.logs.accepted)), "records")
		figure.AtMost(name+".missing_records", float64(l.records), "records", 0)
		assert.NotEmpty(t, r.logs.accepted, r.name)
		assert.Zero(t, l.records, "%s: log records", r.name)
		if r.spans != nil {
			figure.Print(name+".accepted_spans", float64(len(r.spans.accepted)), "spans")
			figure.AtMost(name+".missing_spans", float64(l.spans), "spans", 0)
			assert.Zero(t, l.spans, "%s: spans", r.name)
		}
		// The senders send again what a busy machine refuses, for example after read_timeout.
		figure.Print(name+".refused", float64(r.samples.refused), "requests")
		assert.Zero(t, r.collector.counter("otelcol_exporter_enqueue_failed"), r.name)
		assert.LessOrEqual(t, r.gate.largest.Load(), int64(20_000_000), "%s: one remote write", r.name)
	}
}

// TestLongOutageLosesNothing has the store of no-loss.yaml away for hours, in compressed
// time: what is sent every 15 s comes at once, with the times that it would have.
func TestLongOutageLosesNothing(t *testing.T) {
	besideFirst(t, working)
	const every = 15 * time.Second
	store, _ := prometheus(t, "25h")
	r := newDeliveryRig(t, "no-loss", false, "long_outage", rigOptions{store: store, logs: victoriaLogs(t)})
	r.samples.clock, r.samples.step = time.Now().Add(-*longOutage).UnixMilli(), every.Milliseconds()
	r.state("refuses")
	r.start()
	for range int(*longOutage / every) {
		require.True(t, r.send(t.Context(), 1), "nothing is refused within the bound")
	}
	figure.Print("delivery.long_outage.queued", r.queued(), "requests")
	r.state("there")
	require.Eventually(t, func() bool { return r.queued() == 0 }, 5*patience, 100*time.Millisecond)
	requireNothingMissing(t, r, r.name)
	figure.Print("delivery.long_outage.accepted", float64(r.samples.samples()), "samples")
}

// everyConfiguration runs a test for each configuration, side by side, with stores of its
// own and without GPUs.
func everyConfiguration(t *testing.T, what string, o rigOptions, test func(t *testing.T, r *deliveryRig)) {
	victoria := victoriaMetrics(t)
	prom, _ := prometheus(t, "1h")
	o.logs = victoriaLogs(t)
	for _, c := range readyConfigurations {
		o.store = victoria
		if c.name == "no-loss" {
			o.store = prom
		}
		t.Run(c.name, func(t *testing.T) {
			beside(t, waiting)
			test(t, newDeliveryRig(t, c.name, c.spans, what+"_"+c.name, o))
		})
	}
}

// requireNothingMissing waits until everything accepted has arrived.
func requireNothingMissing(t *testing.T, r *deliveryRig, what string) {
	t.Helper()
	l := r.arrived(t, time.Time{}, patience)
	figure.AtMost("delivery."+what+".missing", float64(l.samples), "samples", 0)
	assert.Zero(t, l.samples, "of %d samples", r.samples.samples())
	figure.AtMost("delivery."+what+".missing_records", float64(l.records), "records", 0)
	assert.NotEmpty(t, r.logs.accepted)
	assert.Zero(t, l.records, "of %d log records", len(r.logs.accepted))
	if r.spans != nil {
		figure.AtMost("delivery."+what+".missing_spans", float64(l.spans), "spans", 0)
		assert.Zero(t, l.spans, "of %d spans", len(r.spans.accepted))
	}
}

func TestBeyondTheBoundTheNewestAreRefusedAndCounted(t *testing.T) {
	t.Parallel()
	small := []string{"OTELCOL_GPU_QUEUE_BYTES=300000", "OTELCOL_GPU_TRACES_QUEUE_BYTES=300000", "OTELCOL_GPU_LOGS_QUEUE_BYTES=300000", "OTELCOL_GPU_QUEUE_SIZE=20"}
	args := "--config=yaml:exporters::otlp_http/queue::sending_queue::batch::min_size: 0"
	everyConfiguration(t, "bound", rigOptions{environment: small}, func(t *testing.T, r *deliveryRig) {
		r.command.arguments = append(r.command.arguments, args, "--config=yaml:exporters::otlp_http/logs::sending_queue::batch::min_size: 0")
		if r.spans != nil {
			r.command.arguments = append(r.command.arguments, "--config=yaml:exporters::otlp_grpc::sending_queue::batch::min_size: 0")
		}
		r.state("answers_503")
		r.start()
		full := func() bool {
			return r.samples.refused >= 10 && r.logs.refused >= 10 && (r.spans == nil || r.spans.refused >= 10)
		}
		for i := 0; i < 1000 && !full(); i++ {
			r.send(t.Context(), 1)
		}
		require.True(t, full(), "senders are refused at the bound")
		assert.GreaterOrEqual(t, r.collector.counter("otelcol_exporter_enqueue_failed_metric_points"), float64(r.samples.refused*seriesPerBatch*pointsPerBatch))
		assert.GreaterOrEqual(t, r.collector.counter("otelcol_exporter_enqueue_failed_log_records"), float64(r.logs.refused*recordsPerBatch))
		if r.spans != nil {
			assert.GreaterOrEqual(t, r.collector.counter("otelcol_exporter_enqueue_failed_spans"), float64(r.spans.refused*spansPerBatch))
		}
		assert.Positive(t, r.samples.samples())
		r.state("there")
		requireNothingMissing(t, r, r.name)
	})
}

func TestKillLosesNothingThatWasQueued(t *testing.T) {
	t.Parallel()
	everyConfiguration(t, "kill", rigOptions{}, func(t *testing.T, r *deliveryRig) {
		r.start()
		for _, state := range []string{"there", "answers_503", "silent", "refuses", "there"} {
			r.state(state)
			stop := r.flow(5 * time.Millisecond)
			accepted := r.samples.batches.Load()
			require.Eventually(t, func() bool { return r.samples.batches.Load() >= accepted+40 }, patience, time.Millisecond)
			r.collector.Kill() // under the senders' hands
			r.start()
			stop()
		}
		requireNothingMissing(t, r, r.name)
	})
}

func TestSIGTERMEndsInTimeAndTheRestWaitsOnDisk(t *testing.T) {
	t.Parallel()
	everyConfiguration(t, "sigterm", rigOptions{}, func(t *testing.T, r *deliveryRig) {
		for _, state := range []string{"there", "answers_503", "refuses", "silent", "slow"} {
			r.state(state)
			r.start()
			for range 40 { // more than one request's worth
				require.True(t, r.send(t.Context(), 50))
			}
			switch state {
			case "there":
			case "slow", "silent":
				require.Eventually(t, func() bool { return r.gate.busy.Load() > 0 && r.logGate.busy.Load() > 0 }, patience, time.Millisecond, "a request is under way")
			default:
				require.Positive(t, r.queued())
			}
			took, err := r.collector.Stop(20 * time.Second)
			require.NoError(t, err, state)
			figure.AtMost(fmt.Sprintf("delivery.%s.%s", r.name, state), took.Seconds(), "s", promisedEnd.Seconds())
			assert.Less(t, took, promisedEnd, state)
		}
		r.state("there")
		r.start()
		requireNothingMissing(t, r, r.name)
	})
}

// TestSlowStoreGetsItsSamples has a store that needs 4 s for each response.
func TestSlowStoreGetsItsSamples(t *testing.T) {
	t.Parallel()
	everyConfiguration(t, "slow", rigOptions{}, func(t *testing.T, r *deliveryRig) {
		r.state("slow")
		r.start()
		require.True(t, r.send(t.Context(), 50))
		requireNothingMissing(t, r, r.name)
		assert.Zero(t, r.gate.cut.Load()+r.logGate.cut.Load(), "no request is given up")
	})
}

func TestQueueFolderThatCannotBeUsedIsAnErrorAtStart(t *testing.T) {
	t.Parallel()
	for _, c := range readyConfigurations {
		_, all := collectorCommand(t, c.name+".yaml", []string{"OTELCOL_GPU_QUEUE=/proc/otelcol-gpu/queue", "OTELCOL_GPU_COMFYUI_STORE=" + t.TempDir(), "OTELCOL_GPU_NVML_LIBRARY=/no/such/libnvidia-ml.so.1"})
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		cmd := exec.CommandContext(ctx, binary(), all.arguments...)
		cmd.Env = append(os.Environ(), all.environment...)
		out, err := cmd.CombinedOutput()
		cancel()
		require.Error(t, err, c.name)
		assert.Contains(t, string(out), `directory: "/proc/otelcol-gpu/queue" cannot be created`, c.name)
		assert.Contains(t, string(out), "OTELCOL_GPU_QUEUE", c.name)
	}
}
