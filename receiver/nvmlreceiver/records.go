// SPDX-License-Identifier: Apache-2.0

//go:build linux && cgo

package nvmlreceiver

import (
	"fmt"
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/internal/nvml"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/nvmlreceiver/internal/xid"
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
		fillDriverEvent(r, e, subject)
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

var severities = map[xid.Tier]plog.SeverityNumber{
	xid.Reboot: plog.SeverityNumberError2, xid.Reset: plog.SeverityNumberError2, xid.Workflow: plog.SeverityNumberError,
	xid.Application: plog.SeverityNumberWarn, xid.Unknown: plog.SeverityNumberWarn, xid.Informational: plog.SeverityNumberInfo,
}

func (l *eventLog) fillXID(r plog.LogRecord, e event, subject string) {
	entry := l.catalogue.Find(e.xid)
	r.SetEventName(semconv.EventXID)
	r.SetSeverityNumber(severities[entry.Tier])
	r.Body().SetStr(fmt.Sprintf("XID %d on %s: %s. %s", e.xid, subject, entry.Name, entry.Advice()))
	a := r.Attributes()
	if e.inMIG {
		a.PutStr("hw.gpu.mig.gpu_instance.id", strconv.FormatUint(uint64(e.gpuInstance), 10))
		a.PutStr("hw.gpu.mig.compute_instance.id", strconv.FormatUint(uint64(e.computeInstance), 10))
	}
	a.PutInt(semconv.XID, int64(e.xid))
	a.PutStr(semconv.XIDName, entry.Name)
	a.PutStr("hw.gpu.xid.tier", string(entry.Tier))
}

// driverEvents has the meaning of the driver's events, and what to do.
var driverEvents = map[nvml.EventKind]struct {
	severity plog.SeverityNumber
	text     string
}{
	"ecc_single_bit":          {plog.SeverityNumberInfo, "ECC corrected a memory error; no action is needed unless this happens often"},
	"ecc_double_bit":          {plog.SeverityNumberError, "ECC could not correct a memory error: programs on the GPU may have failed; see hw.errors and the row remappings"},
	"ecc_single_bit_storm":    {plog.SeverityNumberWarn, "corrected memory errors are frequent: the memory may be failing; run NVIDIA's field diagnostics at the next opportunity"},
	"dram_retirement":         {plog.SeverityNumberWarn, "faulty memory was retired; this may need a reset of the GPU"},
	"dram_retirement_failure": {plog.SeverityNumberError2, "faulty memory could not be retired: replace the GPU"},
	"poison_nonfatal":         {plog.SeverityNumberWarn, "faulty data was contained: the program that used it was ended, others continue"},
	"poison_fatal":            {plog.SeverityNumberError2, "faulty data could not be contained: reset the GPU"},
	"gpu_unavailable":         {plog.SeverityNumberError2, "the driver cannot use the GPU: see hw.gpu.recovery_action"},
	"recovery_action":         {plog.SeverityNumberWarn, "the recovery action that the driver requests has changed: see hw.gpu.recovery_action"},
	"power_source_change":     {plog.SeverityNumberWarn, "the power source changed: on battery or with an insufficient supply the GPU runs slower"},
	"clock_change":            {plog.SeverityNumberInfo, "the clocks changed; hw.gpu.throttle.active has the reasons why they are held down, if they are"},
}

func fillDriverEvent(r plog.LogRecord, e event, subject string) {
	meaning := driverEvents[e.kind]
	r.SetEventName(semconv.EventDriver)
	r.SetSeverityNumber(meaning.severity)
	r.Attributes().PutStr("hw.gpu.event.type", string(e.kind))
	r.Body().SetStr(fmt.Sprintf("%s on %s: %s", e.kind, subject, meaning.text))
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
