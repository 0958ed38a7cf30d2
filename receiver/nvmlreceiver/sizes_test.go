// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/bounds"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/growth"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/table"
)

// More processes than are emitted, GPUs that are replaced, MIG devices that come and go, and
// XIDs of all numbers.
func TestSizesOfTheReceiverStayWithinItsBounds(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s", "h100-mig")
	timing := fast
	timing.Rescan = time.Millisecond
	sessions := nvml.NewSessions(timing)
	r := newRig(t, sessions, func(c *Config) { c.Processes.Limit = 3 }).ready(2)
	events, _ := eventRigOf(t, 20*time.Millisecond, r.cfg, sessions)
	settled(t, r.session, gpus...)
	used := map[string]bool{}
	check := func() {
		for _, all := range [][]bounds.Bound{r.Bounds(), events.Bounds()} {
			require.NoError(t, growth.Within(all))
			for name := range growth.Used(all) {
				used[name] = true
			}
		}
	}
	for i := range 300 {
		var processes []fakenvml.Process
		for p := range i % 12 {
			processes = append(processes, fakenvml.Process{PID: 1<<22 + 1000*i + p, Memory: int64(1+p) << 20, SM: 50})
		}
		gpus[0].SetProcesses(processes...)
		if i%2 == 0 {
			gpus[0].SetText("uuid", fmt.Sprintf("GPU-%08d", i))
		}
		for n := range 3 {
			machine.Event(i%2, fakenvml.EventXID, int64(3*i+n))
		}
		check()
		r.scrapeNow()
		check()
	}
	for _, name := range []string{
		"nvmlreceiver.gpuScraper.gpus", "nvmlreceiver.seriesHistory.counters", "nvmlreceiver.telemetry.options", "nvmlreceiver.xidCounts.byGPU",
		"nvmlreceiver.eventLog.floods", "table.Processes.known", "table.Processes.running", "table.Processes.uses", "reader.worker.instances",
		"gpuevents.Bus.gpus", "nvml.Snapshot.GPUs", "logonce.Tracker.states",
	} {
		assert.True(t, used[name], "%s held something", name)
	}
}

// What the session has forgotten is forgotten by the receiver, whose series of it end.
func TestAGPUThatTheSessionForgetsEnds(t *testing.T) {
	_, gpus := library.Machine(t, "l40s")
	timing := fast
	timing.Rescan = time.Millisecond
	r := newRig(t, nvml.NewSessions(timing), nil).ready(1)
	first := r.session.Snapshot().GPUs[0]
	r.scrapeNow()
	r.xids.count(nvml.XIDEvent{GPU: first, XID: 31})
	for i := range nvml.MaxGPUs {
		uuid := fmt.Sprintf("GPU-%08d", i)
		gpus[0].SetText("uuid", uuid)
		require.Eventually(t, func() bool {
			for _, g := range r.session.Snapshot().GPUs {
				if g.Identity().UUID == uuid {
					return true
				}
			}
			return false
		}, 10*time.Second, 100*time.Microsecond)
		if i%16 == 0 || i == nvml.MaxGPUs-1 {
			r.scrapeNow()
		}
		require.NoError(t, growth.Within(r.Bounds()))
	}
	assert.False(t, slices.Contains(r.session.Snapshot().GPUs, first)) // assert's own would look into GPUs
	assert.Nil(t, r.known[first])
	r.xids.mu.Lock()
	defer r.xids.mu.Unlock()
	assert.Nil(t, r.xids.byGPU[first])
}

func TestAnEventCostsTheSameHoweverManyKindsAreCounted(t *testing.T) {
	library.Machine(t, "l40s")
	sessions := nvml.NewSessions(fast)
	session := newRig(t, sessions, nil).ready(1).session
	gpu := session.Snapshot().GPUs[0]
	with := func(kinds int) func(int) {
		l, err := newEventLog(receivertest.NewNopSettings(metadata.Type), createDefaultConfig().(*Config), consumertest.NewNop(), sessions, busOf(sessions), time.Now)
		require.NoError(t, err)
		l.telemetry, err = metadata.NewTelemetryBuilder(componenttest.NewNopTelemetrySettings())
		require.NoError(t, err)
		l.session = session
		for i := range kinds {
			l.handle(context.Background(), event{floodKey: floodKey{gpu: gpu, xid: uint64(i)}, at: time.Now()})
		}
		require.Len(t, l.floods, kinds)
		return func(i int) {
			first := event{floodKey: floodKey{gpu: gpu, xid: uint64(1e6 + i)}, at: time.Now()}
			l.queue(first)
			l.handle(context.Background(), <-l.events)
			delete(l.floods, first.floodKey)
			for n := range 10 {
				l.handle(context.Background(), event{floodKey: floodKey{gpu: gpu, xid: uint64((i + n) % kinds)}})
			}
		}
	}
	growth.Constant(t, "events", with(100), with(1_000))
}

func TestCountersBeyondTheLimitAreNotFollowed(t *testing.T) {
	h := newSeriesHistory()
	for i := range maxCounters + 10 {
		s := table.XIDErrors.Of(1, strconv.Itoa(i), 0)
		h.restarted(&s, 1, 2)
	}
	assert.Len(t, h.counters, maxCounters)
}
