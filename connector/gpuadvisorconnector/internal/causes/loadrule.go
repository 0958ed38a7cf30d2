// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
	"github.com/otelcol-gpu/otelcol-gpu/internal/advice"
)

// loadRule finds GPUs that have more to do than is well, by the advisor's levels. What does not
// work at all has causes of its own.
type loadRule struct{}

func (loadRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		load := g.Load()
		found := finding{gpu: g, args: texts.Args{"wait": duration(load.Wait.Seconds())}}
		switch load.Level {
		case advice.Busy:
		case advice.Saturated:
			if load.Shortage > 0 { // it is gpu.memory.short
				continue
			}
			found.text.Key = "cause.gpu.load.saturated"
		case advice.Critical:
			found.text.Key, found.severity = "cause.gpu.load.critical", view.Broken
		default:
			continue
		}
		report(found)
	}
}

// shortageRule finds GPUs whose memory is too little for what ran there within the last hour, by
// the advisor's models.
type shortageRule struct{}

func (shortageRule) find(f *facts, report func(finding)) {
	for _, g := range f.gpus {
		short := g.Load().Shortage
		if short <= 0 {
			continue
		}
		found := finding{gpu: g, args: texts.Args{"short": bytes(float64(short))}}
		if other, ok := f.foreign(g); ok {
			found.remedy = stopRemedy(&other)
		}
		report(found)
	}
}
