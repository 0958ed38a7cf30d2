// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"maps"
	"slices"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// recently is how long users lose images, rather than have lost some: an error of that time is
// Broken, although its alert is a warning, which holds for an hour.
const recently = 5 * time.Minute

// sides are the sizes that people choose, the largest first.
var sides = []int64{4096, 3072, 2048, 1536, 1280, 1024, 768, 640, 512, 384, 256}

// outOfMemoryRule finds GPUs that were too small for prompts.
type outOfMemoryRule struct{ window time.Duration }

// failures are the prompts that failed so on one GPU, or on one server where the GPU is not
// known.
type failures struct {
	gpu, server   string
	n             int
	first, newest time.Time
	// least and largest are their sides; 0 if one of them is not known.
	least, largest int64
	hasUnknown     bool
}

func (r outOfMemoryRule) find(f *facts, report func(finding)) {
	all := map[string]*failures{}
	for i := range f.prompts {
		for j := range f.prompts[i].all {
			if p := &f.prompts[i].all[j]; p.ErrorType == outOfMemory && f.now.Sub(p.Ended) <= r.window {
				addFailure(all, p)
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		report(f.describeFailures(all[key]))
	}
}

func addFailure(all map[string]*failures, p *Prompt) {
	key, x := "server "+p.Server, failures{server: p.Server, least: p.Side, largest: p.Side, first: p.Ended, newest: p.Ended}
	if len(p.GPUs) > 0 {
		key, x.gpu, x.server = "gpu "+p.GPUs[0], p.GPUs[0], ""
	}
	known := all[key]
	if known == nil {
		known = &x
		all[key] = known
	}
	known.n++
	known.hasUnknown = known.hasUnknown || p.Side == 0
	known.least, known.largest = min(known.least, p.Side), max(known.largest, p.Side)
	if p.Ended.Before(known.first) {
		known.first = p.Ended
	}
	if p.Ended.After(known.newest) {
		known.newest = p.Ended
	}
}

func (f *facts) describeFailures(x *failures) finding {
	found := finding{server: x.server, since: x.first, args: texts.Args{
		"where": texts.Message{Key: "server.name", Args: texts.Args{"name": x.server}}, "images": count("images", x.n),
		"lately": count("last_minutes", minutes(f.now.Sub(x.first))), "side": x.largest, "least": x.least,
	}}
	if x.gpu != "" {
		found.args["where"] = texts.Verbatim(x.gpu)
		if g := f.machine.GPU(x.gpu); g != nil {
			found.gpu, found.args["where"] = g, texts.Verbatim(g.Label())
		}
	}
	if f.now.Sub(x.newest) <= recently {
		found.severity = view.Broken
	}
	if other, ok := f.foreign(found.gpu); ok {
		found.remedy = stopRemedy(&other)
	}
	if x.hasUnknown {
		found.text.Key = "cause.comfyui.out_of_memory.plain"
		return found
	}
	if x.least != x.largest {
		found.text.Key = "cause.comfyui.out_of_memory.sizes"
	}
	lower := f.lowerSide(x)
	switch {
	case lower == 0:
	case found.remedy.Key != "":
		found.remedy = texts.Message{Key: "cause.comfyui.out_of_memory.remedy.other", Args: texts.Args{"stop": found.remedy, "side": lower}}
	default:
		found.remedy = texts.Message{Key: "cause.comfyui.out_of_memory.remedy.size", Args: texts.Args{"side": lower}}
	}
	return found
}

// lowerSide is the next smaller size that people choose, or a larger one that has succeeded
// there since; 0 if there is none.
func (f *facts) lowerSide(x *failures) (lower int64) {
	for _, side := range sides {
		if side < x.least {
			lower = side
			break
		}
	}
	for i := range f.prompts {
		for j := range f.prompts[i].all {
			p := &f.prompts[i].all[j]
			there := x.gpu != "" && slices.Contains(p.GPUs, x.gpu) || x.gpu == "" && p.Server == x.server
			if there && p.Outcome == success && p.Side < x.least {
				lower = max(lower, p.Side)
			}
		}
	}
	return lower
}
