// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"fmt"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
)

// record makes the log record of so many events of one kind.
func (l *eventLog) record(e event, count int64) plog.Logs {
	id := e.gpu.Identity()
	logs := plog.NewLogs()
	rl := logs.ResourceLogs().AppendEmpty()
	if l.cfg.ResourceAttributes.HostName.Enabled {
		rl.Resource().Attributes().PutStr(semconv.HostName, l.hostname)
	}
	scope := rl.ScopeLogs().AppendEmpty()
	scope.Scope().SetName(metadata.ScopeName)
	scope.Scope().SetVersion(l.settings.BuildInfo.Version)
	r := scope.LogRecords().AppendEmpty()
	r.SetTimestamp(pcommon.NewTimestampFromTime(e.at))
	r.SetObservedTimestamp(pcommon.NewTimestampFromTime(l.now()))
	gpu := "gpu" + strconv.Itoa(id.Index)
	a := r.Attributes()
	a.PutStr(semconv.GPUID, id.UUID)
	a.PutStr(semconv.GPUName, gpu)
	a.PutInt("hw.gpu.event.count", count)
	subject := fmt.Sprintf("%s (%s)", gpu, id.Model)
	if count > 1 {
		subject = fmt.Sprintf("%s, %d times", subject, count)
	}
	switch {
	case e.kind != "":
		l.fillDriverEvent(r, e, subject)
	case e.change == "":
		l.fillXID(r, e, subject)
	case e.throttling:
		fillThrottling(r, e, subject)
	default:
		fillCondition(r, e, subject)
	}
	r.SetSeverityText(r.SeverityNumber().String())
	if l.session.Snapshot().Simulated {
		a.PutBool(semconv.Simulated, true)
	}
	return logs
}

func (l *eventLog) fillXID(r plog.LogRecord, e event, subject string) {
	entry := l.catalogue.Find(e.xid)
	r.SetEventName(semconv.EventXID)
	r.SetSeverityNumber(plog.SeverityNumber(entry.Severity))
	r.Body().SetStr(fmt.Sprintf("XID %d on %s: %s. %s", e.xid, subject, entry.Name, entry.Advice))
	a := r.Attributes()
	if e.inMIG {
		a.PutStr("hw.gpu.mig.gpu_instance.id", strconv.FormatUint(uint64(e.gpuInstance), 10))
		a.PutStr("hw.gpu.mig.compute_instance.id", strconv.FormatUint(uint64(e.computeInstance), 10))
	}
	a.PutInt(semconv.XID, int64(e.xid))
	a.PutStr(semconv.XIDName, entry.Name)
	a.PutStr("hw.gpu.xid.tier", string(entry.Tier))
}

func (l *eventLog) fillDriverEvent(r plog.LogRecord, e event, subject string) {
	meaning := l.catalogue.Events[string(e.kind)]
	r.SetEventName(semconv.EventDriver)
	r.SetSeverityNumber(plog.SeverityNumber(meaning.Severity))
	r.Attributes().PutStr("hw.gpu.event.type", string(e.kind))
	r.Body().SetStr(fmt.Sprintf("%s on %s: %s", e.kind, subject, meaning.Advice))
}

func fillThrottling(r plog.LogRecord, e event, subject string) {
	r.SetEventName(semconv.EventThrottle)
	r.Attributes().PutStr("hw.gpu.throttle.reason", e.change)
	r.Attributes().PutBool("hw.gpu.throttle.active", e.begins)
	verb := "ends"
	r.SetSeverityNumber(plog.SeverityNumberInfo)
	if e.begins {
		verb = "begins"
		if e.change != "sw_power_cap" { // a GPU at its power limit works as intended
			r.SetSeverityNumber(plog.SeverityNumberWarn)
		}
	}
	r.Body().SetStr(fmt.Sprintf("throttling of %s %s: %s", subject, verb, e.change))
}

func fillCondition(r plog.LogRecord, e event, subject string) {
	r.SetEventName(semconv.EventState)
	r.Attributes().PutStr("state", e.change)
	r.SetSeverityNumber(plog.SeverityNumberError)
	if e.change == healthy.String() {
		r.SetSeverityNumber(plog.SeverityNumberInfo)
	}
	text := fmt.Sprintf("%s is %s", subject, e.change)
	if e.reason != nil {
		text += ": " + e.reason.Error()
	}
	r.Body().SetStr(text)
}
