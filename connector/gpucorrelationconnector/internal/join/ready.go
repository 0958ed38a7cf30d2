// SPDX-License-Identifier: Apache-2.0

package join

import (
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// maxTraces is how many traces NextTraces returns at once, so that the next consumer
// gets them in batches.
const maxTraces = maxItems

// next removes the traces that are ready from what waits, up to a number.
func (j *Joiner) next() (batch []*waitingTrace) {
	j.steps.lock()
	defer j.steps.unlock()
	n := min(len(j.ready), maxTraces)
	j.steps.count(n)
	batch = append(batch, j.ready[:n]...)
	clear(j.ready[:n])
	if j.ready = j.ready[n:]; len(j.ready) == 0 {
		j.ready = nil
	}
	return batch
}

// NextTraces returns traces that are ready, with their figures; ok is false if there are
// none.
func (j *Joiner) NextTraces() (td ptrace.Traces, ok bool) {
	batch := j.next()
	counts := newCounters()
	var s scratch
	for _, w := range batch {
		j.bill(w, &counts, &s)
	}
	return j.release(batch, &counts)
}

// NextUnbilled is NextTraces without figures: there is no time for them, as the collector
// shuts down.
func (j *Joiner) NextUnbilled() (td ptrace.Traces, ok bool) {
	batch := j.next()
	counts := newCounters()
	for _, w := range batch {
		counts.refuse(w.all(), reasonShutdown)
	}
	return j.release(batch, &counts)
}

// release passes on a batch that no longer waits.
func (j *Joiner) release(batch []*waitingTrace, counts *Counters) (td ptrace.Traces, ok bool) {
	td = ptrace.NewTraces()
	spans, bytes := 0, 0
	for _, w := range batch {
		for _, p := range w.pieces {
			p.traces.ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
		}
		spans += w.spans
		bytes += w.bytes
	}
	j.steps.lock()
	defer j.steps.unlock()
	j.spans -= spans
	j.bytes -= bytes
	j.counts.addSpans(counts)
	return td, len(batch) > 0
}

// Discard returns traces that are ready as they came, to be counted by who drops them.
func (j *Joiner) Discard() (td ptrace.Traces, ok bool) {
	counts := newCounters()
	return j.release(j.next(), &counts)
}

// NextRecords returns records that are ready; ok is false if there are none.
func (j *Joiner) NextRecords() (ld plog.Logs, ok bool) {
	j.steps.lock()
	n := min(len(j.records), maxItems)
	j.steps.count(n)
	batch := append([]plog.Logs(nil), j.records[:n]...)
	clear(j.records[:n])
	if j.records = j.records[n:]; len(j.records) == 0 {
		j.records = nil
	}
	j.steps.unlock()
	ld = plog.NewLogs()
	for _, l := range batch {
		l.ResourceLogs().MoveAndAppendTo(ld.ResourceLogs())
	}
	return ld, n > 0
}
