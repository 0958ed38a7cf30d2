// SPDX-License-Identifier: Apache-2.0

// Package join joins the samples of GPUs with the traces and log records of those who
// used them. It is pure: it is given what arrived and the time, and returns what is
// ready; it has no clock, no lock and no I/O.
package join

import (
	"time"

	"github.com/open-telemetry/opentelemetry-collector-contrib/pkg/batchpersignal"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/otelcol-gpu/otelcol-gpu/internal/gputimeline"
)

// Settings are those of a Joiner; see the connector's Config for their meaning.
type Settings struct {
	Wait             time.Duration
	History          time.Duration
	MaxGap           time.Duration
	DeviceAttributes []string
	ClockOffsets     map[string]time.Duration
	MaxAhead         time.Duration
	Limits           Limits
}

// Limits bounds what a Joiner holds. Items beyond a limit are counted; spans and records
// among them are passed on unchanged.
type Limits struct {
	// Spans and Bytes bound the spans that wait, and their estimated memory. Default:
	// 100000, 64 MiB.
	Spans int `mapstructure:"spans"`
	Bytes int `mapstructure:"bytes"`
	// GPUs bounds the devices that are tracked, MIG devices included. Default: 128.
	GPUs int `mapstructure:"cards"`
	// Samples bounds the samples of one quantity of one GPU. Default: 20000.
	Samples int `mapstructure:"samples"`
	// Processes bounds the processes of one GPU with a memory history of their own.
	// Default: 64.
	Processes int `mapstructure:"processes"`
	// Traces bounds the traces of one GPU that are retained, to share its time among those
	// that overlap. Default: 20000.
	Traces int `mapstructure:"traces"`
	// Records bounds the log records that wait for a trace. Default: 10000.
	Records int `mapstructure:"records"`
}

// Joiner holds traces and records until the samples of their GPUs cover them. It is not
// safe for concurrent use.
type Joiner struct {
	settings  Settings
	timelines *gputimeline.Set
	gpus      map[string]*gpu // by hw.id; no more than timelines has
	counts    Counters

	byTrace map[pcommon.TraceID]*waitingTrace
	arrived []*waitingTrace // in the order of their arrival; those that are done are skipped
	ready   []*waitingTrace
	spans   int
	bytes   int
	sizer   ptrace.ProtoMarshaler

	waitingRecords []*waitingRecord // in the order of their arrival
	records        []plog.Logs      // ready
}

// gpu is what the joiner holds of one GPU beside its samples.
type gpu struct {
	*gputimeline.Timeline
	active activities
	queue  needs // of traces that wait for its samples
	xids   []xidEvent
}

// Counters counts what became of samples, spans and records since the last [Joiner.Drain].
type Counters struct {
	gputimeline.Counts
	Spans     map[SpanOutcome]int64
	Records   map[string]int64
	Forgotten map[string]int64
}

// SpanOutcome is what a span got, and why not more.
type SpanOutcome struct{ Outcome, Reason string }

// The outcomes of spans that name a GPU.
const (
	Measured = "measured"
	Estimate = "estimate"
	None     = "none"
	Dropped  = "dropped"
)

// The outcomes of records.
const (
	joined = "joined" // a trace ran then
	alone  = "alone"
)

// New returns a joiner that holds nothing.
func New(settings Settings) *Joiner {
	limits := gputimeline.Limits{GPUs: settings.Limits.GPUs, Samples: settings.Limits.Samples, Processes: settings.Limits.Processes}
	return &Joiner{
		settings: settings, timelines: gputimeline.NewSet(limits), gpus: map[string]*gpu{},
		counts:  Counters{Spans: map[SpanOutcome]int64{}, Records: map[string]int64{}, Forgotten: map[string]int64{}},
		byTrace: map[pcommon.TraceID]*waitingTrace{},
	}
}

