// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/logonce"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

const (
	// floodWindow is how long further events of one kind on one GPU are only counted,
	// after one was recorded: some XIDs come thousands of times a day.
	floodWindow = time.Minute
	// maxFloods bounds the kinds of events that are counted at a time.
	maxFloods = 64 * maxXIDs
	// eventQueue bounds the events that wait for the next consumer.
	eventQueue = 1024
	// minBackoff and maxBackoff bound the pause before a refused record is sent again.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 5 * time.Second
	// shutdownLimit bounds how long the next consumer may need for the last records.
	shutdownLimit = 300 * time.Millisecond
)

// eventLog is the logs side of the receiver: it emits one record for each XID, for each
// other event of the driver and for each change of a GPU's state. A flood of one kind
// becomes one record a minute, with its count. Changes of state are observed by the
// receivers that scrape the GPUs, so they need a metrics pipeline too.
//
// A record that the next consumer refuses is sent again until it is accepted; meanwhile
// further events wait in the queue. What the queue has no room for is dropped, as is
// what is refused for good or still refused at shutdown.
type eventLog struct {
	cfg       *Config
	settings  receiver.Settings
	log       *zap.Logger
	sessions  *nvml.Sessions
	bus       *gpuevents.Bus
	next      consumer.Logs
	matcher   deviceMatcher
	catalogue *xid.Catalogue
	window    time.Duration
	now       func() time.Time

	hostname      string
	session       *nvml.Session
	subscriptions subscriptions
	telemetry     *metadata.TelemetryBuilder
	once          logonce.Tracker
	events        chan event
	stop          chan struct{}
	cancel        context.CancelFunc // ends what the next consumer does
	wg            sync.WaitGroup

	floods map[floodKey]*flood // only ever touched by run
	// flooding is how many there are, for any goroutine.
	flooding atomic.Int64
}

func newEventLog(
	settings receiver.Settings, cfg *Config, next consumer.Logs,
	sessions *nvml.Sessions, bus *gpuevents.Bus, now func() time.Time,
) (*eventLog, error) {
	catalogue, err := xid.Load()
	if err != nil {
		return nil, err
	}
	return &eventLog{
		cfg: cfg, settings: settings, log: settings.Logger, sessions: sessions, bus: bus, next: next,
		matcher: newDeviceMatcher(cfg.Devices), catalogue: catalogue, window: floodWindow, now: now,
		events: make(chan event, eventQueue), stop: make(chan struct{}), floods: map[floodKey]*flood{},
	}, nil
}

// Start subscribes to the events. It does not wait for the driver.
func (l *eventLog) Start(context.Context, component.Host) (err error) {
	if l.hostname, err = os.Hostname(); err != nil {
		l.log.Warn("Cannot read the host name; host.name is empty", zap.Error(err))
	}
	if l.telemetry, err = metadata.NewTelemetryBuilder(l.settings.TelemetrySettings); err != nil {
		return err
	}
	if l.session, err = l.sessions.Acquire(l.cfg.LibraryPath, l.log); err != nil {
		return err
	}
	l.subscriptions.cancel = []func(){
		l.session.SubscribeXIDs(func(e nvml.XIDEvent) {
			l.queue(event{
				floodKey: floodKey{gpu: e.GPU, xid: e.XID}, at: e.Time,
				inMIG: e.InMIG, gpuInstance: e.GPUInstance, computeInstance: e.ComputeInstance,
			})
		}),
		l.session.SubscribeEvents(func(e nvml.DriverEvent) {
			l.queue(event{floodKey: floodKey{gpu: e.GPU, kind: e.Kind}, at: e.Time})
		}),
		l.bus.Conditions.Subscribe(func(c gpuevents.ConditionChange) {
			l.queue(event{floodKey: floodKey{gpu: c.GPU, change: c.Condition, begins: true}, reason: c.Reason, at: c.Time})
		}),
		l.bus.Throttling.Subscribe(func(c gpuevents.ThrottlingChange) {
			l.queue(event{floodKey: floodKey{gpu: c.GPU, change: c.Reason, throttling: true, begins: c.Active}, at: c.Time})
		}),
	}
	var running context.Context
	running, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(func() { l.run(running) })
	return nil
}

