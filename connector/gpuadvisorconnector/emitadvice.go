// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"strconv"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// emitAdvice adds the levels of the GPUs, the decisions, and the models that they are made from.
func (a *advisor) emitAdvice(sm pmetric.ScopeMetrics, at pcommon.Timestamp) {
	if loads := a.advice.Loads(idsOf(a.state.GPUs())); len(loads) > 0 {
		points, shortages := gauge(sm, "gpuadvisor.level", "{level}"), gauge(sm, "gpuadvisor.memory.shortage", "By")
		for id, load := range loads {
			shortage := shortages.AppendEmpty()
			shortage.SetTimestamp(at)
			shortage.SetIntValue(load.Shortage)
			shortage.Attributes().PutStr(semconv.GPUID, id)
			for _, level := range advice.Levels() {
				p := points.AppendEmpty()
				p.SetTimestamp(at)
				p.Attributes().PutStr(semconv.GPUID, id)
				p.Attributes().PutStr("gpuadvisor.level", string(level))
				if level == load.Level {
					p.SetIntValue(1)
				} else {
					p.SetIntValue(0)
				}
			}
		}
	}
	a.emitDecisions(sm, at)
	a.observed.emit(sm, pcommon.NewTimestampFromTime(a.began), at)
	recommended := a.recommended.Recommendations()
	emitRecommendations(sm, &recommended, at)
	learned := a.advice.Learned()
	if len(learned) == 0 {
		return
	}
	a.emitCoverage(sm, at)
	coefficients := gauge(sm, "gpuadvisor.model.coefficient", "1")
	samples, errors := gauge(sm, "gpuadvisor.model.samples", "{execution}"), gauge(sm, "gpuadvisor.model.error", "1")
	for i := range learned {
		l := &learned[i]
		s, e := samples.AppendEmpty(), errors.AppendEmpty()
		s.SetIntValue(int64(l.Samples))
		e.SetDoubleValue(l.Error)
		first, second := coefficients.AppendEmpty(), coefficients.AppendEmpty()
		first.SetDoubleValue(l.A)
		first.Attributes().PutStr("gpuadvisor.coefficient", "a")
		second.SetDoubleValue(l.B)
		second.Attributes().PutStr("gpuadvisor.coefficient", "b")
		for _, p := range []pmetric.NumberDataPoint{first, second} {
			p.Attributes().PutStr("gpuadvisor.form", l.Form.String())
		}
		for _, p := range []pmetric.NumberDataPoint{s, e, first, second} {
			p.SetTimestamp(at)
			putKind(p.Attributes(), &l.Kind)
			p.Attributes().PutStr("gpuadvisor.cost", l.Cost)
		}
	}
}

// putKind puts all that tells kinds apart: points of two of them would else be of one series.
func putKind(a pcommon.Map, k *advice.Kind) {
	a.PutStr("comfyui.workflow.id", k.Workflow)
	a.PutStr("comfyui.model", k.Model)
	a.PutStr("hw.model", k.GPU)
	a.PutStr("service.version", k.Version)
	a.PutStr("gpuadvisor.arguments", strconv.FormatUint(k.Arguments, 16))
}

// emitCoverage adds how many of the last predictions were right.
func (a *advisor) emitCoverage(sm pmetric.ScopeMetrics, at pcommon.Timestamp) {
	all := a.advice.Coverage()
	if len(all) == 0 {
		return
	}
	points := gauge(sm, "gpuadvisor.prediction.coverage", "1")
	for i := range all {
		p := points.AppendEmpty()
		p.SetTimestamp(at)
		p.SetDoubleValue(all[i].Share)
		p.Attributes().PutStr("comfyui.task_class", all[i].Class)
		p.Attributes().PutStr("gpuadvisor.cost", all[i].Cost)
	}
}

func idsOf(gpus []advice.GPU) []string {
	ids := make([]string, len(gpus))
	for i := range gpus {
		ids[i] = gpus[i].ID
	}
	return ids
}

// emitDecisions adds how often what was decided.
func (a *advisor) emitDecisions(sm pmetric.ScopeMetrics, at pcommon.Timestamp) {
	counts := a.advice.Counts()
	if len(counts) == 0 {
		return
	}
	points := counter(sm, "gpuadvisor.decisions", "{decision}")
	for of, n := range counts {
		p := points.AppendEmpty()
		p.SetStartTimestamp(pcommon.NewTimestampFromTime(a.began))
		p.SetTimestamp(at)
		p.SetIntValue(n)
		p.Attributes().PutStr("server.address", of.Server)
		p.Attributes().PutStr("comfyui.task_class", of.Class)
		p.Attributes().PutStr("comfyui.admission.decision", string(of.Verdict))
		p.Attributes().PutStr("comfyui.admission.reason", string(of.Reason))
	}
}

// markSimulated marks what comes from simulated GPUs.
func markSimulated(sm pmetric.ScopeMetrics) {
	for _, m := range sm.Metrics().All() {
		points := pmetric.NewNumberDataPointSlice()
		switch m.Type() {
		case pmetric.MetricTypeGauge:
			points = m.Gauge().DataPoints()
		case pmetric.MetricTypeSum:
			points = m.Sum().DataPoints()
		}
		for _, p := range points.All() {
			p.Attributes().PutBool(semconv.Simulated, true)
		}
	}
}
