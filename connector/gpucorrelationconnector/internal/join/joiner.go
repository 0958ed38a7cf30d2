// SPDX-License-Identifier: Apache-2.0

// Package join joins the samples of GPUs with the traces and log records of those who
// used them. It is pure: it is given what arrived and the time, and returns what is
// ready; it has no clock, no lock of its own and no I/O. Spans and samples are read
// without the lock that it is given, figures are made without it, and what is done under
// it is done in steps of a bounded size.
package join

import (
	"container/list"
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
	Energy           EnergySettings
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
	// Traces bounds the traces of all GPUs that are retained, to share a GPU's time among
	// those that overlap; their windows of time are bounded by four times that. Default: 20000.
	Traces int `mapstructure:"traces"`
	// Records bounds the log records that wait for a trace. Default: 10000.
	Records int `mapstructure:"records"`
}

// Joiner holds traces and records until the samples of their GPUs cover them.
type Joiner struct {
	settings Settings

	// steps guards everything declared below.
	steps     steps
	timelines *gputimeline.Set
	gpus      map[string]*gpu // by hw.id; no more than timelines has
	memory    recollection
	counts    Counters
	expired   time.Time // when Expire was called last
	setBack   time.Time // to when the clock was set back last
	setBacks  int64     // how often it was

	byTrace map[pcommon.TraceID]*waitingTrace
	arrived list.List // of *waitingTrace, in the order of their arrival
	ready   []*waitingTrace
	spans   int
	bytes   int

	waitingRecords list.List   // of *waitingRecord, in the order of their arrival
	records        []plog.Logs // ready
}

// gpu is what the joiner holds of one GPU beside its samples.
type gpu struct {
	*gputimeline.Timeline
	active  *activities
	queue   needs      // of traces that wait for its samples
	xids    []xidEvent // by time
	records ordered[*waitingRecord]
}

// Counters counts what became of samples, spans and records since the last [Joiner.Drain].
type Counters struct {
	gputimeline.Counts
	Spans     map[SpanOutcome]int64
	Records   map[string]int64
	Forgotten map[string]int64
	// SetBack counts the GPUs whose samples were dropped because the clock was set back.
	SetBack int64
	// Disagreements are the GPUs of which counter and power began to disagree, by hw.id: by
	// how much; 0 if they agree again.
	Disagreements map[string]float64
}

