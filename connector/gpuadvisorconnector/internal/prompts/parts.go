// SPDX-License-Identifier: Apache-2.0

package prompts

import (
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// The places of the parts in [parts], by precedence.
const (
	waiting = iota
	loading
	retry
	firstSteps
	throttled
	shared
	work
	partCount
)

// partKinds are their kinds on the page.
var partKinds = [partCount]string{view.PartWaiting, view.PartLoading, view.PartRetry, view.PartFirst, view.PartThrottled, view.PartShared, view.PartWork}

// parts are the disjoint parts of a prompt's duration; their sum is the duration. Where two
// hold for the same time, it belongs to the first of them. The spans say for how long each
// held, and not when: of what is left after a part, as much as possible belongs to the next.
type parts [partCount]time.Duration

// partsOf divides the duration of a prompt whose execution has these attributes.
func partsOf(r *record, execution pcommon.Map) (p parts) {
	p[waiting] = time.Duration(r.begins - r.received)
	left := r.ran
	give := func(part int, s float64) {
		p[part] = min(time.Duration(s*float64(time.Second)), left)
		left -= p[part]
	}
	give(loading, bounded(execution, "comfyui.loading.duration"))
	give(retry, bounded(execution, "comfyui.oom_retry.duration"))
	give(firstSteps, bounded(execution, "comfyui.first_steps.duration"))
	give(throttled, bounded(execution, "gpu.throttle.time"))
	give(shared, bounded(execution, "gpu.shared.time")+bounded(execution, "gpu.shared.process.time"))
	p[work] = r.lasted() - p[waiting] - (r.ran - left) // with what came after the execution
	return p
}

// partsWithoutExecution are those of a prompt that never ran: it waited if it was in the
// queue, else the server worked on its request.
func partsWithoutExecution(lasted time.Duration, queued bool) (p parts) {
	if queued {
		p[waiting] = lasted
	} else {
		p[work] = lasted
	}
	return p
}

// bounded is a duration in seconds, 0 if it is missing, that fits into a time.Duration.
func bounded(a pcommon.Map, key string) float64 { return min(seconds(a, key, 0), 1e9) }
