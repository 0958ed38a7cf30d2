// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/receiver/receivertest"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// settled waits until the GPUs' event registrations have been made.
func settled(t *testing.T, session *nvml.Session, gpus ...*fakenvml.GPU) {
	t.Helper()
	for _, c := range gpus {
		require.Eventually(t, func() bool { return c.Calls("nvmlDeviceRegisterEvents") > 0 }, 10*time.Second, 5*time.Millisecond)
	}
	for _, c := range session.Snapshot().GPUs {
		done := make(chan struct{})
		require.True(t, c.Submit(func() { close(done) }))
		<-done
	}
}

func TestXIDsAreCountedByNumberAndTheCriticalOnesStartAtZero(t *testing.T) {
	machine, gpus := library.Machine(t, "h100", "l40s")
	r := newRig(t, nvml.NewSessions(fast), func(c *Config) { c.Metrics.HwGpuXidLast.Enabled = true }).ready(2)
	settled(t, r.session, gpus...)
	last := func(m pmetric.Metrics, gpu string) int64 {
		p, ok := point(m, "hw.gpu.xid.last", map[string]string{"hw.name": gpu})
		require.True(t, ok)
		return p.IntValue()
	}
	assert.Zero(t, last(r.scrapeNow(), "gpu0"))
	p, ok := point(r.scrapeNow(), "hw.gpu.xid.errors", map[string]string{"hw.gpu.xid": "79", "hw.name": "gpu1"})
	require.True(t, ok)
	assert.EqualValues(t, 0, p.IntValue())
	_, ok = point(r.scrapeNow(), "hw.gpu.xid.errors", map[string]string{"hw.gpu.xid": "31"})
	assert.False(t, ok, "other XIDs have no series before they occur")

	machine.Event(1, fakenvml.EventXID, 79)
	machine.Event(0, fakenvml.EventXID, 31)
	machine.Event(0, fakenvml.EventXID, 31)
	m := r.until("all three are counted", func(m pmetric.Metrics) bool {
		p, ok := point(m, "hw.gpu.xid.errors", map[string]string{"hw.gpu.xid": "31", "hw.name": "gpu0"})
		return ok && p.IntValue() == 2
	})
	p, _ = point(m, "hw.gpu.xid.errors", map[string]string{"hw.gpu.xid": "79", "hw.name": "gpu1"})
	assert.EqualValues(t, 1, p.IntValue())
	assert.Equal(t, []int64{31, 79}, []int64{last(m, "gpu0"), last(m, "gpu1")})

	// The counter of a lost GPU remains: the XID says why it is lost.
	gpus[1].SetLost(true)
	m = r.until("lost", func(m pmetric.Metrics) bool { return isUp(m, "gpu1") == 0 })
	p, ok = point(m, "hw.gpu.xid.errors", map[string]string{"hw.gpu.xid": "79", "hw.name": "gpu1"})
	assert.True(t, ok && !p.Flags().NoRecordedValue() && p.IntValue() == 1)
}

func TestXIDsBeyondTheLimitCountAsOther(t *testing.T) {
	library.Machine(t, "h100")
	r := newRig(t, nvml.NewSessions(fast), nil).ready(1)
	gpu := r.session.Snapshot().GPUs[0]
	for i := range uint64(maxXIDs + 50) {
		r.xids.count(nvml.XIDEvent{GPU: gpu, XID: 10000 + i})
	}
	p, ok := point(r.scrapeNow(), "hw.gpu.xid.errors", map[string]string{"hw.gpu.xid": otherXIDs})
	require.True(t, ok)
	assert.EqualValues(t, 50+len(r.xids.critical), p.IntValue())
}

// eventRig starts the logs side with a short flood window.
func eventRig(t *testing.T, window time.Duration, change func(*Config)) (*eventLog, *consumertest.LogsSink) {
	t.Helper()
	cfg := createDefaultConfig().(*Config)
	cfg.LibraryPath = library.Path
	if change != nil {
		change(cfg)
	}
	return eventRigOf(t, window, cfg, nvml.NewSessions(fast))
}

func eventRigOf(t *testing.T, window time.Duration, cfg *Config, sessions *nvml.Sessions) (*eventLog, *consumertest.LogsSink) {
	t.Helper()
	sink := new(consumertest.LogsSink)
	l, err := newEventLog(receivertest.NewNopSettings(metadata.Type), cfg, sink, sessions, busOf(sessions), time.Now)
	require.NoError(t, err)
	l.window = window
	require.NoError(t, l.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, l.Shutdown(context.Background())) })
	return l, sink
}

func records(sink *consumertest.LogsSink) (all []plog.LogRecord) {
	for _, logs := range sink.AllLogs() {
		for _, rl := range logs.ResourceLogs().All() {
			for _, sl := range rl.ScopeLogs().All() {
				for _, r := range sl.LogRecords().All() {
					all = append(all, r)
				}
			}
		}
	}
	return all
}

func TestEachXIDBecomesARecordWithMeaningAndRemedy(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s", "h100")
	l, sink := eventRig(t, time.Hour, func(c *Config) { c.Devices.Exclude = []string{"1"} })
	settled(t, l.session, gpus...)
	machine.Event(1, fakenvml.EventXID, 31) // this GPU is excluded
	machine.Event(0, fakenvml.EventXID, 79)
	require.Eventually(t, func() bool { return len(records(sink)) == 1 }, 10*time.Second, 5*time.Millisecond)
	r := records(sink)[0]
	assert.Equal(t, "hw.gpu.xid", r.EventName())
	assert.Equal(t, plog.SeverityNumberError2, r.SeverityNumber())
	assert.Contains(t, r.Body().Str(), "XID 79 on gpu0 (NVIDIA L40S): GPU has fallen off the bus. Drain the host and reboot it")
	a := r.Attributes().AsRaw()
	assert.EqualValues(t, 79, a["hw.gpu.xid"])
	assert.Equal(t, "reboot", a["hw.gpu.xid.tier"])
	assert.Equal(t, true, a["gpu.simulated"])
	assert.EqualValues(t, 1, a["hw.gpu.event.count"])
}

