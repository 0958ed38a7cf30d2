// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"context"
	"maps"
	"sync"
	"time"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/metadata"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// series identifies a series of gpuadvisor.condition.
type series struct{ cause, severity, gpu, server string }

// maxSeries bounds the conditions of an emission.
const maxSeries = 4096

// emitter remembers what was emitted and counted last.
type emitter struct {
	// mu guards everything declared below.
	mu sync.Mutex
	// emitted are the conditions of the last emission: those that no longer hold are marked
	// stale.
	emitted map[series]bool
	// counted are the drops that the telemetry knows, by what was dropped.
	counted map[string]int64
	// encoded is the same of the streams' messages.
	encoded int64
}

// emit sends the connector's metrics to the next consumer, and reports what was dropped.
func (a *advisor) emit(ctx context.Context) {
	a.report(ctx)
	md := a.metrics(a.now())
	if err := a.next.ConsumeMetrics(ctx, md); err != nil && ctx.Err() == nil {
		a.log.Warn("Next consumer refused the connector's metrics; they are dropped", zap.Error(err))
	}
}

// metrics are the conditions that hold, and those that held at the last emission.
func (a *advisor) metrics(now time.Time) pmetric.Metrics {
	a.emitter.mu.Lock()
	defer a.emitter.mu.Unlock()
	known := a.state.Summary()
	md := pmetric.NewMetrics()
	rm := md.ResourceMetrics().AppendEmpty()
	if known.Host != "" {
		rm.Resource().Attributes().PutStr(semconv.HostName, known.Host)
	}
	sm := rm.ScopeMetrics().AppendEmpty()
	sm.Scope().SetName(metadata.ScopeName)
	sm.Scope().SetVersion(a.settings.BuildInfo.Version)
	at := pcommon.NewTimestampFromTime(now)
	holding := map[series]bool{}
	for i := range known.Conditions {
		c := &known.Conditions[i]
		if c.Cause != nil && len(holding) < maxSeries {
			holding[series{c.Cause.ID, string(c.Severity), c.GPU, c.Server}] = true
		}
	}
	points := gauge(sm, "gpuadvisor.condition", "{condition}")
	for s := range holding {
		s.put(points, at).SetIntValue(1)
	}
	for s := range a.emitter.emitted {
		if !holding[s] {
			s.put(points, at).SetFlags(pmetric.DefaultDataPointFlags.WithNoRecordedValue(true))
		}
	}
	a.emitter.emitted = holding
	p := gauge(sm, "gpuadvisor.prompts", "{prompt}").AppendEmpty()
	p.SetTimestamp(at)
	p.SetIntValue(int64(known.Prompts))
	a.emitAdvice(sm, at)
	if known.Simulated {
		markSimulated(sm)
	}
	return md
}

func gauge(sm pmetric.ScopeMetrics, name, unit string) pmetric.NumberDataPointSlice {
	m := sm.Metrics().AppendEmpty()
	m.SetName(name)
	m.SetUnit(unit)
	return m.SetEmptyGauge().DataPoints()
}

func (s series) put(points pmetric.NumberDataPointSlice, at pcommon.Timestamp) pmetric.NumberDataPoint {
	p := points.AppendEmpty()
	p.SetTimestamp(at)
	for key, value := range map[string]string{"gpuadvisor.cause": s.cause, "gpuadvisor.severity": s.severity, semconv.GPUID: s.gpu, "server.address": s.server} {
		if value != "" {
			p.Attributes().PutStr(key, value)
		}
	}
	return p
}

// report adds what was dropped, and who looks, to the collector's own telemetry.
func (a *advisor) report(ctx context.Context) {
	streams := a.page.Counts()
	dropped := a.state.Dropped()
	dropped["viewers"], dropped["streams"], dropped["requests"] = streams.Dropped, streams.Refused, a.recommended.dropped()
	dropped["advice"], dropped["observed"] = a.advice.Dropped(), a.observed.notCounted()
	a.emitter.mu.Lock()
	before := a.emitter.counted
	a.emitter.counted = maps.Clone(dropped)
	encoded := streams.Encoded - a.emitter.encoded
	a.emitter.encoded = streams.Encoded
	a.emitter.mu.Unlock()
	for what, n := range dropped {
		if more := n - before[what]; more > 0 {
			a.telemetry.ConnectorGpuadvisorDropped.Add(ctx, more, metric.WithAttributes(attribute.String("what", what)))
		}
	}
	a.telemetry.ConnectorGpuadvisorMessages.Add(ctx, encoded)
	a.telemetry.ConnectorGpuadvisorViewers.Record(ctx, int64(streams.Viewers))
}

// withoutTelemetry are the settings for the page's server: a stream would be a request of
// hours in confighttp's metrics.
func withoutTelemetry(set component.TelemetrySettings) component.TelemetrySettings {
	set.MeterProvider, set.TracerProvider = metricnoop.NewMeterProvider(), tracenoop.NewTracerProvider()
	return set
}
