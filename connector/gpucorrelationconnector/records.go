// SPDX-License-Identifier: Apache-2.0

package gpucorrelationconnector

import (
	"slices"
	"strings"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
)

// executionStarted is the event that the comfyui receiver sends when a prompt begins
// to run: traces arrive when they have ended, and an XID should not wait for that.
const executionStarted = "comfyui.execution.started"

// xidEvent is an XID of a GPU, as its log record told it.
type xidEvent struct {
	at      int64
	number  int64
	name    string
	message string
}

const mostXIDs = 1000 // of one GPU that are remembered

// heldRecord is a record that waits for a trace that ran then.
type heldRecord struct {
	logs    plog.Logs // one record
	gpu     *timeline
	at      int64
	arrived time.Time
	over    bool
}

func (h *heldRecord) record() plog.LogRecord {
	return h.logs.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0)
}

// takeLogs takes log records in. What tells of a GPU gets the trace that ran then,
// or waits for it; the rest stays to be passed on.
func (c *correlator) takeLogs(ld plog.Logs, now time.Time) {
	ld.ResourceLogs().RemoveIf(func(rl plog.ResourceLogs) bool {
		rl.ScopeLogs().RemoveIf(func(sl plog.ScopeLogs) bool {
			sl.LogRecords().RemoveIf(func(r plog.LogRecord) bool { return c.takeRecord(rl, sl, r, now) })
			return sl.LogRecords().Len() == 0
		})
		return rl.ScopeLogs().Len() == 0
	})
}

// takeRecord reports whether it keeps the record.
func (c *correlator) takeRecord(rl plog.ResourceLogs, sl plog.ScopeLogs, r plog.LogRecord, now time.Time) bool {
	id := text(r.Attributes(), "hw.id")
	started := r.EventName() == executionStarted
	if id == "" || !started && (!strings.HasPrefix(r.EventName(), "hw.gpu.") || !r.TraceID().IsEmpty()) {
		return started // without a GPU it tells nothing
	}
	t := c.timelines.of(id, notSampled)
	if t == nil {
		return started
	}
	at := int64(r.Timestamp())
	if started {
		if !t.active.begin(r.TraceID(), r.SpanID(), at, c.cfg.Limits.Traces) {
			c.forgot("beginning", 1)
		}
		return true
	}
	if number, ok := r.Attributes().Get("hw.gpu.xid"); ok && len(t.xids) >= mostXIDs {
		c.forgot("xid", 1)
	} else if ok {
		t.xids = append(t.xids, xidEvent{at: at, number: number.Int(), name: text(r.Attributes(), "hw.gpu.xid.name"), message: r.Body().Str()})
	}
	if c.join(t, r, at) {
		return false
	}
	if len(c.held) >= c.cfg.Limits.Records {
		c.count.records["alone"]++
		return false
	}
	h := &heldRecord{logs: plog.NewLogs(), gpu: t, at: at, arrived: now}
	to := h.logs.ResourceLogs().AppendEmpty()
	rl.Resource().CopyTo(to.Resource())
	to.SetSchemaUrl(rl.SchemaUrl())
	scope := to.ScopeLogs().AppendEmpty()
	sl.Scope().CopyTo(scope.Scope())
	scope.SetSchemaUrl(sl.SchemaUrl())
	r.MoveTo(scope.LogRecords().AppendEmpty())
	c.held = append(c.held, h)
	return true
}

// join writes the ids of what ran at a time onto a record.
func (c *correlator) join(t *timeline, r plog.LogRecord, at int64) bool {
	found := t.active.running(at)
	if len(found) == 0 {
		return false
	}
	c.count.records["joined"]++
	r.SetTraceID(found[0].trace)
	r.SetSpanID(found[0].span)
	if len(found) > 1 { // several ran: all are named
		all := r.Attributes().PutEmptySlice("gpu.trace_ids")
		for _, f := range found[:min(len(found), 16)] {
			all.AppendEmpty().SetStr(f.trace.String())
		}
	}
	return true
}

// joinHeld looks again at the records of a GPU that wait.
func (c *correlator) joinHeld(t *timeline) {
	for _, h := range c.held {
		if h.gpu == t && !h.over && c.join(t, h.record(), h.at) {
			h.over = true
			c.records = append(c.records, h.logs)
		}
	}
	c.held = slices.DeleteFunc(c.held, func(h *heldRecord) bool { return h.over })
}

// expireRecords lets go of what has waited long enough.
func (c *correlator) expireRecords(now time.Time) {
	i := 0
	for ; i < len(c.held) && now.Sub(c.held[i].arrived) >= c.cfg.Wait; i++ {
		c.letGo(c.held[i])
	}
	c.held = slices.Delete(c.held, 0, i)
}

func (c *correlator) letGo(h *heldRecord) {
	c.count.records["alone"]++
	c.records = append(c.records, h.logs)
}

// endRecords lets go of all.
func (c *correlator) endRecords() {
	for _, h := range c.held {
		c.letGo(h)
	}
	c.held = nil
}

// takeRecords gives the records that are ready away.
func (c *correlator) takeRecords() (ld plog.Logs, any bool) {
	ld = plog.NewLogs()
	for _, one := range c.records {
		one.ResourceLogs().MoveAndAppendTo(ld.ResourceLogs())
	}
	any = len(c.records) > 0
	c.records = nil
	return ld, any
}

// tell adds the XIDs that came within a span's time as its events.
func (b *bill) tell(u *use) {
	for _, x := range b.xids {
		e := u.span.Events().AppendEmpty()
		e.SetName("gpu.xid")
		e.SetTimestamp(pcommon.Timestamp(x.at + u.offset))
		e.Attributes().PutInt("hw.gpu.xid", x.number)
		e.Attributes().PutStr("hw.gpu.xid.name", x.name)
		e.Attributes().PutStr("message", x.message)
	}
}
