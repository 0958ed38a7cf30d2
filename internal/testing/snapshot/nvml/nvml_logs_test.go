// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvml

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakekubelet"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
)

// The receiver's own instruments whose value is the same each time: while a GPU
// hangs, before it is not known how many scrapes its return takes, and at the end.
var (
	nvmlExactHung = []string{
		"otelcol_receiver.nvml.call.errors", "otelcol_receiver.nvml.card.duration", "otelcol_receiver.nvml.card.misses", "otelcol_receiver.nvml.cards",
		"otelcol_receiver.nvml.initializations", "otelcol_receiver.nvml.processes.dropped", "otelcol_receiver.nvml.up",
	}
	nvmlExactLost = []string{
		"otelcol_receiver.nvml.call.errors", "otelcol_receiver.nvml.cards", "otelcol_receiver.nvml.events.held_back",
		"otelcol_receiver.nvml.events.received", "otelcol_receiver.nvml.initializations", "otelcol_receiver.nvml.up",
	}
)

// nvmlTelemetry reads all instruments.
func nvmlTelemetry(t *testing.T, telemetry *componenttest.Telemetry) *metricdata.ResourceMetrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, telemetry.Reader.Collect(context.Background(), &all))
	return &all
}

// nvmlTotal is the sum of a counter over its attributes, and 0 without one.
func nvmlTotal(t *testing.T, telemetry *componenttest.Telemetry, name string) (total int64) {
	t.Helper()
	for _, sm := range nvmlTelemetry(t, telemetry).ScopeMetrics {
		for _, m := range sm.Metrics {
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok && m.Name == name {
				for _, p := range sum.DataPoints {
					total += p.Value
				}
			}
		}
	}
	return total
}

