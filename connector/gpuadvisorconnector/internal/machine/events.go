// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/boundtext"
	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/internal/xid"
)

// Event is an XID, a change of a GPU's state, or another event of the driver.
type Event struct {
	Time     time.Time
	Severity view.Severity
	// GPU is hw.id, Kind the name of the event.
	GPU, Kind string
	XID       int64
	// Count is how many events the record stands for.
	Count int64
	// Trace is the prompt that ran then; empty if it is not known.
	Trace        pcommon.TraceID
	Text, Remedy texts.Message
}

// driverEvents are the driver's events that the catalogue of texts knows.
var driverEvents = []string{
	"ecc_single_bit", "ecc_double_bit", "ecc_single_bit_storm", "dram_retirement", "dram_retirement_failure", "poison_nonfatal", "poison_fatal",
	"gpu_unavailable", "recovery_action", "power_source_change", "clock_change",
}

// Logs adds log records: those of GPUs' events, others are not read.
func (m *Machine) Logs(ld plog.Logs, now time.Time) {
	m.advance(now)
	for _, rl := range ld.ResourceLogs().All() {
		for _, sl := range rl.ScopeLogs().All() {
			for _, r := range sl.LogRecords().All() {
				m.record(r, now)
			}
		}
	}
}

// record adds an event.
func (m *Machine) record(r plog.LogRecord, now time.Time) {
	a := r.Attributes()
	e := Event{Kind: r.EventName(), GPU: boundtext.Line(pdataread.Text(a, semconv.GPUID), maxText), Trace: r.TraceID(), Count: max(number(a, "hw.gpu.event.count"), 1)}
	switch e.Kind {
	case semconv.EventXID:
		m.describeXID(&e, a)
	case semconv.EventState:
		describeState(&e, pdataread.Text(a, "state"))
	case semconv.EventDriver:
		describeDriverEvent(&e, pdataread.Text(a, "hw.gpu.event.type"), r.SeverityNumber())
	default:
		return
	}
	at, ok := m.time(r.Timestamp(), now)
	if !ok {
		return
	}
	e.Time = time.Unix(0, at).UTC()
	// gpucorrelation passes a record on together with the trace that it belongs to.
	for i := range m.events {
		if old := &m.events[i]; old.Time.Equal(e.Time) && old.Kind == e.Kind && old.GPU == e.GPU && old.XID == e.XID {
			if old.Trace.IsEmpty() {
				old.Trace = e.Trace
			}
			return
		}
	}
	m.countXID(&e, at)
	if len(m.events) >= m.limits.Events {
		m.drop(droppedEvent)
		m.events = append(m.events[:0], m.events[len(m.events)-m.limits.Events+1:]...)
	}
	m.events = append(m.events, e)
}

// number is an integer attribute; 0 if it is missing.
func number(a pcommon.Map, key string) int64 {
	if v, ok := a.Get(key); ok {
		return v.Int()
	}
	return 0
}

func (m *Machine) describeXID(e *Event, a pcommon.Map) {
	e.XID = number(a, semconv.XID)
	entry := m.catalogue.Find(uint64(max(e.XID, 0)))
	e.Text = texts.Message{Key: "event.xid", Args: texts.Args{"xid": e.XID, "name": entry.Name}}
	if e.Count > 1 {
		e.Text.Key, e.Text.Args["count"] = "event.xid.times", e.Count
	}
	e.Remedy = texts.Message{Key: "xid.remedy." + string(entry.Tier)}
	switch entry.Tier {
	case xid.Reboot, xid.Reset:
		e.Severity = view.Broken
	case xid.Informational:
		e.Severity = view.Fine
	default:
		e.Severity = view.Warning
	}
}

func describeState(e *Event, state string) {
	e.Severity = view.Broken
	switch state {
	case Healthy:
		e.Severity = view.Fine
	case Unresponsive, Lost:
		e.Remedy = texts.Message{Key: "event.state." + state + ".remedy"}
	default:
		e.Severity, state = view.Warning, Unknown
	}
	e.Text = texts.Message{Key: "event.state." + state}
}

func describeDriverEvent(e *Event, kind string, severity plog.SeverityNumber) {
	switch {
	case severity >= plog.SeverityNumberError:
		e.Severity = view.Broken
	case severity >= plog.SeverityNumberWarn:
		e.Severity = view.Warning
	default:
		e.Severity = view.Fine
	}
	if !slices.Contains(driverEvents, kind) {
		e.Text = texts.Message{Key: "event.driver.unknown", Args: texts.Args{"kind": boundtext.Line(kind, maxText)}}
		return
	}
	e.Text = texts.Message{Key: "event.driver." + kind}
}

// countXID counts an XID on its GPU.
func (m *Machine) countXID(e *Event, at int64) {
	if e.Kind != semconv.EventXID || e.GPU == "" {
		return
	}
	g := m.gpu(e.GPU, at, false)
	if g == nil {
		return
	}
	key := strconv.FormatInt(e.XID, 10)
	total := float64(e.Count)
	if s := g.series[XIDRecords][key]; s != nil {
		at, total = max(at, s.at+1), total+s.value
	}
	m.drop(g.seriesSet.put(&xidRecords, key, at, total))
}

// XID is the catalogue's entry of an XID.
func (m *Machine) XID(n uint64) xid.Error { return m.catalogue.Find(n) }

// Events are the last events, newest first. They are shared: they are not to be changed.
func (m *Machine) Events() []Event {
	return slices.SortedStableFunc(slices.Values(m.events), func(a, b Event) int { return cmp.Compare(b.Time.UnixNano(), a.Time.UnixNano()) })
}

// View is an event in a language; prompt is the id of the prompt that ran then, if it is
// known.
func (e *Event) View(l texts.Language, prompt string) view.Event {
	v := view.Event{Time: e.Time, Severity: e.Severity, GPU: e.GPU, Kind: e.Kind, XID: e.XID, Text: e.Text.In(l), Prompt: prompt}
	if e.Remedy.Key != "" {
		v.Remedy = e.Remedy.In(l)
	}
	return v
}
