// SPDX-License-Identifier: Apache-2.0

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

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml/gpuevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/xid"
)

const (
	// floodWindow is how long further events of one kind on one GPU are only
	// counted, after one was recorded: some XIDs come thousands of times a day.
	floodWindow = time.Minute
	// eventQueue bounds the events that wait for the next consumer.
	eventQueue = 1024
)

// eventLog is the logs side of the receiver: one record for each XID and for each
// change of a GPU's state, and for a flood of one kind one record a minute with
// its count. Changes are seen by the receivers that read the GPUs, so they need a
// metrics pipeline too.
type eventLog struct {
	cfg       *Config
	settings  receiver.Settings
	sessions  *nvml.Sessions
	bus       *gpuevents.Bus
	next      consumer.Logs
	matcher   deviceMatcher
	catalogue *xid.Catalogue
	window    time.Duration

	hostname  string
	session   *nvml.Session
	telemetry *metadata.TelemetryBuilder
	cancel    []func()
	events    chan event
	stop      chan struct{}
	wg        sync.WaitGroup
}

func newEventLog(settings receiver.Settings, cfg *Config, next consumer.Logs, sessions *nvml.Sessions, bus *gpuevents.Bus) (*eventLog, error) {
	catalogue, err := xid.Load()
	if err != nil {
		return nil, err
	}
	return &eventLog{
		cfg: cfg, settings: settings, sessions: sessions, bus: bus, next: next, matcher: newDeviceMatcher(cfg.Devices), catalogue: catalogue,
		window: floodWindow, events: make(chan event, eventQueue), stop: make(chan struct{}),
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
	l.cancel = []func(){
		l.session.SubscribeXIDs(func(e nvml.XIDEvent) {
			l.queue(event{floodKey: floodKey{gpu: e.GPU, xid: e.XID}, at: e.Time, inMIG: e.InMIG, gpuInstance: e.GPUInstance, computeInstance: e.ComputeInstance})
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
	l.wg.Go(l.run)
	return nil
}

// event is one XID or one change of a GPU's state.
type event struct {
	floodKey
	reason error
	at     time.Time
	// The MIG device of an XID, if the driver told one.
	inMIG                        bool
	gpuInstance, computeInstance uint32
}

func (l *eventLog) queue(e event) {
	l.telemetry.ReceiverNvmlEventsReceived.Add(context.Background(), 1)
	select {
	case l.events <- e:
	default:
		l.telemetry.ReceiverNvmlEventsHeldBack.Add(context.Background(), 1)
	}
}

// Shutdown ends the listening; what is counted and not yet recorded is recorded.
func (l *eventLog) Shutdown(ctx context.Context) error {
	if l.session == nil {
		return nil
	}
	for _, cancel := range l.cancel {
		cancel()
	}
	close(l.stop)
	l.wg.Wait()
	l.sessions.Release(ctx)
	l.session = nil
	l.telemetry.Shutdown()
	return nil
}

// flood is what is held back of one kind of event.
type flood struct {
	last  event
	since time.Time
	count int64
}

// floodKey tells kinds of events apart: an XID, another event of the driver, or a
// change, on one GPU.
type floodKey struct {
	gpu                *nvml.GPU
	xid                uint64
	kind               nvml.EventKind
	change             string
	throttling, begins bool
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
// The floods are bounded by the GPUs times mostXIDs.
func (l *eventLog) take(floods map[floodKey]*flood, e event) {
	id := e.gpu.Identity()
	if !l.matcher.wants(id.UUID, id.Index, id.PCIBusID) {
		return
	}
	if f, ok := floods[e.floodKey]; ok {
		f.last = e
		f.count++
		l.telemetry.ReceiverNvmlEventsHeldBack.Add(context.Background(), 1)
		return
	}
	if len(floods) < mostXIDs*64 {
		floods[e.floodKey] = &flood{last: e, since: e.at}
	}
	l.record(e, 1)
}

var severities = map[xid.Tier]plog.SeverityNumber{
	xid.Reboot: plog.SeverityNumberError2, xid.Reset: plog.SeverityNumberError2, xid.Workflow: plog.SeverityNumberError,
	xid.Application: plog.SeverityNumberWarn, xid.Unknown: plog.SeverityNumberWarn, xid.Informational: plog.SeverityNumberInfo,
}

// record hands one log record on.
func (l *eventLog) record(e event, count int64) {
	id := e.gpu.Identity()
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	if l.cfg.ResourceAttributes.HostName.Enabled {
		rl.Resource().Attributes().PutStr("host.name", l.hostname)
	}
	scope := rl.ScopeLogs().AppendEmpty()
	scope.Scope().SetName(metadata.ScopeName)
	scope.Scope().SetVersion(l.settings.BuildInfo.Version)
	r := scope.LogRecords().AppendEmpty()
	r.SetTimestamp(pcommon.NewTimestampFromTime(e.at))
	r.SetObservedTimestamp(pcommon.NewTimestampFromTime(time.Now()))
	name := "gpu" + strconv.Itoa(id.Index)
	times := ""
	if count > 1 {
		times = fmt.Sprintf(", %d times", count)
	}
	a := r.Attributes()
	a.PutStr("hw.id", id.UUID)
	a.PutStr("hw.name", name)
	a.PutInt("hw.gpu.event.count", count)
	who := fmt.Sprintf("%s (%s)%s", name, id.Model, times)
	switch {
	case e.kind != "":
		fillEvent(r, e, who)
	case e.change == "":
		if e.inMIG {
			a.PutStr("hw.gpu.mig.gpu_instance.id", strconv.FormatUint(uint64(e.gpuInstance), 10))
			a.PutStr("hw.gpu.mig.compute_instance.id", strconv.FormatUint(uint64(e.computeInstance), 10))
		}
		l.fillXID(r, e.xid, who)
	case e.throttling:
		fillThrottling(r, e, who)
	default:
		fillCondition(r, e, who)
	}
	r.SetSeverityText(r.SeverityNumber().String())
	if l.session.Snapshot().Simulated {
		a.PutBool(simulatedAttribute, true)
	}
	if err := l.next.ConsumeLogs(context.Background(), logs); err != nil {
		l.settings.Logger.Warn("an event record was refused by the next consumer", zap.String("event", r.Body().Str()), zap.Error(err))
	}
}

func (l *eventLog) fillXID(r plog.LogRecord, number uint64, who string) {
	entry := l.catalogue.Find(number)
	r.SetEventName("hw.gpu.xid")
	r.SetSeverityNumber(severities[entry.Tier])
	r.Body().SetStr(fmt.Sprintf("XID %d on %s: %s. %s", number, who, entry.Name, entry.Advice()))
	a := r.Attributes()
	a.PutInt("hw.gpu.xid", int64(number))
	a.PutStr("hw.gpu.xid.name", entry.Name)
	a.PutStr("hw.gpu.xid.tier", string(entry.Tier))
}

// driverEvents says what the driver's events mean and what to do.
var driverEvents = map[nvml.EventKind]struct {
	severity plog.SeverityNumber
	text     string
}{
	"ecc_single_bit":          {plog.SeverityNumberInfo, "a memory error was corrected by ECC; nothing to do unless they come often"},
	"ecc_double_bit":          {plog.SeverityNumberError, "a memory error could not be corrected: programs on the GPU may have failed; see hw.errors and the row remappings"},
	"ecc_single_bit_storm":    {plog.SeverityNumberWarn, "corrected memory errors come fast: the memory may be failing; run NVIDIA's field diagnostics at the next occasion"},
	"dram_retirement":         {plog.SeverityNumberWarn, "faulty memory was taken out of use; the change may need a reset of the GPU"},
	"dram_retirement_failure": {plog.SeverityNumberError2, "faulty memory could not be taken out of use: have the GPU replaced"},
	"poison_nonfatal":         {plog.SeverityNumberWarn, "faulty data was contained: the program that used it is ended, others go on"},
	"poison_fatal":            {plog.SeverityNumberError2, "faulty data could not be contained: reset the GPU"},
	"gpu_unavailable":         {plog.SeverityNumberError2, "the driver cannot use the GPU: see hw.gpu.recovery_action"},
	"recovery_action":         {plog.SeverityNumberWarn, "what the driver asks for to get the GPU well has changed: see hw.gpu.recovery_action"},
	"power_source_change":     {plog.SeverityNumberWarn, "the power source changed: on battery or with a supply that does not suffice the GPU runs slower"},
	"clock_change":            {plog.SeverityNumberInfo, "the clocks changed; hw.gpu.throttle.active tells why they are held down, if they are"},
}

func fillEvent(r plog.LogRecord, e event, who string) {
	meaning := driverEvents[e.kind]
	r.SetEventName("hw.gpu.event")
	r.SetSeverityNumber(meaning.severity)
	r.Attributes().PutStr("hw.gpu.event.type", string(e.kind))
	r.Body().SetStr(fmt.Sprintf("%s on %s: %s", e.kind, who, meaning.text))
}

func fillThrottling(r plog.LogRecord, e event, who string) {
	r.SetEventName("hw.gpu.throttle")
	r.Attributes().PutStr("hw.gpu.throttle.reason", e.change)
	r.Attributes().PutBool("hw.gpu.throttle.active", e.begins)
	verb := "ends"
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	if e.begins {
		verb = "begins"
		if e.change != "sw_power_cap" { // at its power limit a GPU does normal work
			r.SetSeverityNumber(plog.SeverityNumberWarn)
		}
	}
	r.Body().SetStr(fmt.Sprintf("throttling of %s %s: %s", who, verb, e.change))
}

func fillCondition(r plog.LogRecord, e event, who string) {
	r.SetEventName("hw.gpu.state")
	r.Attributes().PutStr("state", e.change)
	r.SetSeverityNumber(plog.SeverityNumberError)
	if e.change == healthy.String() {
		r.SetSeverityNumber(plog.SeverityNumberInfo)
	}
	text := fmt.Sprintf("%s is %s", who, e.change)
	if e.reason != nil {
		text += ": " + e.reason.Error()
	}
	r.Body().SetStr(text)
}
