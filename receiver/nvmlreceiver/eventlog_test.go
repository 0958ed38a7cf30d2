// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver/receivertest"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/testing/fakenvml"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// refusingConsumer is a next consumer that may refuse.
type refusingConsumer struct {
	mu       sync.Mutex
	refuse   func(ctx context.Context) error // guarded by mu; nil accepts
	refused  int
	accepted map[int64]int // records by XID
}

func (c *refusingConsumer) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (c *refusingConsumer) ConsumeLogs(ctx context.Context, logs plog.Logs) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
	id, _ := r.Attributes().Get("hw.gpu.xid")
	logs.ResourceLogs().RemoveIf(func(plog.ResourceLogs) bool { return true }) // it mutates what it refuses
	if c.refuse != nil {
		if err := c.refuse(ctx); err != nil {
			c.refused++
			return err
		}
	}
	c.accepted[id.Int()]++
	return nil
}

func (c *refusingConsumer) counts() (accepted, refused int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.accepted), c.refused
}

// refusingRig starts the logs side before a refusingConsumer.
func refusingRig(t *testing.T, refuse func(context.Context) error) (l *eventLog, next *refusingConsumer, machine *fakenvml.State, dropped func() int64) {
	t.Helper()
	machine, gpus := library.Machine(t, "l40s")
	telemetry := componenttest.NewTelemetry()
	t.Cleanup(func() { require.NoError(t, telemetry.Shutdown(context.Background())) })
	settings := receivertest.NewNopSettings(metadata.Type)
	settings.TelemetrySettings = telemetry.NewTelemetrySettings()
	cfg := createDefaultConfig().(*Config)
	cfg.LibraryPath = library.Path
	next = &refusingConsumer{refuse: refuse, accepted: map[int64]int{}}
	sessions := nvml.NewSessions(fast)
	l, err := newEventLog(settings, cfg, next, sessions, busOf(sessions), time.Now)
	require.NoError(t, err)
	require.NoError(t, l.Start(context.Background(), componenttest.NewNopHost()))
	t.Cleanup(func() { require.NoError(t, l.Shutdown(context.Background())) })
	settled(t, l.session, gpus...)
	return l, next, machine, func() int64 {
		m, err := telemetry.GetMetric("otelcol_receiver.nvml.events.dropped")
		if err != nil {
			return 0 // nothing was dropped yet
		}
		return m.Data.(metricdata.Sum[int64]).DataPoints[0].Value
	}
}

func TestRecordsThatAreRefusedForASecondArriveOnce(t *testing.T) {
	const xids = 20
	var once sync.Once
	var end time.Time
	_, next, machine, dropped := refusingRig(t, func(context.Context) error {
		once.Do(func() { end = time.Now().Add(time.Second) })
		if time.Now().Before(end) {
			return errors.New("memory limit")
		}
		return nil
	})
	for i := range int64(xids) {
		machine.Event(0, fakenvml.EventXID, 100+i)
	}
	require.Eventually(t, func() bool { n, _ := next.counts(); return n == xids }, 20*time.Second, 5*time.Millisecond)
	next.mu.Lock()
	defer next.mu.Unlock()
	for id, n := range next.accepted {
		assert.Equal(t, 1, n, "XID %d", id)
	}
	assert.Greater(t, next.refused, 1)
	assert.Less(t, next.refused, 10, "it backs off")
	assert.Zero(t, dropped())
}

func TestRecordsWithAPermanentErrorAreDroppedAndCounted(t *testing.T) {
	_, _, machine, dropped := refusingRig(t, func(context.Context) error { return consumererror.NewPermanent(errors.New("not valid")) })
	for i := range int64(3) {
		machine.Event(0, fakenvml.EventXID, 100+i)
	}
	require.Eventually(t, func() bool { return dropped() == 3 }, 10*time.Second, 5*time.Millisecond)
}

func TestShutdownSendsARecordThatIsInItsPauseOnceMore(t *testing.T) {
	l, next, machine, dropped := refusingRig(t, func(context.Context) error { return errors.New("memory limit") })
	for i := range int64(3) {
		machine.Event(0, fakenvml.EventXID, 100+i)
	}
	// After four attempts the pause is 800 ms.
	require.Eventually(t, func() bool { _, n := next.counts(); return n == 4 && len(l.events) == 2 }, 10*time.Second, time.Millisecond)
	next.mu.Lock()
	next.refuse = nil
	next.mu.Unlock()
	require.NoError(t, l.Shutdown(context.Background()))
	assert.Equal(t, map[int64]int{100: 1, 101: 1, 102: 1}, next.accepted)
	assert.Zero(t, dropped())
}

func TestShutdownIsFastWhateverTheNextConsumerDoes(t *testing.T) {
	for name, refuse := range map[string]func(context.Context) error{
		"it refuses": func(context.Context) error { return errors.New("memory limit") },
		"it blocks": func(ctx context.Context) error {
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, _, machine, dropped := refusingRig(t, refuse)
			for i := range int64(5) {
				machine.Event(0, fakenvml.EventXID, 100+i)
			}
			require.Eventually(t, func() bool { return len(l.events) == 4 }, 10*time.Second, time.Millisecond, "one is being sent, four are queued")
			begin := time.Now()
			require.NoError(t, l.Shutdown(context.Background()))
			assert.Less(t, time.Since(begin), time.Second)
			assert.EqualValues(t, 5, dropped(), "what is lost is counted")
		})
	}
}

func TestEventsBeyondTheQueueAreDroppedAndCounted(t *testing.T) {
	l, _, _, dropped := refusingRig(t, func(context.Context) error { return errors.New("memory limit") })
	gpu := l.session.Snapshot().GPUs[0]
	for i := range uint64(eventQueue + 10) {
		l.queue(event{floodKey: floodKey{gpu: gpu, xid: 1000 + i}, at: time.Now()})
	}
	// One more than the queue holds may be with the consumer.
	assert.InDelta(t, 9.5, float64(dropped()), 0.5)
}
