// SPDX-License-Identifier: Apache-2.0

package comfyuireceiver

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/consumer/consumererror"
	"go.opentelemetry.io/collector/consumer/consumertest"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/plog"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.uber.org/zap"
	zapobserver "go.uber.org/zap/zaptest/observer"

	"github.com/otelcol-gpu/otelcol-gpu/internal/comfyevents"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/protocol"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/spans"
)

var errRefused = errors.New("memory limit reached")

// pipeline is a next consumer of traces and logs. It returns an error while there is one,
// after it has damaged what it was given, as a pipeline that changes data may.
type pipeline struct {
	consumertest.Consumer
	err      atomic.Pointer[error]
	attempts atomic.Int64
	traces   consumertest.TracesSink
	logs     consumertest.LogsSink
}

func (p *pipeline) refuse(err error) { p.err.Store(&err) }
func (p *pipeline) accept()          { p.err.Store(nil) }

func (*pipeline) Capabilities() consumer.Capabilities {
	return consumer.Capabilities{MutatesData: true}
}

func (p *pipeline) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	p.attempts.Add(1)
	if err := p.err.Load(); err != nil {
		td.ResourceSpans().RemoveIf(func(ptrace.ResourceSpans) bool { return true })
		return *err
	}
	return p.traces.ConsumeTraces(ctx, td)
}

func (p *pipeline) ConsumeLogs(ctx context.Context, ld plog.Logs) error {
	p.attempts.Add(1)
	if err := p.err.Load(); err != nil {
		ld.ResourceLogs().RemoveIf(func(plog.ResourceLogs) bool { return true })
		return *err
	}
	return p.logs.ConsumeLogs(ctx, ld)
}

// exportRig is an exporter in front of a pipeline.
type exportRig struct {
	*exporter
	next      *pipeline
	telemetry *componenttest.Telemetry
	logged    *zapobserver.ObservedLogs
	settled   atomic.Int64
}

func (r *exportRig) handedOver(*prompt.Prompt, bool) { r.settled.Add(1) }

func newExportRig(t *testing.T, queue int) *exportRig {
	r := &exportRig{next: &pipeline{}, telemetry: componenttest.NewTelemetry()}
	builder, err := metadata.NewTelemetryBuilder(r.telemetry.NewTelemetrySettings())
	require.NoError(t, err)
	made, err := spans.NewBuilder(spans.Capture{}, createDefaultConfig().(*Config).Limits.bounds(), pcommon.NewResource(), "", newDeviceFinder("", &url.URL{}, nil, time.Now), newAPIClasses(10))
	require.NoError(t, err)
	core, logged := zapobserver.New(zap.InfoLevel)
	r.logged = logged
	observed, err := newInstruments(createDefaultConfig().(*Config).Limits, builder, time.Now)
	require.NoError(t, err)
	r.exporter = &exporter{
		grace:  stopGrace,
		traces: r.next, logs: r.next, spans: made, log: zap.New(core), now: time.Now,
		instruments: observed, handovers: newHandovers(&comfyevents.Bus{}, r, queue+10),
	}
	r.start(queue)
	return r
}

// fail ends n prompts, each with a trace and a log record.
func (r *exportRig) fail(n int) {
	for i := range n {
		p := prompt.Discovered(&protocol.Submission{PromptID: fmt.Sprint("p", i)}, time.Now(), true)
		p.Outcome, p.Ended = prompt.Lost, time.Now()
		r.queueTrace(p)
		r.reportFailure(p)
	}
}

func (r *exportRig) dropped(t *testing.T) map[string]int64 {
	return counted(t, r.telemetry, "dropped")
}

// exported are the ids of the prompts that arrived, with the numbers of their traces and
// records.
func (r *exportRig) exported() (traces, records map[string]int) {
	traces, records = map[string]int{}, map[string]int{}
	for _, td := range r.next.traces.AllTraces() {
		id, _ := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Attributes().Get("comfyui.prompt.id")
		traces[id.Str()]++
	}
	for _, ld := range r.next.logs.AllLogs() {
		id, _ := ld.ResourceLogs().At(0).ScopeLogs().At(0).LogRecords().At(0).Attributes().Get("comfyui.prompt.id")
		records[id.Str()]++
	}
	return traces, records
}

func TestAConsumerThatRefusesForASecondLosesAndDoublesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 20
		r := newExportRig(t, n)
		r.next.refuse(errRefused)
		r.fail(n)
		time.Sleep(time.Second)
		assert.Greater(t, r.next.attempts.Load(), int64(4), "it was tried again")
		r.next.accept()
		time.Sleep(maxBackoff)
		synctest.Wait()
		traces, records := r.exported()
		want := map[string]int{}
		for i := range n {
			want[fmt.Sprint("p", i)] = 1
		}
		assert.Equal(t, want, traces)
		assert.Equal(t, want, records)
		r.stop(t.Context(), nil)
		assert.Empty(t, r.dropped(t))
		assert.Equal(t, 2, r.logged.FilterMessage("Next consumer returned a retryable error; retrying").Len(), "once for each signal")
		assert.Equal(t, 2, r.logged.FilterMessage("Next consumer accepts data again").Len())
	})
}

func TestPermanentErrorsAreCountedAndNotRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExportRig(t, 10)
		r.next.refuse(consumererror.NewPermanent(errRefused))
		r.fail(3)
		synctest.Wait()
		assert.EqualValues(t, 6, r.next.attempts.Load())
		assert.Equal(t, map[string]int64{"traces": 3, "logs": 3}, r.dropped(t))
		r.stop(t.Context(), nil)
	})
}

func TestWhatExceedsTheQueueIsCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newExportRig(t, 5)
		r.next.refuse(errRefused)
		r.fail(1)
		synctest.Wait() // the worker holds it
		r.fail(9)
		assert.Equal(t, map[string]int64{"traces": 4, "logs": 4}, r.dropped(t))
		r.next.accept()
		r.stop(t.Context(), nil)
		traces, records := r.exported()
		assert.Len(t, traces, 5)
		assert.Len(t, records, 5)
	})
}

func TestShutdownIsShortThoughTheConsumerRefusesForEver(t *testing.T) {
	for name, next := range map[string]func(ctx context.Context){
		"at once":            func(context.Context) {},
		"after its deadline": func(ctx context.Context) { <-ctx.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newExportRig(t, 1000)
				r.traces = &slowPipeline{r.next, next}
				r.next.refuse(errRefused)
				r.fail(1000)
				synctest.Wait()
				begin := time.Now()
				r.stop(t.Context(), nil)
				assert.Less(t, time.Since(begin), time.Second)
				assert.Equal(t, map[string]int64{"traces": 1000, "logs": 1000}, r.dropped(t))
			})
		})
	}
}

// slowPipeline waits before it answers.
type slowPipeline struct {
	*pipeline
	wait func(context.Context)
}

func (p *slowPipeline) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	p.wait(ctx)
	return p.pipeline.ConsumeTraces(ctx, td)
}
