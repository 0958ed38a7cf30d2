// SPDX-License-Identifier: Apache-2.0

package join

import (
	"cmp"
	"container/list"
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
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
	seq     uint64 // tells records of the same time apart
	arrived arrival
	entry   *list.Element // among all that wait
}

func (h *waitingRecord) place() place { return place{h.at, h.seq} }
func (h *waitingRecord) until() int64 { return h.at }

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
	if ids, ok := r.Attributes().Get(semconv.GPUIDs); ok && id == "" && ids.Type() == pcommon.ValueTypeSlice {
		for i := range min(ids.Slice().Len(), maxRolledGPUs) { // one of a server that may use several
			r.Attributes().PutStr(semconv.GPUID, ids.Slice().At(i).Str())
			j.addRecord(rl, sl, r, now)
		}
		return true
	}
	started := r.EventName() == semconv.EventExecutionStarted || r.EventName() == semconv.EventExecutionRemote
	if id == "" || !started && (!strings.HasPrefix(r.EventName(), semconv.GPUEventPrefix) || !r.TraceID().IsEmpty()) {
		return started // without a GPU it is of no use
	}
	at := int64(r.Timestamp())
	j.steps.lock()
	defer j.steps.unlock()
	j.steps.count(1)
	g := j.gpuOf(id)
	if g == nil {
		return started
	}
	if r.EventName() == semconv.EventExecutionRemote {
		j.steps.count(maxWindows)
		j.memory.leave(g.active, r.TraceID(), at, pdataread.True(r.Attributes(), semconv.Remote))
		return true
	}
	if started {
		pid := int64(0)
		if v, ok := r.Attributes().Get(semconv.ProcessPID); ok {
			pid = v.Int()
		}
		if !j.memory.begin(g.active, r.TraceID(), pid, r.SpanID(), at, j.settings.Limits.Traces, now) {
			j.countForgotten("beginning", 1)
		}
		return true
	}
	if number, ok := r.Attributes().Get(semconv.XID); ok {
		g.addXID(xidEvent{at: at, number: number.Int(), name: pdataread.Text(r.Attributes(), semconv.XIDName), message: r.Body().Str()}, j)
	}
	if j.joinRecord(g, r, at) {
		return false
	}
	if j.waitingRecords.Len()+len(j.records) >= j.settings.Limits.Records {
		j.counts.Records[alone]++
		return false
	}
	j.steps.next(1)
	h := &waitingRecord{logs: plog.NewLogs(), gpu: g, at: at, seq: j.memory.next(), arrived: arrival{now, j.setBacks}}
	to := h.logs.ResourceLogs().AppendEmpty()
	rl.Resource().CopyTo(to.Resource())
	to.SetSchemaUrl(rl.SchemaUrl())
	scope := to.ScopeLogs().AppendEmpty()
	sl.Scope().CopyTo(scope.Scope())
	scope.SetSchemaUrl(sl.SchemaUrl())
	r.MoveTo(scope.LogRecords().AppendEmpty())
	g.records.insert(h)
	h.entry = j.waitingRecords.PushBack(h)
	return true
}

// addXID stores an XID in the order of time.
func (g *gpu) addXID(x xidEvent, j *Joiner) {
	if len(g.xids) >= maxXIDs {
		j.countForgotten("xid", 1)
		return
	}
	i := len(g.xids)
	for i > 0 && g.xids[i-1].at > x.at {
		i--
	}
	g.xids = slices.Insert(g.xids, i, x)
}

// trimXIDs drops those before a time.
func (g *gpu) trimXIDs(before int64) {
	i, _ := slices.BinarySearchFunc(g.xids, before, func(x xidEvent, at int64) int { return cmp.Compare(x.at, at) })
	g.xids = slices.Delete(g.xids, 0, i)
}

// joinRecord writes the ids of what ran at a time onto a record.
func (j *Joiner) joinRecord(g *gpu, r plog.LogRecord, at int64) bool {
	found := j.running(g.active, at)
	if len(found) == 0 {
		return false
	}
	j.steps.next(len(found[0].spans))
	j.counts.Records[joined]++
	r.SetTraceID(found[0].trace)
	r.SetSpanID(found[0].deepest(at))
	if len(found) > 1 { // several ran: all are named
		all := r.Attributes().PutEmptySlice("gpu.trace_ids")
		for _, f := range found {
			all.AppendEmpty().SetStr(f.trace.String())
		}
	}
	return true
}

// joinWaitingRecords joins the records of a GPU that wait and lie in a window of time of
// a trace that is known now.
func (j *Joiner) joinWaitingRecords(g *gpu, in gputimeline.Interval) {
	for p := (place{at: in.From}); ; {
		j.steps.next(1)
		some := g.records.from(p)
		if len(some) == 0 || some[0].at > in.To {
			return
		}
		h := some[0]
		p = place{h.at, h.seq + 1}
		j.claim(h)
		if !j.joinRecord(g, h.record(), h.at) {
			j.counts.Records[alone]++ // the trace has been forgotten already
		}
		j.records = append(j.records, h.logs)
	}
}

// claim removes a record from what waits.
func (j *Joiner) claim(h *waitingRecord) {
	h.gpu.records.remove(h)
	j.waitingRecords.Remove(h.entry)
}

// expireRecords makes ready what has waited as long as it may.
func (j *Joiner) expireRecords(now time.Time) {
	for {
		j.steps.next(1)
		front := j.waitingRecords.Front()
		if front == nil || j.age(front.Value.(*waitingRecord).arrived, now) < j.settings.Wait {
			return
		}
		j.releaseRecord(front.Value.(*waitingRecord))
	}
}

func (j *Joiner) releaseRecord(h *waitingRecord) {
	j.claim(h)
	j.counts.Records[alone]++
	j.records = append(j.records, h.logs)
}

// FinishRecords makes all records ready: the collector shuts down.
func (j *Joiner) FinishRecords() {
	j.steps.lock()
	defer j.steps.unlock()
	for {
		j.steps.next(1)
		front := j.waitingRecords.Front()
		if front == nil {
			return
		}
		j.releaseRecord(front.Value.(*waitingRecord))
	}
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
