//go:build linux && cgo

package nvmlreceiver

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/receiver"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvmllib"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/xid"
)

const (
	// floodWindow is how long further XIDs of one number on one card are only
	// counted, after one was recorded: some come thousands of times a day.
	floodWindow = time.Minute
	// eventQueue bounds the events that wait for the next consumer.
	eventQueue = 1024
)

// eventLog is the logs side of the receiver: one record for each XID, and for a
// flood of one number one record a minute with its count.
type eventLog struct {
	cfg       *Config
	settings  receiver.Settings
	sessions  *nvmllib.Sessions
	next      consumer.Logs
	matcher   deviceMatcher
	catalogue *xid.Catalogue
	window    time.Duration

	hostname  string
	session   *nvmllib.Session
	telemetry *metadata.TelemetryBuilder
	cancel    func()
	events    chan nvmllib.XIDEvent
	stop      chan struct{}
	wg        sync.WaitGroup
}

func newEventLog(settings receiver.Settings, cfg *Config, next consumer.Logs, sessions *nvmllib.Sessions) (*eventLog, error) {
	catalogue, err := xid.Load()
	if err != nil {
		return nil, err
	}
	return &eventLog{
		cfg: cfg, settings: settings, sessions: sessions, next: next, matcher: newDeviceMatcher(cfg.Devices), catalogue: catalogue,
		window: floodWindow, events: make(chan nvmllib.XIDEvent, eventQueue), stop: make(chan struct{}),
	}, nil
}

// Start begins to listen. It never waits for the driver.
func (l *eventLog) Start(context.Context, component.Host) (err error) {
	if l.hostname, err = os.Hostname(); err != nil {
		l.settings.Logger.Warn("the host's name cannot be read; host.name stays empty", zap.Error(err))
	}
	if l.telemetry, err = metadata.NewTelemetryBuilder(l.settings.TelemetrySettings); err != nil {
		return err
	}
	if l.session, err = l.sessions.Acquire(l.cfg.LibraryPath, l.settings.Logger); err != nil {
		return err
	}
	l.cancel = l.session.SubscribeXIDs(func(e nvmllib.XIDEvent) {
		select {
		case l.events <- e:
		default:
			l.telemetry.ReceiverNvmlXidDropped.Add(context.Background(), 1)
		}
	})
	l.wg.Go(l.run)
	return nil
}

// Shutdown ends the listening; what is counted and not yet recorded is recorded.
func (l *eventLog) Shutdown(ctx context.Context) error {
	if l.session == nil {
		return nil
	}
	l.cancel()
	close(l.stop)
	l.wg.Wait()
	l.sessions.Release(ctx)
	l.session = nil
	l.telemetry.Shutdown()
	return nil
}

// flood is what is held back of one number on one card.
type flood struct {
	last  nvmllib.XIDEvent
	since time.Time
	count int64
}

type floodKey struct {
	card *nvmllib.Card
	xid  uint64
}

func (l *eventLog) run() {
	floods := map[floodKey]*flood{}
	ticker := time.NewTicker(max(l.window/60, 10*time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-l.stop:
			for _, f := range floods {
				if f.count > 0 {
					l.record(f.last, f.count)
				}
			}
			return
		case e := <-l.events:
			l.take(floods, e)
		case now := <-ticker.C:
			for key, f := range floods {
				switch {
				case now.Sub(f.since) < l.window:
				case f.count > 0:
					l.record(f.last, f.count)
					f.since, f.count = now, 0
				default:
					delete(floods, key)
				}
			}
		}
	}
}

// take records an event, or counts it if one of its number was recorded lately.
// The floods are bounded by the cards times mostXIDs.
func (l *eventLog) take(floods map[floodKey]*flood, e nvmllib.XIDEvent) {
	id := e.Card.Identity()
	if !l.matcher.wants(id.UUID, id.Index, id.PCIBusID) {
		return
	}
	key := floodKey{e.Card, e.XID}
	if f, ok := floods[key]; ok {
		f.last = e
		f.count++
		l.telemetry.ReceiverNvmlXidDropped.Add(context.Background(), 1)
		return
	}
	if len(floods) < mostXIDs*64 {
		floods[key] = &flood{last: e, since: e.Time}
	}
	l.record(e, 1)
}

var severities = map[xid.Tier]plog.SeverityNumber{
	xid.Reboot: plog.SeverityNumberError2, xid.Reset: plog.SeverityNumberError2, xid.Workflow: plog.SeverityNumberError,
	xid.Application: plog.SeverityNumberWarn, xid.Unknown: plog.SeverityNumberWarn, xid.Informational: plog.SeverityNumberInfo,
}

// record hands one log record on.
func (l *eventLog) record(e nvmllib.XIDEvent, count int64) {
	id := e.Card.Identity()
	entry := l.catalogue.Find(e.XID)
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	if l.cfg.ResourceAttributes.HostName.Enabled {
		rl.Resource().Attributes().PutStr("host.name", l.hostname)
	}
	scope := rl.ScopeLogs().AppendEmpty()
	scope.Scope().SetName(metadata.ScopeName)
	scope.Scope().SetVersion(l.settings.BuildInfo.Version)
	r := scope.LogRecords().AppendEmpty()
	r.SetTimestamp(pcommon.NewTimestampFromTime(e.Time))
	r.SetObservedTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	r.SetEventName("hw.gpu.xid")
	r.SetSeverityNumber(severities[entry.Tier])
	r.SetSeverityText(r.SeverityNumber().String())
	name := "gpu" + strconv.Itoa(id.Index)
	times := ""
	if count > 1 {
		times = fmt.Sprintf(", %d times", count)
	}
	r.Body().SetStr(fmt.Sprintf("XID %d on %s (%s)%s: %s. %s", e.XID, name, id.Model, times, entry.Name, entry.Advice()))
	a := r.Attributes()
	a.PutStr("hw.id", id.UUID)
	a.PutStr("hw.name", name)
	a.PutInt("hw.gpu.xid", int64(e.XID))
	a.PutStr("hw.gpu.xid.name", entry.Name)
	a.PutStr("hw.gpu.xid.tier", string(entry.Tier))
	a.PutInt("hw.gpu.xid.count", count)
	if l.session.Snapshot().Simulated {
		a.PutBool(simulatedAttribute, true)
	}
	if err := l.next.ConsumeLogs(context.Background(), logs); err != nil {
		l.settings.Logger.Warn("an XID record was refused by what comes next", zap.Uint64("xid", e.XID), zap.Error(err))
	}
}