func newCounters() Counters {
	return Counters{Spans: map[SpanOutcome]int64{}, Records: map[string]int64{}, Forgotten: map[string]int64{}, Disagreements: map[string]float64{}}
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

// New returns a joiner that holds nothing, for a single goroutine.
func New(settings Settings) *Joiner { return NewShared(settings, noLock{}) }

// NewShared returns a joiner that holds nothing, for any goroutine: it holds the lock for
// a bounded number of items at a time.
func NewShared(settings Settings, lock Lock) *Joiner {
	limits := gputimeline.Limits{GPUs: settings.Limits.GPUs, Samples: settings.Limits.Samples, Processes: settings.Limits.Processes}
	return &Joiner{
		settings: settings, steps: steps{mu: lock}, timelines: gputimeline.NewSet(limits), gpus: map[string]*gpu{},
		counts: newCounters(), byTrace: map[pcommon.TraceID]*waitingTrace{},
	}
}

// Calibrate sets what was measured of energy counters, by hw.id or hw.model.
func (j *Joiner) Calibrate(counters map[string]Calibration) {
	j.steps.lock()
	defer j.steps.unlock()
	j.settings.Energy.Calibrated = counters
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
	samples := gputimeline.Read(md)
	changed := map[*gputimeline.Timeline]bool{}
	j.steps.lock()
	defer j.steps.unlock()
	for i := range samples {
		j.steps.next(1)
		t, evicted := j.timelines.Add(&samples[i], &j.counts.Counts)
		if evicted != nil {
			j.forgetGPU(evicted.ID)
			if evicted.Disagrees() {
				j.counts.Disagreements[evicted.ID] = 0
			}
		}
		if t != nil {
			changed[t] = true
		}
	}
	for t := range changed {
		j.steps.next(1)
		g := j.gpus[t.ID]
		held := g != nil && g.Timeline == t
		idleSince := int64(0)
		if held {
			idleSince = g.active.idleSince()
		}
		t.UpdateRest(idleSince)
		if difference, changed := t.Disagreement(); changed {
			j.counts.Disagreements[t.ID] = difference
		}
		before, dropped := t.Trim(j.settings.History, j.timelines.Limits())
		j.counts.Dropped += int64(dropped)
		if held {
			g.trimXIDs(before)
			j.finishCovered(g)
		}
	}
}

// forgetGPU forgets what is held of a GPU that made room for another. Traces that wait
// for its samples wait on in vain.
func (j *Joiner) forgetGPU(id string) {
	if g := j.gpus[id]; g != nil {
		j.memory.drop(g.active)
		delete(j.gpus, id)
	}
}

// AddTraces adds finished spans. Traces that name no GPU, and those that find no room,
// are returned, to be passed on at once.
func (j *Joiner) AddTraces(td ptrace.Traces, now time.Time) (pass []ptrace.Traces) {
	refused := newCounters()
	for _, trace := range batchpersignal.SplitTraces(td) {
		p := j.settings.newPiece(trace, now)
		j.steps.lock()
		held := j.add(p, now)
		j.steps.unlock()
		if held {
			continue
		}
		if p.refused {
			refused.refuse(p.uses, ReasonLimit)
		}
		pass = append(pass, trace)
	}
	if len(refused.Spans) > 0 {
		j.steps.lock()
		j.counts.addSpans(&refused)
		j.steps.unlock()
	}
	return pass
}

// HasTraces reports whether [Joiner.NextTraces] would return any.
func (j *Joiner) HasTraces() bool {
	j.steps.lock()
	defer j.steps.unlock()
	return len(j.ready) > 0
}

// HasRecords reports whether [Joiner.NextRecords] would return any.
func (j *Joiner) HasRecords() bool {
	j.steps.lock()
	defer j.steps.unlock()
	return len(j.records) > 0
}

// Waiting is how many spans wait, and their size in bytes.
func (j *Joiner) Waiting() (spans, bytes int) {
	j.steps.lock()
	defer j.steps.unlock()
	return j.spans, j.bytes
}

// Drain returns what was counted since the last call.
func (j *Joiner) Drain() Counters {
	fresh := newCounters()
	j.steps.lock()
	defer j.steps.unlock()
	counted := j.counts
	j.counts = fresh
	return counted
}

func (j *Joiner) countForgotten(what string, n int) {
	if n > 0 {
		j.counts.Forgotten[what] += int64(n)
	}
}

// Expire makes ready what has waited as long as it may, and forgets what is old.
func (j *Joiner) Expire(now time.Time) {
	j.steps.lock()
	defer j.steps.unlock()
	if now.Before(j.expired) {
		j.setBack = now
		j.setBacks++
	}
	j.expired = now
	for _, g := range j.gpus {
		j.steps.next(1)
		if g.SetBack(now.UnixNano(), j.settings.MaxAhead) {
			j.restart(g)
		}
	}
	j.expireTraces(now)
	j.forgetOld(now)
	j.expireRecords(now)
}

// restart forgets what a GPU did by a clock that was set back since. What waits goes on
// waiting: its samples do not come.
func (j *Joiner) restart(g *gpu) {
	j.counts.SetBack++
	j.counts.Dropped += int64(g.Restart())
	j.memory.drop(g.active)
	g.active, g.xids = newActivities(), nil
}

// Finish makes all traces ready: the collector shuts down.
func (j *Joiner) Finish() {
	j.steps.lock()
	defer j.steps.unlock()
	for {
		j.steps.room(maxParts + 1)
		front := j.arrived.Front()
		if front == nil {
			return
		}
		w := front.Value.(*waitingTrace)
		j.steps.count(1 + len(w.needs))
		j.finish(w, reasonShutdown)
	}
}