// gpuOf finds what is held of a GPU, or makes room for it; nil beyond the bound.
func (j *Joiner) gpuOf(id string) *gpu {
	if g := j.gpus[id]; g != nil {
		return g
	}
	t := j.timelines.Ensure(id)
	if t == nil {
		return nil
	}
	g := &gpu{Timeline: t, active: newActivities()}
	j.gpus[id] = g
	return g
}

// AddMetrics adds the samples of a scrape; traces that it covers become ready.
func (j *Joiner) AddMetrics(md pmetric.Metrics) {
	in := j.timelines.Ingest(md, &j.counts.Counts)
	for _, id := range in.Evicted {
		delete(j.gpus, id)
	}
	for t := range in.Touched {
		before, samples := t.Trim(j.settings.History, j.timelines.Limits())
		j.counts.Dropped += int64(samples)
		if g := j.gpus[t.ID]; g != nil {
			j.countForgotten("trace", g.trim(before, j.settings.Limits.Traces))
			j.finishCovered(g)
		}
	}
}

// AddTraces adds finished spans. Traces that name no GPU, and those that find no room,
// are returned, to be passed on at once.
func (j *Joiner) AddTraces(td ptrace.Traces, now time.Time) (pass []ptrace.Traces) {
	for _, trace := range batchpersignal.SplitTraces(td) {
		if !j.addTrace(trace, now) {
			pass = append(pass, trace)
		}
	}
	return pass
}

// HasTraces reports whether [Joiner.NextTraces] would return any.
func (j *Joiner) HasTraces() bool { return len(j.ready) > 0 }

// HasRecords reports whether [Joiner.NextRecords] would return any.
func (j *Joiner) HasRecords() bool { return len(j.records) > 0 }

// Waiting is how many spans wait, and their size in bytes.
func (j *Joiner) Waiting() (spans, bytes int) { return j.spans, j.bytes }

// Drain calls report with what was counted since the last call, and begins again.
func (j *Joiner) Drain(report func(*Counters)) {
	report(&j.counts)
	j.counts.Counts = gputimeline.Counts{}
	clear(j.counts.Spans)
	clear(j.counts.Records)
	clear(j.counts.Forgotten)
}

func (j *Joiner) countForgotten(what string, n int) {
	if n > 0 {
		j.counts.Forgotten[what] += int64(n)
	}
}

// Expire makes ready what has waited as long as it may.
func (j *Joiner) Expire(now time.Time) {
	i := 0
	for ; i < len(j.arrived); i++ {
		w := j.arrived[i]
		if !w.done && now.Sub(w.arrived) < j.settings.Wait {
			break
		}
		if !w.done {
			j.finish(w, reasonWait)
		}
		j.arrived[i] = nil
	}
	j.arrived = j.arrived[i:]
	before := now.Add(-j.settings.Wait).UnixNano()
	for _, g := range j.gpus {
		g.active.forgetSpans(before)
		g.queue.dropDone()
	}
	j.expireRecords(now)
}

// Finish makes all traces ready: the collector shuts down.
func (j *Joiner) Finish() {
	for _, w := range j.arrived {
		if !w.done {
			j.finish(w, reasonShutdown)
		}
	}
	j.arrived = nil
}

// maxTraces is how many traces NextTraces returns at once, so that the next consumer
// gets them in batches.
const maxTraces = 512

// NextTraces returns traces that are ready, with their figures; ok is false if there are
// none.
func (j *Joiner) NextTraces() (td ptrace.Traces, ok bool) {
	td = ptrace.NewTraces()
	n := min(len(j.ready), maxTraces)
	for _, w := range j.ready[:n] {
		j.bill(w)
		j.subtract(w)
		w.traces.ResourceSpans().MoveAndAppendTo(td.ResourceSpans())
	}
	clear(j.ready[:n])
	if j.ready = j.ready[n:]; len(j.ready) == 0 {
		j.ready = nil
	}
	return td, n > 0
}
