// SPDX-License-Identifier: Apache-2.0

package causes

import (
	"cmp"
	"time"

	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/machine"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/texts"
	"github.com/otelcol-gpu/otelcol-gpu/connector/gpuadvisorconnector/internal/view"
)

// calm is what there is to say where nothing is wrong.
type calm struct {
	since time.Time
	// gpus counts them without MIG devices, images those of the last minute.
	gpus, images texts.Message
	// hasGPUs and hasServers are true if any are known, hasEnded if a prompt has ended lately.
	hasGPUs, hasServers, hasEnded bool
}

func (f *facts) calm() calm {
	physical := 0 // without MIG devices
	for _, g := range f.gpus {
		if g.Parent == "" {
			physical++
		}
	}
	images, ended := 0, 0
	for i := range f.prompts {
		ended += len(f.prompts[i].all)
		images += f.prompts[i].count(f.now, time.Minute, func(p *Prompt) bool { return p.Outcome == success })
	}
	return calm{
		since: f.now, gpus: count("gpus", cmp.Or(physical, len(f.gpus))), images: count("images", images),
		hasGPUs: len(f.gpus) > 0, hasServers: len(f.servers) > 0, hasEnded: ended > 0,
	}
}

// oldestWait is for how many seconds the oldest prompt of any server has waited.
func (f *facts) oldestWait() (oldest float64) {
	for _, s := range f.servers {
		wait, _ := s.Value(machine.OldestWait, "", f.now)
		oldest = max(oldest, wait)
	}
	return oldest
}

// verdict says that all is well, and how long the oldest prompt that waits has done so.
func (c *calm) verdict(oldest float64) Condition {
	v := Condition{Severity: view.Fine, Since: c.since, Text: texts.Message{Key: "well", Args: texts.Args{"gpus": c.gpus, "images": c.images, "seconds": seconds(oldest)}}}
	switch {
	case !c.hasGPUs:
		v.Text.Key = "well.starting"
	case !c.hasServers && !c.hasEnded:
		v.Text.Key = "well.no_comfyui"
	case !c.hasEnded && oldest == 0:
		v.Text.Key = "well.no_prompt"
	case oldest == 0:
		v.Text.Key = "well.no_wait"
	}
	return v
}