// TestNVMLEvents has the records of XIDs, of the driver's other events and of
// changes of state, and what the receiver tells about itself meanwhile.
func TestNVMLEvents(t *testing.T) {
	nvmlLeaks(t)
	machine, cards := library.Machine(t, "l40s", "h100", "h100-mig")
	for i, profile := range []string{"l40s", "h100", "h100-mig"} {
		p, err := fakenvml.LoadProfile(profile)
		require.NoError(t, err)
		cards[i].SetLoad(p)
		cards[i].SetSamplingPeriods(time.Microsecond, time.Microsecond)
	}
	nvmlFreeze(cards)
	cards[0].SetProcesses(fakenvml.Process{PID: 101, Memory: 1 << 30}, fakenvml.Process{PID: 102, Memory: 2 << 30}, fakenvml.Process{PID: 103, Memory: 3 << 30})
	kubelet := fakekubelet.New(t).Start(t)
	kubelet.Fail(status.Error(codes.Internal, "out of order"))

	telemetry := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, telemetry.Shutdown(context.Background())) })
	f := nvmlFactory()
	sink := new(consumertest.LogsSink)
	events, err := f.CreateLogs(context.Background(), nvmlSettings(f, telemetry), nvmlConfig(t, f, nil), sink)
	require.NoError(t, err)
	require.NoError(t, events.Start(context.Background(), componenttest.NewNopHost()))
	end := sync.OnceFunc(func() { require.NoError(t, events.Shutdown(context.Background())) })
	t.Cleanup(end)
	r := nvmlStart(t, f, "events", nvmlSettings(f, telemetry), map[string]any{
		"processes": map[string]any{"proc_path": t.TempDir(), "log_path": "", "pod_resources": kubelet.Socket, "limit": 1},
	})
	// settle waits until all that was taken up is recorded or held back.
	settle := func(received int64) {
		t.Helper()
		nvmlWait(t, "all events are taken up", func() bool {
			got := nvmlTotal(t, telemetry, "otelcol_receiver.nvml.events.received")
			return got == received && int64(sink.LogRecordCount())+nvmlTotal(t, telemetry, "otelcol_receiver.nvml.events.held_back") == received
		})
	}

	r.until(gpus{healthy: 3})
	for _, c := range cards {
		nvmlWait(t, "the GPUs are registered for events", func() bool { return c.Calls("nvmlDeviceRegisterEvents") > 0 })
	}
	r.until(gpus{healthy: 3}) // what a GPU's worker began before is done
	nvmlWait(t, "the kubelet was asked", func() bool { return nvmlTotal(t, telemetry, "otelcol_receiver.nvml.kubelet.errors") > 0 })
	before := nvmlTotal(t, telemetry, "otelcol_receiver.nvml.events.received")
	settle(before)

	// XIDs of every tier, one unknown, and a flood of one kind.
	for _, xid := range []int64{79, 46, 48, 31, 63, 4711} {
		machine.Event(0, fakenvml.EventXID, xid)
	}
	machine.Event(1, fakenvml.EventXID, 31)
	machine.Event(2, fakenvml.EventXID, 94)
	for range 5 {
		machine.Event(1, fakenvml.EventXID, 45)
	}
	received := before + 13
	settle(received)

	// nvmlEventType*: the driver tells several at once. The library tells only of
	// what it supports, so each of the others comes with a corrected memory error;
	// a change of the performance state (4) is asked for by nobody.
	const corrected = 1
	machine.Event(1, corrected, 0)
	machine.Event(1, 4, 0)
	received++
	settle(received)
	for bit := int64(2); bit < 1<<16; bit <<= 1 {
		if bit == 4 || bit == fakenvml.EventXID {
			continue
		}
		machine.Event(1, bit|corrected, 0)
	}
	machine.Event(1, fakenvml.EventXID, 13) // events come in turn: it is the last
	nvmlWait(t, "the last event is recorded", func() bool {
		for _, logs := range sink.AllLogs() {
			if id, ok := logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().Get("hw.gpu.xid"); ok && id.Int() == 13 {
				return true
			}
		}
		return false
	})
	received = nvmlTotal(t, telemetry, "otelcol_receiver.nvml.events.received")
	settle(received)

	// Reasons for which clocks are held down, a call that fails, and a GPU that hangs
	// and is back.
	cards[0].Set("throttle_reasons", 0x7ff)
	r.until(gpus{healthy: 3})
	cards[0].Set("throttle_reasons", 0)
	r.until(gpus{healthy: 3})
	cards[0].SetReturn("nvmlDeviceGetTemperature", fakenvml.Unknown)
	r.until(gpus{healthy: 3})
	r.until(gpus{healthy: 3})
	cards[0].SetReturn("nvmlDeviceGetTemperature", fakenvml.Success)
	r.record("after/1", r.until(gpus{healthy: 3}), nil, map[string]bool{"hw.gpu.xid.errors": true})
	cards[1].SetHang("nvmlDeviceGetTemperature", true)
	r.until(gpus{healthy: 2, unresponsive: 1})
	r.until(gpus{healthy: 2, unresponsive: 1})
	lines := telemetryLines(t, "hung", nvmlTelemetry(t, telemetry), func(name string) bool { return slices.Contains(nvmlExactHung, name) })
	cards[1].SetHang("nvmlDeviceGetTemperature", false)
	r.until(gpus{healthy: 3})

	// What a lost GPU's record says depends on who sees it first, a scrape or the
	// session, which looks every five seconds: lose it right after such a look.
	looks := cards[0].Calls("nvmlDeviceGetHandleByIndex_v2")
	nvmlWait(t, "the session looks", func() bool { return cards[0].Calls("nvmlDeviceGetHandleByIndex_v2") > looks })
	r.until(gpus{healthy: 3})
	cards[2].SetLost(true)
	r.until(gpus{healthy: 2, lost: 1})
	settle(nvmlTotal(t, telemetry, "otelcol_receiver.nvml.events.received"))
	lines = append(lines, telemetryLines(t, "lost", nvmlTelemetry(t, telemetry), func(name string) bool { return slices.Contains(nvmlExactLost, name) })...)

	end() // what was held back is recorded at the end
	for _, logs := range sink.AllLogs() {
		lines = append(lines, logLines(t, logs)...)
	}
	part := nvmlPart{lines: lines}
	part.add(r)
	part.check(t, "nvml-events")
}
