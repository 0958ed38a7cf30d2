// SPDX-License-Identifier: Apache-2.0

package spans

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/internal/semconv"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/loading"
	"github.com/otelcol-gpu/otelcol-gpu/receiver/comfyuireceiver/internal/prompt"
)

// memory sets what was seen of the server's memory while the prompt ran. What was not seen is
// omitted.
func (w *traceWriter) memory(a pcommon.Map) {
	f := w.prompt.Memory
	if f == nil {
		return
	}
	put := func(key string, v *float64) {
		if v != nil {
			a.PutInt(key, int64(*v))
		}
	}
	put(semconv.MemoryActivePeak, f.ActivePeak)
	put("comfyui.memory.active.start", f.ActiveStart)
	if f.ActivePeak != nil && f.ActiveStart != nil {
		a.PutInt("comfyui.memory.active.rise", int64(max(*f.ActivePeak-*f.ActiveStart, 0)))
	}
	put(semconv.MemoryReservedPeak, f.ReservedPeak)
	put(semconv.MemoryReservedGrowth, f.ReservedGrowth)
	a.PutInt("comfyui.memory.samples", int64(f.Samples))
	a.PutDouble("comfyui.memory.gap", f.Gap.Seconds())
	if f.Executions > 0 {
		a.PutInt("comfyui.memory.need", int64(f.Need))
		a.PutInt("comfyui.memory.need.executions", int64(f.Executions))
	}
	if f.Context > 0 {
		a.PutInt(semconv.MemoryContext, int64(f.Context))
	}
}

// putDelays sets for how long models were loaded, first steps were prepared, and work that ran
// out of memory was tried again, if that is known.
func putDelays(a pcommon.Map, l loading.Loaded, firstSteps time.Duration, retried prompt.Retried) {
	if retried.Count > 0 {
		a.PutDouble("comfyui.oom_retry.duration", retried.Time.Seconds())
		a.PutInt("comfyui.oom_retry.count", int64(retried.Count))
	}
	if firstSteps > 0 {
		a.PutDouble("comfyui.first_steps.duration", firstSteps.Seconds())
	}
	if l.Time <= 0 {
		return
	}
	a.PutDouble("comfyui.loading.duration", l.Time.Seconds())
	if l.Estimated {
		a.PutBool("comfyui.loading.estimated", true)
	}
}
