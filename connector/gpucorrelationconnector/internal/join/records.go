// SPDX-License-Identifier: Apache-2.0

package join

import (
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/internal/pdataread"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// xidEvent is an XID of a GPU, from its log record.
type xidEvent struct {
	at      int64
	number  int64
	name    string
	message string
}

const (
	// maxXIDs bounds the XIDs of one GPU that are retained.
	maxXIDs = 1000
	// maxTraceIDs bounds the traces that one record names.
	maxTraceIDs = 16
)

// waitingRecord is a record that waits for a trace that ran then.
type waitingRecord struct {
	logs    plog.Logs // one record
	gpu     *gpu
	at      int64
	arrived time.Time
	done    bool
}

func (h *waitingRecord) record() plog.LogRecord {
	return h.logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

// AddLogs removes from ld the records that wait for the trace that ran then. Records of
// GPUs whose trace is known get its id; they and all others stay, to be passed on.
func (j *Joiner) AddLogs(ld plog.Logs, now time.Time) {
	ld.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(r plog.LogRecord) bool { return j.addRecord(rl, sl, r, now) })
			return sl.LogRecords().Len() == 0
		})
		return rl.ScopeLogs().Len() == 0
	})
}

// addRecord reports whether it moved the record, or consumed it.
func (j *Joiner) addRecord(rl plog.ResourceLogs, sl plog.ScopeLogs, r plog.LogRecord, now time.Time) bool {
	id := pdataread.Text(r.Attributes(), semconv.GPUID)
	started := r.EventName() == semconv.EventExecutionStarted
	if id == "" || !started && (!strings.HasPrefix(r.EventName(), semconv.GPUEventPrefix) || !r.TraceID().IsEmpty()) {
		return started // without a GPU it is of no use
	}
	g := j.gpuOf(id)
	if g == nil {
		return started
	}
	at := int64(r.Timestamp())
	if started {
		if !g.active.begin(r.TraceID(), r.SpanID(), at, j.settings.Limits.Traces) {
			j.countForgotten("beginning", 1)
		}
		return true
	}
	if number, ok := r.Attributes().Get(semconv.XID); ok && len(g.xids) >= maxXIDs {
		j.countForgotten("xid", 1)
	} else if ok {
		g.xids = append(g.xids, xidEvent{at: at, number: number.Int(), name: pdataread.Text(r.Attributes(), semconv.XIDName), message: r.Body().Str()})
	}
	if j.joinRecord(g, r, at) {
		return false
	}
	if len(j.waitingRecords) >= j.settings.Limits.Records {
		j.counts.Records[alone]++
		return false
	}
	h := &waitingRecord{logs: plog.NewLogs(), gpu: g, at: at, arrived: now}
	to := h.logs.ResourceLogs().AppendEmpty()
	rl.Resource().CopyTo(to.Resource())
	to.SetSchemaUrl(rl.SchemaUrl())
	scope := to.ScopeLogs().AppendEmpty()
	sl.Scope().CopyTo(scope.Scope())
	scope.SetSchemaUrl(sl.SchemaUrl())
	r.MoveTo(scope.LogRecords().AppendEmpty())
	j.waitingRecords = append(j.waitingRecords, h)
	return true
}

// joinRecord writes the ids of what ran at a time onto a record.
func (j *Joiner) joinRecord(g *gpu, r plog.LogRecord, at int64) bool {
	found := g.active.running(at)
	if len(found) == 0 {
		return false
	}
	j.counts.Records[joined]++
	r.SetTraceID(found[0].trace)
	r.SetSpanID(found[0].span)
	if len(found) > 1 { // several ran: all are named
		all := r.Attributes().PutEmptySlice("gpu.trace_ids")
		for _, f := range found[:min(len(found), maxTraceIDs)] {
			all.AppendEmpty().SetStr(f.trace.String())
		}
	}
	return true
}

// joinWaitingRecords joins the records of a GPU that wait.
func (j *Joiner) joinWaitingRecords(g *gpu) {
	for _, h := range j.waitingRecords {
		if h.gpu == g && !h.done && j.joinRecord(g, h.record(), h.at) {
			h.done = true
			j.records = append(j.records, h.logs)
		}
	}
	j.waitingRecords = slices.DeleteFunc(j.waitingRecords, func(h *waitingRecord) bool { return h.done })
}

// expireRecords makes ready what has waited as long as it may.
func (j *Joiner) expireRecords(now time.Time) {
	i := 0
	for ; i < len(j.waitingRecords) && now.Sub(j.waitingRecords[i].arrived) >= j.settings.Wait; i++ {
		j.releaseRecord(j.waitingRecords[i])
	}
	j.waitingRecords = slices.Delete(j.waitingRecords, 0, i)
}

func (j *Joiner) releaseRecord(h *waitingRecord) {
	j.counts.Records[alone]++
	j.records = append(j.records, h.logs)
}

// FinishRecords makes all records ready: the collector shuts down.
func (j *Joiner) FinishRecords() {
	for _, h := range j.waitingRecords {
		j.releaseRecord(h)
	}
	j.waitingRecords = nil
}

// NextRecords returns the records that are ready; ok is false if there are none.
func (j *Joiner) NextRecords() (ld plog.Logs, ok bool) {
	ld = plog.NewLogs()
	for _, l := range j.records {
		l.ResourceLogs().MoveAndAppendTo(ld.ResourceLogs())
	}
	ok = len(j.records) > 0
	j.records = nil
	return ld, ok
}

// writeXIDs adds the XIDs that came while the span ran as its events.
func (b *bill) writeXIDs(u *use) {
	for _, x := range b.xids {
		e := u.span.Events().AppendEmpty()
		e.SetName(semconv.EventSpanXID)
		e.SetTimestamp(pcommon.Timestamp(x.at + u.offset))
		e.Attributes().PutInt(semconv.XID, x.number)
		e.Attributes().PutStr(semconv.XIDName, x.name)
		e.Attributes().PutStr("message", x.message)
	}
}