func TestFloodBecomesOneRecordPerWindowWithItsCount(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s")
	l, sink := eventRig(t, 300*time.Millisecond, nil)
	settled(t, l.session, gpus...)
	const flood = 100
	for range flood {
		machine.Event(0, fakenvml.EventXID, 45)
	}
	total := func() (n int64) {
		for _, r := range records(sink) {
			c, _ := r.Attributes().Get("hw.gpu.event.count")
			n += c.Int()
		}
		return n
	}
	require.Eventually(t, func() bool { return total() == flood }, 10*time.Second, 5*time.Millisecond)
	assert.LessOrEqual(t, len(records(sink)), 3)
	assert.Contains(t, records(sink)[1].Body().Str(), "times: Preemptive cleanup")
}

func TestShutdownRecordsWhatWasOnlyCounted(t *testing.T) {
	machine, gpus := library.Machine(t, "l40s")
	l, sink := eventRig(t, time.Hour, nil)
	settled(t, l.session, gpus...)
	machine.Event(0, fakenvml.EventXID, 45)
	machine.Event(0, fakenvml.EventXID, 45)
	machine.Event(0, fakenvml.EventXID, 31)
	require.Eventually(t, func() bool { return len(records(sink)) == 2 }, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, l.Shutdown(context.Background()))
	require.Len(t, records(sink), 3)
}

func TestEachChangeOfAGPUsStateBecomesOneRecord(t *testing.T) {
	_, gpus := library.Machine(t, "l40s", "h100")
	sessions := nvml.NewSessions(impatient)
	cfg := createDefaultConfig().(*Config)
	cfg.LibraryPath = library.Path
	_, sink := eventRigOf(t, time.Hour, cfg, sessions)
	slow := newRig(t, sessions, nil).ready(2)
	quick := newRig(t, sessions, nil).ready(2)
	both := func() {
		slow.scrapeNow()
		quick.scrapeNow()
	}
	both()
	recorded := func(text string) func() bool {
		return func() bool {
			n := 0
			for _, r := range records(sink) {
				if strings.Contains(r.Body().Str(), text) {
					n++
				}
			}
			return n == 1
		}
	}
	for _, step := range []struct {
		do   func()
		text string
	}{
		{func() { gpus[0].Set("throttle_reasons", 0x40) }, "throttling of gpu0 (NVIDIA L40S) begins: hw_thermal"},
		{func() { gpus[0].Set("throttle_reasons", 0) }, "throttling of gpu0 (NVIDIA L40S) ends: hw_thermal"},
		{func() { gpus[1].SetHang("nvmlDeviceGetTemperature", true) }, "gpu1 (NVIDIA H100 80GB HBM3) is unresponsive: nvmlDeviceGetTemperature: the call has not returned"},
		{func() { gpus[1].SetHang("nvmlDeviceGetTemperature", false) }, "gpu1 (NVIDIA H100 80GB HBM3) is healthy"},
		{func() { gpus[0].SetLost(true) }, "gpu0 (NVIDIA L40S) is lost: "},
	} {
		step.do()
		require.Eventually(t, func() bool {
			both()
			return recorded(step.text)()
		}, 10*time.Second, 10*time.Millisecond, step.text)
	}
	both()
	assert.Len(t, records(sink), 5, "two receivers observe it, and it is recorded once; the first scrape of a healthy GPU is not a change")
}

func TestOtherEventsOfTheDriverBecomeRecords(t *testing.T) {
	machine, gpus := library.Machine(t, "h100")
	l, sink := eventRig(t, time.Hour, nil)
	settled(t, l.session, gpus...)
	machine.Event(0, 2, 0) // nvmlEventTypeDoubleBitEccError
	machine.Event(0, 0x10, 0)
	machine.Event(0, 4, 0) // a change of the performance state, which is not subscribed to
	machine.Event(0, 1, 0)
	require.Eventually(t, func() bool { return len(records(sink)) == 3 }, 10*time.Second, 5*time.Millisecond)
	r := records(sink)[0]
	assert.Equal(t, "hw.gpu.event", r.EventName())
	assert.Equal(t, plog.SeverityNumberError, r.SeverityNumber())
	assert.Contains(t, r.Body().Str(), "ecc_double_bit on gpu0 (NVIDIA H100 80GB HBM3): ECC could not correct a memory error")
	kinds := []any{}
	for _, r := range records(sink) {
		kinds = append(kinds, r.Attributes().AsRaw()["hw.gpu.event.type"])
	}
	assert.Equal(t, []any{"ecc_double_bit", "clock_change", "ecc_single_bit"}, kinds)
}

func TestAnXIDOfAGPUThatIsNotPartitionedNamesNoMIGDevice(t *testing.T) {
	machine, gpus := library.Machine(t, "h100") // the driver answers with instances 0 and 0
	l, sink := eventRig(t, time.Hour, nil)
	settled(t, l.session, gpus...)
	machine.Event(0, fakenvml.EventXID, 31)
	require.Eventually(t, func() bool { return len(records(sink)) == 1 }, 10*time.Second, 5*time.Millisecond)
	for key := range records(sink)[0].Attributes().AsRaw() {
		assert.NotContains(t, key, "mig")
	}
}
