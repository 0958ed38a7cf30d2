// SPDX-License-Identifier: Apache-2.0

package gpuadvisorconnector

import (
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"

	"github.com/otelcol-gpu/otelcol-gpu/internal/recommend"
	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
)

// emitRecommendations adds what a week's requests say; nothing while none is known.
func emitRecommendations(sm pmetric.ScopeMetrics, known *recommend.Recommendations, at pcommon.Timestamp) {
	if known.All.Requests == 0 {
		return
	}
	offered, held := gauge(sm, "gpuadvisor.offered.time", "s"), gauge(sm, "gpuadvisor.held_back.time", "s")
	for i := range known.GPUs {
		of := &known.GPUs[i]
		putPoint(offered, at, semconv.GPUID, of.GPU).SetDoubleValue(of.Work)
		for _, shortage := range recommend.Shortages() {
			putPoint(held, at, semconv.GPUID, of.GPU, "gpuadvisor.shortage", string(shortage)).SetDoubleValue(of.By(shortage))
		}
	}
	recommended := pmetric.NewNumberDataPointSlice()
	for _, s := range known.Safe {
		if s.Side > 0 {
			putPoint(recommended, at, "comfyui.task_class", s.Class, "gpuadvisor.basis", "safe", "hw.model", s.Product).SetIntValue(int64(s.Side))
		}
	}
	for _, o := range known.Objectives {
		if o.Side > 0 {
			putPoint(recommended, at, "comfyui.task_class", o.Class, "gpuadvisor.basis", "objective").SetIntValue(int64(o.Side))
		}
	}
	if recommended.Len() > 0 {
		recommended.MoveAndAppendTo(gauge(sm, "gpuadvisor.recommended.side", "{pixel}"))
	}
}

// putPoint adds a point with attributes, pairs of names and values; those that are empty are left
// out.
func putPoint(points pmetric.NumberDataPointSlice, at pcommon.Timestamp, attributes ...string) pmetric.NumberDataPoint {
	p := points.AppendEmpty()
	p.SetTimestamp(at)
	for i := 0; i+1 < len(attributes); i += 2 {
		if attributes[i+1] != "" {
			p.Attributes().PutStr(attributes[i], attributes[i+1])
		}
	}
	return p
}