// Shutdown ends the subscriptions and sends what is queued or counted once more. It
// returns within a second, whatever the next consumer does.
func (l *eventLog) Shutdown(ctx context.Context) error {
	if l.session == nil {
		return nil
	}
	l.subscriptions.close()
	close(l.stop)
	limit := time.AfterFunc(shutdownLimit, l.cancel)
	l.wg.Wait()
	limit.Stop()
	l.cancel()
	l.sessions.Release(ctx)
	l.session = nil
	l.telemetry.Shutdown()
	return nil
}

// event is one XID, one other event of the driver, or one change of a GPU's state.
type event struct {
	floodKey
	reason error
	at     time.Time
	// The MIG device of an XID, if the driver reported one.
	inMIG                        bool
	gpuInstance, computeInstance uint32
}

// floodKey identifies a kind of event: an XID, another event of the driver, or a change,
// on one GPU.
type floodKey struct {
	gpu                *nvml.GPU
	xid                uint64
	kind               nvml.EventKind
	change             string
	throttling, begins bool
}

// flood counts the events of one kind that have no record of their own.
type flood struct {
	last  event
	since time.Time
	count int64
}

// queue is called by publishers, and never waits.
func (l *eventLog) queue(e event) {
	l.telemetry.ReceiverNvmlEventsReceived.Add(context.Background(), 1)
	select {
	case l.events <- e:
	default:
		l.drop(1)
	}
}

func (l *eventLog) drop(events int64) {
	l.telemetry.ReceiverNvmlEventsDropped.Add(context.Background(), events)
}

func (l *eventLog) run(ctx context.Context) {
	ticker := time.NewTicker(max(l.window/60, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			l.flush(ctx)
			return
		case e := <-l.events:
			l.handle(ctx, e)
		case <-ticker.C:
			l.summarize(ctx)
		}
		l.flooding.Store(int64(len(l.floods)))
	}
}

// handle sends a record of an event, or counts it if one of its kind was sent within the
// window.
func (l *eventLog) handle(ctx context.Context, e event) {
	id := e.gpu.Identity()
	if !l.matcher.matches(id.UUID, id.Index, id.PCIBusID) {
		return
	}
	if f, ok := l.floods[e.floodKey]; ok {
		f.last = e
		f.count++
		l.telemetry.ReceiverNvmlEventsHeldBack.Add(ctx, 1)
		return
	}
	if len(l.floods) < maxFloods {
		l.floods[e.floodKey] = &flood{last: e, since: e.at}
	}
	l.send(ctx, l.record(e, 1), 1)
}

// summarize sends a record for each flood whose window has passed, and forgets those
// that have ended.
func (l *eventLog) summarize(ctx context.Context) {
	for key, f := range l.floods {
		switch now := l.now(); {
		case now.Sub(f.since) < l.window:
		case f.count > 0:
			count := f.count
			f.since, f.count = now, 0
			l.send(ctx, l.record(f.last, count), count)
		default:
			delete(l.floods, key)
		}
	}
}

// flush sends what is queued or counted, at shutdown.
func (l *eventLog) flush(ctx context.Context) {
	for range len(l.events) {
		l.handle(ctx, <-l.events)
	}
	for _, f := range l.floods {
		if f.count > 0 {
			l.send(ctx, l.record(f.last, f.count), f.count)
		}
	}
}

// send delivers a record of so many events. After a retryable error it tries again with
// a growing pause, and for the last time at shutdown.
func (l *eventLog) send(ctx context.Context, logs plog.Logs, events int64) {
	for pause := minBackoff; ; pause = min(2*pause, maxBackoff) {
		last := l.stopping()
		attempt := plog.NewLogs()
		logs.CopyTo(attempt) // the consumer may have changed what it refused
		err := l.next.ConsumeLogs(ctx, attempt)
		switch {
		case err == nil:
			if l.once.Changed("next consumer", "") {
				l.log.Info("Next consumer accepts records again")
			}
			return
		case consumererror.IsPermanent(err):
			if l.once.Changed("next consumer", "permanent") {
				l.log.Error("Next consumer returned a permanent error; its records are dropped", zap.Error(err))
			}
			l.drop(events)
			return
		}
		if l.once.Changed("next consumer", "retryable") {
			l.log.Warn("Next consumer returned a retryable error; retrying", zap.Error(err))
		}
		if last {
			l.drop(events)
			return
		}
		select {
		case <-l.stop:
		case <-time.After(pause):
		}
	}
}

// stopping reports whether the receiver shuts down.
func (l *eventLog) stopping() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}
